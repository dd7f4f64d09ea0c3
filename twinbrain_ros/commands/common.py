"""What the subcommands share: errors, options and the JSON file."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

OK, FAILED, USAGE = 0, 1, 2
SUITES = ("tabletop", "simpler-ms3", "simpler-ms2", "robocasa-gr1", "libero")  # of benchmarks
STATE_KINDS = ("none", "tool", "tool_axis_angle", "joint_sin_cos")  # of benchmarks' profiles
INTERRUPTED = 130  # as shells report a program that SIGINT ended


class CommandError(Exception):
    """What a person can mend: the message says what was found and expected. Ends the command with 2."""


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to FILE as JSON (default: no file)"
    )


def add_checkpoint(parser: Any) -> None:
    """The option for `checkpoint_directory`, for a parser or a group of one."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="directory of the checkpoint (default: the one that ships in the package)",
    )


def add_follower(parser: argparse.ArgumentParser) -> None:
    """The option for the simulated arm's trajectory controller."""
    parser.add_argument(
        "--follower",
        type=follower_name,
        default="jazzy_100",
        metavar="NAME",
        help="trajectory controller of the simulated arm: distribution, rate and option, as in humble_10, "
        "humble_100_open_loop or kilted_500_from_desired (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where the brains run, as torch names it: cpu, cuda, cuda:1 (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights (default: float32 on a CPU, bfloat16 on a GPU)",
    )


def check_device(args: argparse.Namespace) -> None:
    """Refuses a device that is not there, of whichever command takes one, before anything long begins.

    Raises:
        DeviceError: it names what was found and which devices there are.
    """
    if getattr(args, "device", "cpu") != "cpu":  # torch takes a second to import
        from twinbrain_ros.brain.devices import find_device

        find_device(args.device, "--device")


def say(line: str) -> None:
    """A line for a person, beside the results."""
    print(line, file=sys.stderr, flush=True)


def write_json(path: Path | None, values: dict[str, Any]) -> None:
    """Write `values` to `path`, making its directory; nothing if `path` is None.

    Raises:
        CommandError: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--json {path}: cannot be written: {error.strerror or error}") from error


def check_writable(option: str, path: Path) -> None:
    """Find out before the work, not after, that a result cannot be written.

    Raises:
        CommandError: names the option and the reason.
    """
    if path.is_dir():
        raise CommandError(f"{option} {path}: found a directory, expected the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".twinbrain-"):
            pass
    except OSError as error:
        raise CommandError(f"{option} {path}: cannot be written: {error.strerror or error}") from error


def follower_name(text: str) -> str:
    """Parse the name of a trajectory controller, for argparse."""
    from twinbrain_ros.sim.follower_kinds import follower_kind

    try:
        return follower_kind(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_int(text: str) -> int:
    """Parse an integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected an integer of at least 1")
    return value


def seed_int(text: str) -> int:
    """Parse a seed: an integer of at least 0 that fits 63 bits, for argparse."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"found {text}, expected an integer from 0 to 2^63 - 1")
    return value


def positive_seconds(text: str) -> float:
    """Parse a finite duration above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of seconds above 0")
    return value


def not_negative_seconds(text: str) -> float:
    """Parse a finite duration of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of seconds of at least 0")
    return value


def not_negative_metres(text: str) -> float:
    """Parse a finite length of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of metres of at least 0")
    return value


def checkpoint_directory(given: Path | None) -> Path:
    """The checkpoint to use: the given one, else the one that ships in the package.

    Raises:
        CommandError: it is not there.
    """
    from twinbrain_ros.resources import demo_checkpoint

    directory = given if given is not None else demo_checkpoint()
    if not (directory / "config.json").is_file():
        origin = "--checkpoint" if given is not None else "the shipped checkpoint"
        raise CommandError(
            f"{origin}: {directory} holds no config.json, expected the directory of a TwinBrain checkpoint"
        )
    return directory
