"""Successful trials as a LeRobot v3.0 dataset, to train a policy on what an expert did in a benchmark."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.expert import grasp_yaw
from twinbrain_ros.benchmarks.trial import TrialKey, TrialResult, Watch
from twinbrain_ros.data.dataset_file import ACTION, IMAGES, STATE, THING_DIMS
from twinbrain_ros.data.dataset_video import Channels, VideoWriter, feature
from twinbrain_ros.data.dataset_writer import EpisodeTable, video_file, write_tables
from twinbrain_ros.robot.actions import matrix_to_euler, tool_state
from twinbrain_ros.robot.robot_file import EE_DELTA_NAMES, STATE_NAMES

# What a suite tells of the thing that is to be moved and of where it belongs, as `DatasetFile.things` has it;
# the yaw is that at which a gripper closes on its narrow side.
THINGS = ("source", "target")
# Where the tool is told to be, as the state has it: what `config/datasets/benchmark_targets.yaml` reads.
TARGET = "action.tool_target"
# A success may be one before the gripper lets go; what the arm does so many steps later is standing around.
KEPT_AFTER_SUCCESS = 12


class RecordingError(ValueError):
    """Trials that cannot become this dataset; the message says why."""


class Recorder:
    """Writes OUT when it is closed; until then, and after a kill, there is OUT.partial alone.

    Frames as `config/datasets/benchmark.yaml` and `benchmark_targets.yaml` read them: the tool's state, what
    was commanded, as deltas on the target before and as a target, and where things are.

    Args:
        described: of the suite (`Adapter.describe`); its first camera is recorded.
    Raises:
        RecordingError: `out` is there already, or the suite does not take tool deltas on the target.
    """

    def __init__(self, out: Path, described: Mapping[str, Any]) -> None:
        if out.exists():
            raise RecordingError(f"--record {out}: is there already, expected a new directory")
        if described["action"] != {"kind": "ee_delta", "relative_to": "target"}:
            raise RecordingError(
                f"--record: the suite takes {described['action']}, expected tool deltas on the target"
            )
        self._out, self._partial = out, out.with_name(out.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._fps = round(described["control_hz"])
        self._camera, (self._height, self._width) = next(iter(described["cameras"].items()))
        self._frames: dict[TrialKey, list[tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]]] = {}
        self._episodes: list[EpisodeTable] = []

    def begin(self, key: TrialKey) -> Watch:
        """A trial begins, perhaps once more; gives what is to be told of it."""
        frames = self._frames[key] = []

        def record(observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
            if action is None:
                return
            state, turn = observation["state"], matrix_to_euler(np.asarray(action["rotation"]))
            row = np.concatenate([action["translation"], turn, [action["gripper"]]])
            now = tool_state(state["position"], state["rotation"], float(state["gripper"][0]))
            told = tool_state(
                state["target_position"] + action["translation"],
                np.asarray(action["rotation"]) @ state["target_rotation"],
                action["gripper"],
            )
            things = self._things(observation["truth"], now[5])
            numbers = {STATE: now, ACTION: row, TARGET: told, **things}
            frames.append((numbers, np.asarray(observation["images"][self._camera])))

        return record

    def _things(self, truth: Mapping[str, Any], yaw: float) -> dict[str, NDArray[Any]]:
        """Columns of a frame; none where the suite does not tell. yaw: of the tool [rad]."""
        found = {}
        for name in THINGS:
            if f"{name}_pixel" not in truth:
                return {}
            seen = truth[f"{name}_pixel"] / [self._width, self._height]
            turned, _ = grasp_yaw(truth[f"{name}_rotation"], truth[f"{name}_size"], yaw)
            found[f"things.{name}"] = np.concatenate([seen, truth[f"{name}_position"], [turned]])
        return found

    def keep(self, result: TrialResult, success: bool) -> None:
        """A trial is over: an episode if it was a success, nothing else."""
        frames = self._frames.pop(result.key, [])
        if not success or result.steps_to_success is None:
            return
        key, number = IMAGES + self._camera, len(self._episodes)
        video = VideoWriter(video_file(self._partial, key, number), self._width, self._height, self._fps)
        channels = Channels()
        for _, image in frames:
            video.add(image)
            channels.add(image)
        video.close()
        columns = {
            name: np.stack([numbers[name] for numbers, _ in frames]).astype(np.float32)
            for name in frames[0][0]
        }
        notes = {"benchmark/task": result.task, "benchmark/placement": result.placement}
        words = [result.instruction] * len(frames)
        self._episodes.append(EpisodeTable(columns, words, {key: (number, 0)}, {key: channels}, notes))

    def close(self) -> None:
        """Writes the tables. Raises RecordingError if no trial was a success."""
        if not self._episodes:
            raise RecordingError("--record: no trial was a success, so that there is nothing to write")
        columns = self._episodes[0].columns
        dims: dict[str, tuple[str, ...]] = dict.fromkeys(columns, THING_DIMS)
        dims |= {STATE: STATE_NAMES, ACTION: EE_DELTA_NAMES, TARGET: STATE_NAMES}
        features: dict[str, Any] = {
            name: {"dtype": "float32", "shape": [len(names)], "names": list(names)}
            for name, names in dims.items()
        }
        features[IMAGES + self._camera] = feature(self._width, self._height, self._fps)
        write_tables(self._partial, self._episodes, features, self._fps, "widowx")
        self._partial.rename(self._out)
