"""`twinbrain predict`: one observation from files to an action chunk."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import (
    OK,
    CommandError,
    add_checkpoint,
    add_device,
    add_json,
    checkpoint_directory,
    say,
    seed_int,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np

    from twinbrain_ros.brain.config import TwinBrainConfig

EPILOG = """\
The state is a JSON list in the checkpoint's order, or an object {name: value}; metres, radians and, for the
gripper, 0 closed to 1 open. `twinbrain info` names a checkpoint's cameras, state and actions."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "predict",
        help="predict one action chunk from files",
        description="Predict one action chunk from images, an instruction and a state, without ROS.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--image", type=Path, required=True, action="append", metavar="FILE",
        help="PNG or JPEG image; once per camera, in the checkpoint's camera order; any size [pixels]. An "
        "imported checkpoint takes any number of them",
    )  # fmt: skip
    parser.add_argument(
        "--instruction", required=True, metavar="TEXT", help="what the arm shall do, in words"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE",
        help="JSON file with the proprioceptive state (default: none where the policy goes without, else the "
        "checkpoint's mean state)",
    )  # fmt: skip
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument(
        "--noise",
        type=Path,
        metavar="FILE",
        help="NumPy file [horizon, actions] that the actions are integrated from",
    )
    noise.add_argument(
        "--seed", type=seed_int, default=0, metavar="N", help="seed of the noise (default: %(default)s)"
    )
    parser.add_argument(
        "--normalized",
        action="store_true",
        help="state in and actions out in the model's own normalised units instead of robot units",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="NumPy file to write: float64 [horizon, actions]",
    )
    parser.add_argument(
        "--robot", metavar="NAME", help="of several that the checkpoint knows, the one it acts as"
    )
    add_device(parser)
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    directory = checkpoint_directory(args.checkpoint)
    from twinbrain_ros.brain.config import TwinBrainConfig
    from twinbrain_ros.brain.policy import TwinBrainPolicy
    from twinbrain_ros.brain.prompt import check_instruction

    check_instruction(args.instruction, "--instruction")
    config = TwinBrainConfig.load(directory)
    if args.robot is not None:
        config = config.as_robot(args.robot)
    if config.action_statistics is None and not args.normalized:
        raise CommandError(
            f"{directory}: found no statistics, it was never trained: expected --normalized, its own units"
        )
    views = len(args.image) if config.any_views else None
    if views is not None:
        config = config.with_views(views)
    images = load_images(args.image, [camera.name for camera in config.cameras])
    state = load_state(args.state, config, args.normalized)
    noise = load_array(args.noise, "--noise") if args.noise else None
    policy = TwinBrainPolicy.from_pretrained(directory, args.device, args.dtype, views, tell=say)
    if args.robot is not None:
        policy.act_as(args.robot)
    started = time.perf_counter()
    actions = policy.act(images, args.instruction, state, noise, args.seed, normalized=args.normalized)
    inference_ms = (time.perf_counter() - started) * 1e3
    save_array(args.out, actions)

    units = "normalised units" if args.normalized else "metres, radians, gripper 0..1"
    print(
        f"{args.out}: {actions.shape[0]} steps of {config.action.period_s:g} s x {actions.shape[1]} ({units})"
    )
    print("  ".join(f"{name:>9}" for name in config.action.names))
    for row in actions:
        print("  ".join(f"{value:9.4f}" for value in row))
    write_json(
        args.json,
        {
            "actions": actions.tolist(),
            "names": list(config.action.names),
            "period_s": config.action.period_s,
            "normalized": args.normalized,
            "instruction": args.instruction,
            "state": None if state is None else state.tolist(),
            "seed": None if args.noise else args.seed,
            "inference_ms": inference_ms,
        },
    )
    return OK


def load_images(paths: list[Path], cameras: list[str]) -> dict[str, np.ndarray]:
    """RGB images [H, W, 3] uint8 by camera name.

    Raises:
        CommandError: not one image per camera, or one that cannot be read.
    """
    if len(paths) != len(cameras):
        raise CommandError(
            f"--image: found {len(paths)}, expected {len(cameras)}, one each for {', '.join(cameras)}"
        )
    import cv2

    images = {}
    for name, path in zip(cameras, paths, strict=True):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if image is None:
            raise CommandError(
                f"--image {path}: not a readable image, expected PNG or JPEG for camera {name!r}"
            )
        images[name] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return images


def load_state(path: Path | None, config: TwinBrainConfig, normalized: bool) -> np.ndarray | None:
    """The state in the checkpoint's order, from a JSON list or object; without a file, the mean state where
    the policy needs one. What no robot has (a pad) may be left out.

    Raises:
        CommandError: the file cannot be read, or its names or their number are wrong.
    """
    import numpy as np

    names = list(config.state_names)
    if path is None:
        if not names or (config.expert_takes_state and config.conditioning == "action_queries"):
            return None
        if normalized or config.state_statistics is None:
            return np.zeros(len(names))
        return np.asarray(config.state_statistics.mean)
    if not names:
        raise CommandError(f"--state {path}: this checkpoint takes no state")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"--state {path}: not readable as JSON: {error}") from error
    if isinstance(values, dict):
        given = set(values)
        if given not in (set(names), set(config.robot_state_names)):
            raise CommandError(f"--state {path}: found names {sorted(values)}, expected {names}")
        values = [values[name] for name in names if name in given]
    if not isinstance(values, list) or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    ):
        raise CommandError(f"--state {path}: expected a list of numbers or an object of {names}")
    if len(values) not in (len(names), len(config.robot_state_names)):
        raise CommandError(f"--state {path}: found {len(values)} values, expected {len(names)}: {names}")
    if not np.isfinite(values).all():
        raise CommandError(f"--state {path}: found {values}, expected finite numbers")
    return np.asarray(values, dtype=np.float64)


def load_array(path: Path, option: str) -> np.ndarray:
    """A NumPy file without pickled objects.

    Raises:
        CommandError: it cannot be read as one.
    """
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CommandError(f"{option} {path}: not readable as a NumPy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise CommandError(f"{option} {path}: found an archive, expected one array (.npy)")
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file under exactly this name.

    Raises:
        CommandError: it cannot be written.
    """
    import numpy as np

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # np.save of a name would append .npy to others
            np.save(file, array)
    except OSError as error:
        raise CommandError(f"--out {path}: cannot be written: {error.strerror or error}") from error
