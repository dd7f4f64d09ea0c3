"""From bags to a LeRobot v3.0 dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.bag_frames import (
    BagPart,
    ConversionError,
    ConversionOptions,
    Counts,
    convert_bag,
    frames_per_second,
)
from twinbrain_ros.data.dataset_file import (
    ACTION,
    IMAGES,
    INTERVENTION,
    JOINTS,
    STATE,
    SUCCESS,
    TWINBRAIN_FILE,
    written_kind,
)
from twinbrain_ros.data.dataset_video import VideoError, feature
from twinbrain_ros.data.dataset_writer import write_tables
from twinbrain_ros.data.recorded import robot_of
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFile

LEAST_FREE_BYTES = 200_000_000


def check_bags(bags: Sequence[Path], options: ConversionOptions) -> RobotFile:
    """The robot of all bags. Raises ConversionError or VideoError for bags that do not belong together or
    cannot become videos, and what `open_bag` and `robot_of` raise."""
    first: tuple[Path, RobotFile] | None = None
    for path in bags:
        robot = robot_of(open_bag(path), options.robot)
        if first is None:
            first = path, robot
            frames_per_second(robot)
            for camera in robot.cameras:
                if camera.width % 2 or camera.height % 2:
                    raise VideoError(
                        f"{path}: camera {camera.name} has {camera.width}x{camera.height} pixels, expected "
                        "even numbers for H.264 video"
                    )
            continue
        for name, one, other in zip(_FACTS, _facts(first[1]), _facts(robot), strict=True):
            if one != other:
                raise ConversionError(
                    f"{name}: {first[0]} has {one}, {path} has {other}; expected one robot file for all bags"
                )
    assert first is not None
    return first[1]


_FACTS = ("robot", "action space", "action period_s", "arm joints", "cameras")


def _facts(robot: RobotFile) -> tuple[Any, ...]:
    cameras = [f"{c.name} {c.width}x{c.height}" for c in robot.cameras]
    return robot.name, robot.action.space, robot.action.period_s, list(robot.arm_joints), cameras


def convert(
    bags: Sequence[Path],
    out: Path,
    options: ConversionOptions,
    workers: int = 1,
    done: Callable[[BagPart], None] = lambda part: None,
) -> list[BagPart]:
    """Writes a dataset of bags; `done` is told of each as it is finished. A kill leaves no dataset, only
    OUT.partial, which the next call takes away.

    Raises:
        ConversionError: `out` is there already, the bags do not belong together, or nothing is left of them.
        OSError: the disk is full; nothing is left behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"{out}: is there already, expected a new directory")
    robot = check_bags(bags, options)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        free = shutil.disk_usage(partial).free
        if free < LEAST_FREE_BYTES:
            raise OSError(
                f"{out}: {free / 1e6:.0f} MB are free, expected at least {LEAST_FREE_BYTES / 1e6:.0f}"
            )
        parts = _all_parts(bags, partial, options, workers, done)
        episodes = [episode for part in parts for episode in part.episodes]
        if not episodes:
            reasons = "; ".join(f"{part.bag}: {part.left_out or asdict(part.counts)}" for part in parts[:5])
            raise ConversionError(f"nothing is left of {len(parts)} bags: {reasons}")
        fps = frames_per_second(robot)
        write_tables(partial, episodes, _features(robot, fps), fps, robot.name)
        _describe(partial, robot, parts, options)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return parts


def _all_parts(
    bags: Sequence[Path],
    root: Path,
    options: ConversionOptions,
    workers: int,
    done: Callable[[BagPart], None],
) -> list[BagPart]:
    """In the order of the bags, whoever is finished first."""
    parts = []
    if workers == 1 or len(bags) == 1:
        for number, path in enumerate(bags):
            parts.append(convert_bag(path, number, len(bags), root, options))
            done(parts[-1])
        return parts
    with ProcessPoolExecutor(min(workers, len(bags)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(convert_bag, path, i, len(bags), root, options) for i, path in enumerate(bags)]
        for future in futures:
            parts.append(future.result())
            done(parts[-1])
    return parts


def _features(robot: RobotFile, fps: int) -> dict[str, Any]:
    joints = [*robot.arm_joints, "gripper"]
    state = list(STATE_NAMES)
    action = joints if written_kind(robot) == "joint_target" else state
    vectors = {STATE: state, JOINTS: joints, ACTION: action}
    found: dict[str, Any] = {
        key: {"dtype": "float32", "shape": [len(names)], "names": names} for key, names in vectors.items()
    }
    for camera in robot.cameras:
        found[IMAGES + camera.name] = feature(camera.width, camera.height, fps)
    found[INTERVENTION] = {"dtype": "bool", "shape": [1], "names": None}
    found[SUCCESS] = {"dtype": "float32", "shape": [1], "names": None}
    return found


def _describe(root: Path, robot: RobotFile, parts: Sequence[BagPart], options: ConversionOptions) -> None:
    """meta/twinbrain.json: what LeRobot has no place for."""
    values = {
        "action_kind": written_kind(robot),
        "robot": robot.name,
        "robot_file": robot.path.read_text(encoding="utf-8"),
        "urdf": robot.urdf(),
        "options": asdict(options),
        "versions": {name: version(name) for name in ("twinbrain_ros", "pyarrow", "av")},
        "bags": [
            {
                "bag": part.bag,
                "episodes": len(part.episodes),
                "ticks": asdict(part.counts),
                "left_out": part.left_out,
                "problems": part.problems,
                **part.notes,
            }
            for part in parts
        ],
    }
    (root / TWINBRAIN_FILE).write_text(json.dumps(values, indent=2) + "\n")


def total(parts: Sequence[BagPart]) -> Counts:
    """Of all bags together."""
    sums = {name: sum(getattr(part.counts, name) for part in parts) for name in asdict(Counts())}
    return Counts(**sums)
