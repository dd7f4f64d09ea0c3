"""Successful trials as a LeRobot v3.0 dataset, to train a policy on what an expert did in a benchmark."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.trial import TrialKey, TrialResult, Watch
from twinbrain_ros.data.dataset_video import Channels, VideoWriter, feature
from twinbrain_ros.data.dataset_writer import EpisodeTable, video_file, write_tables
from twinbrain_ros.robot.actions import matrix_to_euler, tool_state

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
STATE_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
ACTION_NAMES = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
# A trial goes on to its limit; what the arm does after this many steps of success is standing around.
KEPT_AFTER_SUCCESS = 5


class RecordingError(ValueError):
    """Trials that cannot become this dataset; the message says why."""


class Recorder:
    """Writes OUT when it is closed; until then, and after a kill, there is OUT.partial alone.

    Frames as `config/datasets/benchmark.yaml` reads them: the tool's state, and tool deltas on the target as
    they were commanded.

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
        self._frames: dict[TrialKey, list[tuple[NDArray[Any], NDArray[Any], NDArray[np.uint8]]]] = {}
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
            frames.append((now, row, np.asarray(observation["images"][self._camera])))

        return record

    def keep(self, result: TrialResult, success: bool) -> None:
        """A trial is over: an episode if it was a success, nothing else."""
        frames = self._frames.pop(result.key, [])
        if not success or result.steps_to_success is None:
            return
        frames = frames[: result.steps_to_success + KEPT_AFTER_SUCCESS]
        key, number = IMAGES + self._camera, len(self._episodes)
        video = VideoWriter(video_file(self._partial, key, number), self._width, self._height, self._fps)
        channels = Channels()
        for _, _, image in frames:
            video.add(image)
            channels.add(image)
        video.close()
        columns = {
            STATE: np.stack([state for state, _, _ in frames]).astype(np.float32),
            ACTION: np.stack([action for _, action, _ in frames]).astype(np.float32),
        }
        notes = {"benchmark/task": result.task, "benchmark/placement": result.placement}
        words = [result.instruction] * len(frames)
        self._episodes.append(EpisodeTable(columns, words, {key: (number, 0)}, {key: channels}, notes))

    def close(self) -> None:
        """Writes the tables. Raises RecordingError if no trial was a success."""
        if not self._episodes:
            raise RecordingError("--record: no trial was a success, so that there is nothing to write")
        features = {
            STATE: {"dtype": "float32", "shape": [7], "names": STATE_NAMES},
            ACTION: {"dtype": "float32", "shape": [7], "names": ACTION_NAMES},
            IMAGES + self._camera: feature(self._width, self._height, self._fps),
        }
        write_tables(self._partial, self._episodes, features, self._fps, "widowx")
        self._partial.rename(self._out)
