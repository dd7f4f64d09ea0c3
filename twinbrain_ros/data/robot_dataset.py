"""A LeRobot dataset seen through a robot file: checked before use, then frames, states and chunks by row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twinbrain_ros.data.chunk_labels import ChunkLabels, tool_states
from twinbrain_ros.data.dataset_file import THING_DIMS, DatasetFile, check_fits
from twinbrain_ros.data.dataset_findings import DatasetError, Findings
from twinbrain_ros.data.lerobot_frames import BadFrame, FrameReader, Image, VideoSpan, video_span
from twinbrain_ros.data.lerobot_reader import LeRobotDataset, open_dataset, read_info
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFile

_log = logging.getLogger(__name__)
# Rates are whole numbers in many info.json, periods are rounded in robot files.
RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class DatasetChoice:
    """Which dataset, and what of it.

    held_out_episodes: the last ones, kept apart; only_successes: leave out episodes labelled as failures;
    skip_broken: leave out episodes with missing or short files instead of refusing the dataset; other_robot:
    it may be of another robot than the one trained for; before_takeover_s: leave out frames so shortly before
    a person took over, in which the policy did what had to be corrected (Sirius, arXiv 2211.08416).
    """

    root: Path
    file: DatasetFile
    held_out_episodes: int = 0
    only_successes: bool = False
    skip_broken: bool = False
    other_robot: bool = False
    before_takeover_s: float = 0.0


class RobotDataset:
    """An opened dataset. Everything is checked by then but the pictures themselves.

    Raises:
        DatasetError: what does not fit, naming file, episode and field, what was found and what was expected.
    """

    def __init__(self, choice: DatasetChoice, robot: RobotFile, cameras: Sequence[str]) -> None:
        file, root = choice.file, choice.root
        # Not the robot file itself: it cannot be pickled, and this is handed to worker processes.
        self.name, self.root, self.file, self.action = root.name, root, file, robot.action
        self.cameras = tuple(cameras)
        check_fits(file, robot, choice.other_robot)
        missing = [name for name in cameras if name not in file.cameras]
        if missing:
            raise DatasetError(
                f"{file.source}, dataset {self.name}: no camera {missing}, expected all of {list(cameras)} "
                f"that the policy sees; it has {sorted(file.cameras)}"
            )
        info = read_info(root)
        self.stride = _stride(file, robot, info.fps, root)
        self.findings = Findings(root, choice.skip_broken)
        keys, features = file.feature_keys(), [file.cameras[name] for name in cameras]
        self.tables: LeRobotDataset = open_dataset(root, keys, features, self.findings)
        self._tolerance_s = 0.5 / info.fps
        self._check_dims()
        self._spans: dict[Path, VideoSpan] = {}
        self._check_videos()
        self.findings.check()
        self._check_episodes(choice.only_successes)
        self._select(choice.held_out_episodes)
        self._label(robot, choice.before_takeover_s)
        self._reader = FrameReader()

    # -- checks

    def _check_dims(self) -> None:
        file, info = self.file, self.tables.info
        wanted = [(file.state_key, len(file.state.dims)), (file.action.key, len(file.action.dims))]
        wanted += [(file.joints.key, len(file.joints.dims))] if file.joints else []
        wanted += [(key, 1) for key in (file.intervention, file.success) if key is not None]
        wanted += [(key, len(THING_DIMS)) for key in file.things]
        for key, dims in wanted:
            if info.dims(key) != dims:
                raise DatasetError(
                    f"{info.root}/meta/info.json: feature {key!r} has {info.dims(key)} numbers "
                    f"({info.features[key].get('names')}), expected {dims} as in {file.source}"
                )

    def _check_videos(self) -> None:
        """Every episode's frames must lie within its files, as far as their headers tell."""
        tables, stamps = self.tables, self.tables.columns["timestamp"]
        bad: dict[Path, str] = {}
        for name in self.cameras:
            key = self.file.cameras[name]
            if tables.info.features[key]["dtype"] != "video":
                continue
            for position, episode in enumerate(tables.episodes):
                path, start = tables.video_file(position, key)
                reason = self._span_fault(path, bad)
                if not reason:
                    last_row = int(tables.starts[position] + tables.lengths[position]) - 1
                    span, needed = self._spans[path], start + float(stamps[last_row])
                    if round(needed * span.rate_hz) + 1 > span.frames:
                        found = f"{span.frames} frames at {span.rate_hz:g} Hz"
                        reason = (
                            f"{path}: {found}, expected one at {needed:.3f} s, the last of episode {episode}"
                        )
                if reason:
                    self.findings.broken("video missing or short", int(episode), reason)

    def _span_fault(self, path: Path, bad: dict[Path, str]) -> str:
        if path not in self._spans and path not in bad:
            if not path.is_file():
                bad[path] = f"{path}: no such file, expected a video"
            else:
                try:
                    self._spans[path] = video_span(path)
                except BadFrame as error:
                    bad[path] = str(error)
        return bad.get(path, "")

    def _check_episodes(self, only_successes: bool) -> None:
        """What leaves an episode out: always with its name and a count."""
        tables, file = self.tables, self.file
        good = {}
        joints = (file.joints.key,) if file.joints else ()
        for key in (file.state_key, file.action.key, *joints):
            good[key] = np.isfinite(tables.columns[key]).all(axis=1)
        tasks = tables.columns["task_index"]
        unknown = sorted(set(np.unique(tasks).tolist()) - set(tables.tasks))
        if unknown:
            raise DatasetError(
                f"{tables.info.root}: task_index {unknown[:5]} in the data, expected one of meta/tasks"
            )
        empty = [index for index, words in tables.tasks.items() if not words.strip()]
        for position, episode in enumerate(tables.episodes.tolist()):
            rows = slice(
                int(tables.starts[position]), int(tables.starts[position] + tables.lengths[position])
            )
            for key, finite in good.items():
                if not finite[rows].all():
                    frame = int(np.argmin(finite[rows]))
                    values = tables.columns[key][rows][frame].tolist()
                    found = f"{tables.data_file(position)}: {key} of frame {frame} is {values}"
                    sentence = f"{found}, expected finite numbers"
                    self.findings.skip("numbers not finite", episode, sentence)
            if tables.lengths[position] < 1 + self.stride:
                sentence = f"{tables.lengths[position]} frames, expected at least {1 + self.stride}"
                self.findings.skip("too short", episode, sentence)
            if empty and np.isin(tasks[rows], empty).any():
                sentence = f"task {int(tasks[rows][0])} has no words in meta/tasks"
                self.findings.skip("no instruction", episode, sentence)
            if only_successes and file.success is not None and tables.columns[file.success][rows][-1, 0] == 0:
                self.findings.skip("labelled as failures", episode, f"{file.success} is 0")

    # -- what is used

    def _select(self, held_out: int) -> None:
        tables = self.tables
        left_out = self.findings.episodes()
        kept = [i for i, episode in enumerate(tables.episodes.tolist()) if episode not in left_out]
        if not 0 <= held_out < max(len(kept), 1):
            raise DatasetError(
                f"{self.root}: held_out_episodes is {held_out}, expected fewer than the {len(kept)} episodes"
            )
        if not kept:
            raise DatasetError(f"{self.root}: no episode is left: {'; '.join(self.findings.lines())}")
        split = len(kept) - held_out
        self.train_episodes, self.held_out_episodes = kept[:split], kept[split:]

    def _label(self, robot: RobotFile, before_takeover_s: float) -> None:
        tables, file = self.tables, self.file
        self.episode_of = tables.episode_rows()
        first = tables.starts[self.episode_of]
        last = first + tables.lengths[self.episode_of] - 1
        raw_state = tables.columns[file.state_key].astype(np.float32, copy=False)
        raw_action = tables.columns[file.action.key].astype(np.float32, copy=False)
        tool = tool_states(raw_state, file.state)
        self.labels = ChunkLabels(file, robot, tool, raw_state, raw_action, first, last, self.stride)
        self._know_states(robot, tool)
        usable = self.labels.usable()
        corrected = usable & self._before_takeovers(round(before_takeover_s * tables.info.fps))
        usable &= ~corrected
        member = np.zeros(len(tables.episodes), dtype=bool)
        member[self.train_episodes] = True
        self.train_rows = np.flatnonzero(usable & member[self.episode_of])
        self.corrected = int((corrected & member[self.episode_of]).sum())
        member[:] = False
        member[self.held_out_episodes] = True
        self.held_out_rows = np.flatnonzero(usable & member[self.episode_of])

    def _know_states(self, robot: RobotFile, tool: np.ndarray) -> None:
        """states: [rows, S] of all frames, what is known of `state_names`: the tool's seven, then joints."""
        self.states, self.state_names = tool, STATE_NAMES
        joints = self.file.joints
        if joints is None:
            return
        names = tuple(name for name in robot.arm_joints if name in joints.dims)
        columns = [joints.dims.index(name) for name in names]
        values = self.tables.columns[joints.key][:, columns].astype(np.float32)
        self.states, self.state_names = np.hstack([tool, values]), (*STATE_NAMES, *names)

    def _before_takeovers(self, count: int) -> np.ndarray:
        """bool [rows]: among the last so many frames of an episode before a person takes over in it."""
        taken = self.interventions(np.arange(len(self.episode_of)))
        begins = taken & ~np.roll(taken, 1) & (self.episode_of == np.roll(self.episode_of, 1))
        found = np.zeros_like(taken)
        for row in np.flatnonzero(begins):
            start = max(row - count, int(self.tables.starts[self.episode_of[row]]))
            found[start:row] = ~taken[start:row]
        return found

    def rows(self, held_out: bool) -> np.ndarray:
        """Rows of the frames that may be drawn."""
        return self.held_out_rows if held_out else self.train_rows

    def interventions(self, rows: np.ndarray) -> np.ndarray:
        """bool [B]: whether a person had taken over."""
        if self.file.intervention is None:
            return np.zeros(len(rows), dtype=bool)
        return self.tables.columns[self.file.intervention][rows, 0].astype(bool)

    def things(self, rows: np.ndarray) -> np.ndarray:
        """[B, things, 6]: where what the instruction names is, as of `DatasetFile.things`."""
        return np.stack([self.tables.columns[key][rows] for key in self.file.things], axis=1)

    def instruction(self, row: int) -> str:
        return self.tables.tasks[int(self.tables.columns["task_index"][row])].strip()

    def place(self, row: int) -> tuple[int, int]:
        """Episode index and frame within the episode."""
        position = self.episode_of[row]
        return int(self.tables.episodes[position]), int(row - self.tables.starts[position])

    def sizes(self, camera: str) -> set[tuple[int, int]]:
        """Heights and widths of a camera's images [pixels], from the videos' headers or from info.json."""
        tables, key = self.tables, self.file.cameras[camera]
        feature = tables.info.features[key]
        if feature["dtype"] == "video":
            return {(self._spans[p].height, self._spans[p].width) for p in self.video_files(camera)}
        shape = [int(v) for v in feature["shape"]]
        return {(shape[1], shape[2]) if shape[0] in (1, 3) else (shape[0], shape[1])}

    def video_files(self, camera: str) -> list[Path]:
        """The videos that a camera's images are in; none where tables hold them."""
        tables, key = self.tables, self.file.cameras[camera]
        if tables.info.features[key]["dtype"] != "video":
            return []
        return sorted({tables.video_file(i, key)[0] for i in (*self.train_episodes, *self.held_out_episodes)})

    def image(self, camera: str, row: int) -> Image:
        """The image [H, W, 3] uint8 RGB of a frame. Raises BadFrame naming episode, frame and file."""
        key = self.file.cameras[camera]
        position, tables = int(self.episode_of[row]), self.tables
        try:
            if tables.info.features[key]["dtype"] == "video":
                path, start = tables.video_file(position, key)
                seconds = start + float(tables.columns["timestamp"][row])
                return self._reader.from_video(path, seconds, self._tolerance_s)
            at = int(tables.data_rows[position] + row - tables.starts[position])
            return self._reader.from_table(tables.data_file(position), key, at, self.root)
        except BadFrame as error:
            episode, frame = self.place(row)
            raise BadFrame(f"{self.name}: episode {episode}, frame {frame}, {key}: {error}") from error

    def report(self) -> list[str]:
        """What was opened and what was left out, line by line."""
        info = self.tables.info
        step = f", {self.stride} frames per step" if self.stride > 1 else ""
        if self.file.rate == "native":
            step = f", a frame per step though the robot's period is {self.action.period_s:g} s"
        line = (
            f"{self.name}: LeRobot {info.version}, {len(self.train_episodes)} episodes with "
            f"{len(self.train_rows)} frames at {info.fps:g} Hz{step}"
        )
        if self.held_out_episodes:
            line += f"; {len(self.held_out_episodes)} episodes held out"
        lines = [line, *(f"{self.name}: {text}" for text in self.findings.lines())]
        if self.corrected:
            lines.append(f"{self.name}: {self.corrected} frames left out, shortly before a person took over")
        return lines


def _stride(file: DatasetFile, robot: RobotFile, fps: float, root: Path) -> int:
    """How many frames make a step. Raises DatasetError naming both rates."""
    if file.fps is not None and abs(fps - file.fps) > RATE_TOLERANCE * file.fps:
        raise DatasetError(
            f"{root}/meta/info.json: fps is {fps:g}, expected {file.fps:g} as in {file.source}"
        )
    if file.rate == "native":
        return 1
    exact = fps * robot.action.period_s
    stride = round(exact)
    if stride < 1 or abs(exact - stride) > RATE_TOLERANCE * stride:
        raise DatasetError(
            f"{root}/meta/info.json: fps is {fps:g}, expected a multiple of {1 / robot.action.period_s:g} "
            f"Hz: the action.period_s of {robot.path} is {robot.action.period_s:g} s"
        )
    return stride
