"""From a bag to episodes of a dataset: frames at the contract's rate, built as the live node builds them.

Every tick of a bag is accounted for: it is a frame, or it is counted under the reason why it is none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data import episode_info
from twinbrain_ros.data.bag import BagError, open_bag
from twinbrain_ros.data.bag_timeline import Timeline
from twinbrain_ros.data.dataset_file import ACTION, IMAGES, INTERVENTION, JOINTS, STATE, SUCCESS, written_kind
from twinbrain_ros.data.dataset_video import Channels, VideoWriter
from twinbrain_ros.data.dataset_writer import EpisodeTable, video_file
from twinbrain_ros.data.frames import NotReady
from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.data.recorded import Moment, RecordedFrames, robot_of
from twinbrain_ros.data.robot_dataset import RATE_TOLERANCE
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

SHORTEST = 2  # frames of an episode: of one, nothing can be learnt
# LeRobot looks frames up by times in float32, to 1e-4 s, which beyond 1024 s of a file it no longer finds. An
# episode that begins later than this gets a file of its own.
LONGEST_VIDEO_S = 900.0
# Beyond this a joint counts as moving [rad; of the gripper's way from 0 to 1]; what jitters does so less.
IDLE_THRESHOLD = 0.01


class ConversionError(ValueError):
    """Bags that cannot become a dataset; names the bag, what was found and what was expected."""


@dataclass(frozen=True)
class ConversionOptions:
    """actions: "commanded", or "achieved" by the end of each frame's period; only: of which bags, by their
    label: "all", "labelled" or "success"; idle_threshold: see IDLE_THRESHOLD, None keeps idle starts; robot:
    a robot file for bags that name none; namespace: of the arm's topics, None for the bag's own."""

    actions: str = "commanded"
    only: str = "all"
    idle_threshold: float | None = IDLE_THRESHOLD
    robot: str | None = None
    namespace: str | None = None


@dataclass
class Counts:
    """Ticks of a bag, one per action period from its first complete observation on, by what became of them.

    frames: written; idle: trimmed at the start of an episode; gap: no complete observation; held: nobody
    drove; silent: no instruction; uncommanded: not known where the arm was to go; short: alone between such.
    """

    frames: int = 0
    idle: int = 0
    gap: int = 0
    held: int = 0
    silent: int = 0
    uncommanded: int = 0
    short: int = 0

    @property
    def ticks(self) -> int:
        return sum(asdict(self).values())


@dataclass
class BagPart:
    """What a bag contributes. period_s: of its ticks; left_out: why it contributes nothing, "" if it does;
    problems: what could not be used of it, with how often."""

    bag: str
    period_s: float
    episodes: list[EpisodeTable] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    left_out: str = ""
    problems: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def frames_per_second(robot: RobotFile) -> int:
    """LeRobot's rate of a robot file's period; raises ConversionError if it is no whole number."""
    rate = 1.0 / robot.action.period_s
    if abs(rate - round(rate)) > RATE_TOLERANCE * rate or round(rate) < 1:
        raise ConversionError(
            f"{robot.path}: action.period_s is {robot.action.period_s}: found {rate:.3f} frames per second, "
            "LeRobot expects a whole number"
        )
    return round(rate)


class _Converter:
    """One bag on its way into a dataset."""

    def __init__(self, path: Path, number: int, bags: int, root: Path, options: ConversionOptions) -> None:
        self.bag = open_bag(path)
        self.robot = robot_of(self.bag, options.robot)
        self.kinematics = Kinematics(self.robot)
        self.frames = RecordedFrames(self.bag, self.robot, self.kinematics, options.namespace)
        self.number, self.bags, self.root, self.options = number, bags, root, options
        self.fps = frames_per_second(self.robot)
        self.period_ns = round(self.robot.action.period_s * NS_PER_S)
        self.part = BagPart(path.name, self.robot.action.period_s)
        self.videos: dict[str, VideoWriter] = {}
        self.rows: list[tuple[Moment, NDArray[np.float64], bool]] = []
        self.images: dict[str, Channels] = {}
        self.idle_until_ns: int | None = None
        self.written = self.trimmed = 0

    def run(self) -> BagPart:
        part, label = self.part, self.bag.episode.label
        outcome = label.outcome if label else ""
        part.notes = {
            "label": outcome,
            "label_source": label.source if label else "",
            "policy": self.bag.episode.policy,
            "task": self.bag.episode.task,
            "seed": self.bag.episode.seed,
            "cut_off": self.bag.truncated,
        }
        done = outcome == episode_info.SUCCESS
        if not {"all": True, "labelled": bool(outcome), "success": done}[self.options.only]:
            part.left_out = f"label is {outcome or 'missing'}"
            return part
        self.success = {"": -1.0, episode_info.SUCCESS: 1.0}.get(outcome, 0.0)
        self.timeline = Timeline(self.frames)
        self.driven = self.frames.topic(self.robot.topics.control_mode) in self.bag.topics
        if not self.driven:
            self.frames.problems.add(
                "mode", "no control_mode in the bag: taken as driven by a person throughout"
            )
        if self.options.actions == "commanded" and not self.timeline.commanded:
            topic = self.frames.topic(self.robot.topics.arm_trajectory)
            part.left_out = f"no commands on {topic}; --actions achieved goes by the measured motion"
            return part
        self._ticks()
        self._close()
        part.problems = self.frames.problems.sentences()
        return part

    def _ticks(self) -> None:
        try:
            for _, moment in self.frames.ticks(self.robot.action.period_s):
                self._tick(moment)
        except BagError as error:  # what came before it is whole
            self.frames.problems.add("damaged", str(error))
        self._end()

    def _tick(self, moment: Moment | NotReady) -> None:
        counts, action = self.part.counts, None
        if isinstance(moment, NotReady):
            counts.gap += 1
        else:
            start_ns = moment.observation.stamp_ns
            end_ns = start_ns + self.period_ns
            action = self._action(end_ns)
            if self.driven and self.timeline.held_between(start_ns, end_ns):
                counts.held += 1
            elif not moment.instruction:
                counts.silent += 1
            elif action is None:
                counts.uncommanded += 1
            elif self._idle(start_ns, end_ns):
                counts.idle += 1
                self.trimmed += 1
                return
            else:
                self._add(moment, action)
                return
        self._end()

    def _idle(self, start_ns: int, end_ns: int) -> bool:
        """Whether the arm has not begun to move since this episode could have begun."""
        if self.options.idle_threshold is None or self.rows:
            return False
        if self.idle_until_ns is None:
            self.idle_until_ns = self.timeline.first_motion_ns(start_ns, self.options.idle_threshold)
        return end_ns <= self.idle_until_ns

    def _action(self, end_ns: int) -> NDArray[np.float64] | None:
        """Where the arm was to be at the end of a frame's period, as the dataset has it."""
        if self.options.actions == "commanded":
            joints = self.timeline.command(end_ns)
        else:
            joints = self.timeline.measured(end_ns, self.period_ns // 2)
        if joints is None or written_kind(self.robot) == "joint_target":
            return joints
        position, rotation = self.kinematics.forward(joints[:-1])
        return tool_state(position, rotation, float(joints[-1]))

    def _add(self, moment: Moment, action: NDArray[np.float64]) -> None:
        corrected = self.driven and self.timeline.corrected(moment.observation.stamp_ns)
        self.rows.append((moment, action, corrected))
        if len(self.rows) == SHORTEST and self.written > LONGEST_VIDEO_S * self.fps:
            self._close()
            self.number += self.bags  # no other bag has this number
            self.written = 0
        # An episode that is too short leaves nothing in the videos: its first frames wait.
        if len(self.rows) >= SHORTEST:
            for row in self.rows if len(self.rows) == SHORTEST else self.rows[-1:]:
                self._film(row[0])

    def _close(self) -> None:
        for writer in self.videos.values():
            writer.close()
        self.videos = {}

    def _film(self, moment: Moment) -> None:
        for name, image in moment.observation.images.items():
            key = IMAGES + name
            if key not in self.videos:
                height, width = image.shape[:2]
                path = video_file(self.root, key, self.number)
                self.videos[key] = VideoWriter(path, width, height, self.fps)
            self.videos[key].add(image)
            self.images.setdefault(key, Channels()).add(image)
        moment.observation.images.clear()  # memory is bounded

    def _end(self) -> None:
        """The episode ends here, if one has begun."""
        rows, counts = self.rows, self.part.counts
        trimmed, self.trimmed, self.idle_until_ns, self.rows = self.trimmed, 0, None, []
        if len(rows) < SHORTEST:
            counts.short += len(rows)
            return
        seen = [row[0].observation for row in rows]
        columns = {
            STATE: np.array([o.state for o in seen], np.float32),
            JOINTS: np.array([[*o.arm_positions, o.gripper_opening] for o in seen], np.float32),
            ACTION: np.array([row[1] for row in rows], np.float32),
            INTERVENTION: np.array([row[2] for row in rows], bool),
            SUCCESS: np.full(len(rows), self.success, np.float32),
        }
        first = self.written
        self.written += len(rows)
        counts.frames += len(rows)
        notes = {"bag": self.part.bag, "success": self.success, "trimmed_frames": trimmed}
        notes["interventions"] = int(columns[INTERVENTION].sum())
        self.part.episodes.append(
            EpisodeTable(
                columns,
                [row[0].instruction for row in rows],
                {key: (self.number, first) for key in self.videos},
                self.images,
                notes,
            )
        )
        self.images = {}


def convert_bag(path: Path, number: int, bags: int, root: Path, options: ConversionOptions) -> BagPart:
    """Writes a bag's videos and gives its tables; number: of the bag among `bags`; it names its videos."""
    return _Converter(path, number, bags, root, options).run()
