"""Batches from LeRobot datasets, each drawn by its weight."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from twinbrain_ros.brain.config import PAD_STATE, CameraInput, Normalizer
from twinbrain_ros.brain.engine import View, scale, view_of
from twinbrain_ros.brain.preprocess import PatchLayout
from twinbrain_ros.data.dataset_file import THING_DIMS, load_dataset_file, recorded
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.lerobot_frames import BadFrame, Image
from twinbrain_ros.data.robot_dataset import DatasetChoice, RobotDataset
from twinbrain_ros.data.seen_frames import SeenFrames, open_seen
from twinbrain_ros.data.statistics import METHODS, dataset_statistics
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFile, load_robot
from twinbrain_ros.training.batch import WHOLE, Grounding, PolicyBatch, Share
from twinbrain_ros.training.dataset import aims, cells_and_offsets
from twinbrain_ros.training.mixture_units import MixtureUnits, check_robots

_log = logging.getLogger(__name__)

# A frame that cannot be decoded is replaced by another. More than this share of what a process has drawn is a
# broken dataset, not a broken frame; so many are allowed in any case, or the first one would always be too
# much.
BAD_FRAME_SHARE = 0.01
BAD_FRAMES_ALLOWED = 8
_TRIES = 20
Look = Callable[[int, CameraInput, int], Image]  # an image of a dataset, by its number, camera and row
NAMED_THINGS = 2  # of which a batch tells: what is to be moved, and where to


@dataclass(frozen=True)
class MixtureEntry:
    """A dataset and how often it is drawn from, against the weights of the others, whatever its size.

    path: its directory; mapping: a dataset file or the name of a shipped one, "" for a dataset that
    `twinbrain convert` wrote; robot: a robot file or the name of a shipped one, whose actions, units and rate
    these are, "" for the one that is trained for; skip_broken, other_robot: see `DatasetChoice`.
    """

    path: str
    weight: float = 1.0
    mapping: str = ""
    robot: str = ""
    skip_broken: bool = False
    other_robot: bool = False


@dataclass(frozen=True)
class MixtureOptions:
    """intervention_weight: how much frames count in which a person had taken over; before_takeover_s: leave
    out those so shortly before it; only_successes: leave out episodes labelled as failures;
    held_out_episodes: the last ones of each dataset, never trained on; normalization: mean_std, q99 or
    min_max; binary_gripper: with the latter two the gripper is 0 or 1; keep_seen: frames at the size that the
    brains see are kept beside each dataset, so that they are decoded once (`data/seen_frames.py`)."""

    intervention_weight: float = 1.0
    before_takeover_s: float = 0.0
    only_successes: bool = False
    held_out_episodes: int = 0
    normalization: str = "q99"
    binary_gripper: bool = True
    keep_seen: bool = False

    def __post_init__(self) -> None:
        if self.normalization not in METHODS:
            raise DatasetError(
                f"normalization: found {self.normalization!r}, expected one of {list(METHODS)}"
            )
        for name in ("intervention_weight", "before_takeover_s"):
            if not getattr(self, name) >= 0:
                raise DatasetError(f"{name}: found {getattr(self, name)}, expected 0 or more")


@dataclass
class Draws:
    """What one process has drawn so far, and what of it could not be decoded."""

    drawn: int = 0
    bad: int = 0
    known_bad: set[tuple[int, int]] = field(default_factory=set)


class MixtureSource:
    """A `training.batch.Source`. Files are opened when they are first read, in each process for itself.

    Args:
        entries: at least one dataset of the robot.
        robot: everything is brought into its action space, but for entries that name a robot of their own.
        cameras: those that the policy sees, and the sizes it sees them at; 0: as they are.
        horizon: steps of a chunk.
        options: what is drawn and how it is normalised.
        state_names: of the policy's state, () for none; it may hold `PAD_STATE`, always 0. None: the robot's.
        layout, pixel_limits: of the policy; with them images are brought to sizes that fit the vision tower,
            as the live policy does it.

    Raises:
        DatasetError: what cannot be trained on, before the first step.
    """

    def __init__(
        self,
        entries: Sequence[MixtureEntry],
        robot: RobotFile,
        cameras: Sequence[CameraInput],
        horizon: int,
        options: MixtureOptions | None = None,
        state_names: Sequence[str] | None = None,
        layout: PatchLayout | None = None,
        pixel_limits: tuple[int, int] | None = None,
    ) -> None:
        self.options = options or MixtureOptions()
        self.cameras, self.horizon = tuple(cameras), horizon
        self._action_names = robot.action.names
        self.state_names = robot.observation.state_names if state_names is None else tuple(state_names)
        self._layout, self._limits = layout, pixel_limits
        shares = np.array([entry.weight for entry in entries], dtype=np.float64)
        if not len(entries) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
            raise DatasetError(
                f"datasets: weights are {shares.tolist()}, expected numbers of 0 or more, not all 0"
            )
        self.weights = shares / shares.sum()
        others = {entry.robot: load_robot(entry.robot) for entry in entries if entry.robot}
        robots = [others.get(entry.robot, robot) for entry in entries]
        check_robots([robot, *others.values()], horizon)
        # Not the robot files themselves: they cannot be pickled, and this is handed to worker processes.
        self.robot, self._robot_of = robot.name, [known.name for known in robots]
        self.actions = {known.name: known.action for known in (robot, *robots)}
        if robot.name not in self._robot_of:
            raise DatasetError(
                f"datasets: found those of {sorted(set(self._robot_of))}, expected one of {robot.name!r}, "
                "which is trained for"
            )
        for name in dict.fromkeys(self._robot_of):
            if not self.weights[[known == name for known in self._robot_of]].any():
                raise DatasetError(f"datasets: weights of {name!r} are all 0, expected one above 0")
        self.datasets = [self._open(entry, own) for entry, own in zip(entries, robots, strict=True)]
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) != len(names):
            raise DatasetError(f"datasets: directories are called {names}, expected different names")
        self._check_sizes()
        self._kept = self._open_kept() if self.options.keep_seen else {}
        self._statistics = [dataset_statistics(dataset, horizon) for dataset in self.datasets]
        self._held_out = False
        self.draws = Draws()

    def _open(self, entry: MixtureEntry, robot: RobotFile) -> RobotDataset:
        root = Path(entry.path).expanduser()
        if not root.is_dir():
            raise DatasetError(f"{root}: no such directory, expected a LeRobot dataset")
        file = load_dataset_file(entry.mapping) if entry.mapping else recorded(root, robot)
        choice = DatasetChoice(
            root.resolve(),
            file,
            self.options.held_out_episodes,
            self.options.only_successes,
            entry.skip_broken,
            entry.other_robot,
            self.options.before_takeover_s,
        )
        dataset = RobotDataset(choice, robot, [camera.name for camera in self.cameras])
        known = {*robot.observation.state_names, PAD_STATE} & {*dataset.state_names, PAD_STATE}
        lacking = [name for name in self.state_names if name not in known]
        if lacking:
            raise DatasetError(
                f"{root}: state {lacking}: the policy's is {list(self.state_names)}, expected some of "
                f"{sorted(known)}, which dataset and robot file {robot.name!r} have"
            )
        return dataset

    def _check_sizes(self) -> None:
        """Images of a batch must come to the same size, and one that the vision tower takes."""
        for camera in self.cameras:
            found: dict[tuple[int, int], str] = {}
            for dataset in self.datasets:
                for height, width in sorted(dataset.sizes(camera.name)):
                    try:
                        size = self._view(camera, height, width).steps[-1]
                    except ValueError as error:
                        raise DatasetError(f"{dataset.root}: camera {camera.name}: {error}") from error
                    found.setdefault(size, f"{dataset.name} {width}x{height}")
            if len(found) > 1:
                raise DatasetError(
                    f"camera {camera.name}: images of different sizes: {', '.join(found.values())} pixels, "
                    "expected one size; or name the size that the policy sees"
                )

    def _open_kept(self) -> dict[tuple[int, str], SeenFrames]:
        """By dataset and camera, where all its images come to be seen in the same way."""
        found = {}
        for number, dataset in enumerate(self.datasets):
            for camera in self.cameras:
                sizes = dataset.sizes(camera.name)
                if len(sizes) == 1:
                    view = self._view(camera, *next(iter(sizes)))
                    told = (*view.steps, view.crop)
                    found[number, camera.name] = open_seen(dataset, camera.name, told, view.steps[-1])
        return found

    def _view(self, camera: CameraInput, height: int, width: int) -> View:
        if self._layout is not None:
            return view_of(camera, height, width, self._layout, self._limits)
        return View(camera.name, ((camera.height or height, camera.width or width),))

    @property
    def units(self) -> MixtureUnits:
        """Its statistics, robot by robot."""
        return MixtureUnits(self.datasets, self.weights, self._robot_of, self._statistics, self.state_names)

    def statistics(self, robot: str | None = None) -> tuple[Normalizer, Normalizer]:
        """Of a robot's actions and states, in its units; None: of the one that is trained for."""
        name = robot or self.robot
        return self.units.normalizers(name, self.options.normalization, self.options.binary_gripper)

    # -- batches

    @property
    def knows_things(self) -> bool:
        """Whether it tells where named things are: every dataset must, and the view have a fixed size."""
        counts = {len(dataset.file.things) for dataset in self.datasets}
        sized = self._layout is not None and self._limits is None and self.cameras[0].width > 0
        return sized and counts == {NAMED_THINGS}

    def held_out(self) -> MixtureSource | None:
        """The same, drawn from the episodes that were held out; None where there are none."""
        if not self.options.held_out_episodes:
            return None
        other = copy.copy(self)
        other._held_out, other.draws = True, Draws()
        return other

    def report(self) -> list[str]:
        """What was opened, with what share, and what was left out, line by line."""
        lines = []
        for share, dataset in zip(self.weights, self.datasets, strict=True):
            first, *rest = dataset.report()
            lines += [f"{first}; drawn with probability {share:.3g}", *rest]
        return lines

    def looks(self, count: int) -> tuple[dict[str, list[Image]], np.ndarray]:
        """So many frames of the robot that is trained for, as they are drawn: their images as recorded
        [H, W, 3] by camera, and the tool's states [N, 7]."""
        rng = np.random.default_rng(count)
        weights = self.weights
        if len(self.actions) > 1:
            weights = weights * [name == self.robot for name in self._robot_of]
            weights = weights / weights.sum()
        which = rng.choice(len(self.datasets), count, p=weights)
        rows = np.array([self._row(i, rng.random()) for i in which], dtype=np.int64)
        self.draws.drawn += count
        frames = self._images(which, rows, [count], self._recorded)
        tool = slice(len(STATE_NAMES))
        states = np.stack([self.datasets[i].states[row, tool] for i, row in zip(which, rows, strict=True)])
        return {c.name: [images[c.name] for images in frames] for c in self.cameras}, states

    def batch(self, seed: int, step: int, size: int, share: Share = WHOLE) -> PolicyBatch:
        """The `size` samples of a share of a step's global batch.

        Raises DatasetError once too many frames could not be decoded.
        """
        rng = np.random.default_rng([seed, step, 0])
        mine = share.of(size)
        which = rng.choice(len(self.datasets), size * share.count, p=self.weights)[mine]
        spots = rng.random(size * share.count)[mine]
        rows = np.array([self._row(i, spot) for i, spot in zip(which, spots, strict=True)], dtype=np.int64)
        self.draws.drawn += size
        images = self._images(which, rows, [seed, step, 0], self._seen, mine.start)
        return self._gathered(which, rows, images)

    def _row(self, which: int, spot: float) -> int:
        rows = self.datasets[which].rows(self._held_out)
        return int(rows[min(int(spot * len(rows)), len(rows) - 1)])

    def _images(
        self, which: np.ndarray, rows: np.ndarray, seeds: list[int], look: Look, first: int = 0
    ) -> list[dict[str, Image]]:
        """Per sample, its images as `look` has them. `rows` is changed where a frame had to be replaced, by
        one that follows from `seeds` and the sample's number in the global batch, `first` and on."""
        images: list[dict[str, Image]] = [{} for _ in rows]
        # Frames of a file one after the other, in the order in which they are in it.
        for sample in np.lexsort((rows, which)):
            rng = np.random.default_rng([*seeds, first + int(sample)])
            for _ in range(_TRIES):
                found = self._look(int(which[sample]), int(rows[sample]), look)
                if found is not None:
                    images[sample] = found
                    break
                rows[sample] = self._row(int(which[sample]), rng.random())
            else:
                raise DatasetError(
                    f"{self.datasets[which[sample]].root}: {_TRIES} frames in a row cannot be decoded"
                )
        return images

    def _look(self, which: int, row: int, look: Look) -> dict[str, Image] | None:
        """The images of a frame; None, and counted, where one cannot be decoded."""
        if (which, row) not in self.draws.known_bad:
            try:
                return {camera.name: look(which, camera, row) for camera in self.cameras}
            except BadFrame as error:
                self.draws.known_bad.add((which, row))
                _log.warning("another frame is taken in place of one that cannot be decoded: %s", error)
                last = str(error)
        else:
            last = "one that could not be decoded before"
        self.draws.bad += 1
        if self.draws.bad > max(BAD_FRAMES_ALLOWED, BAD_FRAME_SHARE * self.draws.drawn):
            raise DatasetError(
                f"{self.datasets[which].root}: {self.draws.bad} of {self.draws.drawn} frames could not be "
                f"decoded, expected at most {BAD_FRAME_SHARE:.0%}; the last: {last}"
            )
        return None

    def _gathered(self, which: np.ndarray, rows: np.ndarray, images: list[dict[str, Image]]) -> PolicyBatch:
        size, dims = len(rows), len(self._action_names)
        states = np.zeros((size, len(self.state_names)), dtype=np.float32)
        tools = np.zeros((size, len(STATE_NAMES)), dtype=np.float32)
        actions = np.zeros((size, self.horizon, dims), dtype=np.float32)
        known = np.zeros((size, self.horizon), dtype=bool)
        weights = np.ones(size, dtype=np.float32)
        things = np.zeros((size, NAMED_THINGS, len(THING_DIMS)), dtype=np.float32)
        for number in np.unique(which):
            mine, dataset = which == number, self.datasets[number]
            known_states = dataset.states[rows[mine]]
            tools[mine] = known_states[:, : len(STATE_NAMES)]
            for column, name in enumerate(self.state_names):
                if name != PAD_STATE:
                    states[mine, column] = known_states[:, dataset.state_names.index(name)]
            actions[mine], known[mine] = dataset.labels.chunks(rows[mine], self.horizon)
            if self.knows_things:
                things[mine] = dataset.things(rows[mine])
            taken_over = dataset.interventions(rows[mine])
            weights[mine] = np.where(taken_over, self.options.intervention_weight, 1.0)
        pairs = [(self.datasets[i], int(row)) for i, row in zip(which, rows, strict=True)]
        instructions = [dataset.instruction(row) for dataset, row in pairs]
        keys = [_key(d, row, words) for (d, row), words in zip(pairs, instructions, strict=True)]
        return PolicyBatch(
            {c.name: torch.from_numpy(np.stack([i[c.name] for i in images])) for c in self.cameras},
            instructions,
            torch.from_numpy(states),
            torch.from_numpy(actions),
            torch.from_numpy(known),
            torch.from_numpy(weights),
            np.array(keys, dtype=np.int64),
            self._grounding(things, tools) if self.knows_things else None,
            [self._robot_of[i] for i in which] if len(self.actions) > 1 else None,
        )

    def _grounding(self, things: np.ndarray, states: np.ndarray) -> Grounding:
        """Where the named things are, in the first camera's view as the brains have it."""
        assert self._layout is not None
        camera = self.cameras[0]
        left, top, right, bottom = camera.crop or (0.0, 0.0, 1.0, 1.0)
        shares = (things[..., :2] - [left, top]) / [right - left, bottom - top]
        number = np.arange(NAMED_THINGS)[None].repeat(len(things), axis=0)
        pixels = shares * [camera.width, camera.height]
        cells, offsets = cells_and_offsets(pixels, number, camera, self._layout.factor)
        aimed = aims(things[..., 2:5], things[..., 5], states, 2)
        return Grounding({camera.name: cells}, {camera.name: offsets}, torch.from_numpy(aimed))

    def _recorded(self, which: int, camera: CameraInput, row: int) -> Image:
        """A frame as it was recorded [H, W, 3]."""
        return self.datasets[which].image(camera.name, row)

    def _seen(self, which: int, camera: CameraInput, row: int) -> Image:
        """A frame as the brains see it, uint8 [H, W, 3]."""
        kept = self._kept.get((which, camera.name))
        image = None if kept is None else kept.get(row)
        if image is None:
            recorded = self._recorded(which, camera, row)
            view = self._view(camera, *recorded.shape[:2])
            image = np.asarray(scale(torch.from_numpy(recorded[None]), view)[0].numpy())
            if kept is not None:
                kept.put(row, image)
        return image


def _key(dataset: RobotDataset, row: int, instruction: str) -> int:
    """The same number for the same frame of a dataset with the same words, in every process and run."""
    episode, frame = dataset.place(row)
    text = f"{dataset.name}\n{episode}\n{frame}\n{instruction}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
