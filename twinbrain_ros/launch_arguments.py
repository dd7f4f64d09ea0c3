"""Checks what a launch file is given before anything is started. No launch in here, and no node.

Launch itself looks at most values only when it starts the node that wants them, and leaves running what it
has started until then. So everything is checked first, and one sentence names the argument, what was found
and what was expected.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.text import shown

_NAMESPACE = re.compile(r"/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?")
_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")
CHECKPOINT_FILE = "config.json"


class ArgumentError(ValueError):
    """An argument that a launch file cannot take: names it, what was found and what was expected."""


@dataclass(frozen=True)
class Argument:
    """One argument of a launch file.

    Attributes:
        kind: of its value: bool, int, float or str.
        default: as it would be given.
        description: one sentence.
        choices: of its value; () if there are others.
        lower, upper: of a number.
        means: what else its value is, and how that is checked: "namespace", "robot", "directory", ...
    """

    kind: type
    default: str
    description: str
    choices: tuple[str, ...] = ()
    lower: float = -math.inf
    upper: float = math.inf
    means: str = ""

    def check(self, name: str, value: str) -> None:
        """Raises ArgumentError if it cannot have this value."""
        try:
            self._check(name, value)
        except ArgumentError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # of a path: too long, of nobody's home, endless
            raise _wrong(name, value, f"which cannot be used: {error}") from None

    def _check(self, name: str, value: str) -> None:
        if self.choices:
            if value not in self.choices:
                near = difflib.get_close_matches(value, [choice for choice in self.choices if choice], n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                choices = ", ".join(choice or "'' (empty)" for choice in self.choices)
                raise _wrong(name, value, f"{hint}expected one of {choices}")
        elif self.kind in (int, float):
            self._check_number(name, value)
        elif self.means:
            _MEANINGS[self.means](name, value)

    def _check_number(self, name: str, value: str) -> None:
        what = "a whole number" if self.kind is int else "a number"
        try:
            number = self.kind(value)
        except ValueError:
            raise _wrong(name, value, f"expected {what}") from None
        if not self.lower <= number <= self.upper:  # nor is it nan
            raise _wrong(name, value, f"expected {what} from {self.lower:g} to {self.upper:g}")


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ArgumentError for the first name that is none of those known."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            expected = f"{hint}expected one of {', '.join(known)}"
            raise ArgumentError(f"launch argument {shown(name, 60)}: there is none of this name, {expected}")


def check_apart(given: Mapping[str, str], names: Iterable[str]) -> None:
    """Raises ArgumentError if two arms have one namespace: each would drive the other one too."""
    taken: dict[str, str] = {}
    for name in names:
        space = given[name].strip("/")
        if space in taken:
            raise _wrong(name, given[name], f"which {taken[space]} is too, expected another namespace")
        taken[space] = name


def check_values(given: Mapping[str, str], arguments: Mapping[str, Argument]) -> None:
    """Raises ArgumentError for the first value that its argument cannot have."""
    for name, argument in arguments.items():
        if name in given:
            argument.check(name, given[name])


def _wrong(name: str, value: str, expected: str) -> ArgumentError:
    return ArgumentError(f"launch argument {name}: found {shown(value)}, {expected}")


def _namespace(name: str, value: str) -> None:
    if not _NAMESPACE.fullmatch(value):
        raise _wrong(name, value, "expected names of letters, digits and _ with / between: cell/left")


def _robot(name: str, value: str) -> None:
    try:
        load_robot(value)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"launch argument {name}: {error}") from None


def _checkpoint(name: str, value: str) -> None:
    directory = Path(value).expanduser()
    if value and not (directory / CHECKPOINT_FILE).is_file():
        found = "no such directory" if not directory.is_dir() else f"no {CHECKPOINT_FILE} in it"
        raise _wrong(name, value, f"{found}, expected the directory of a TwinBrain checkpoint")


def _device(name: str, value: str) -> None:
    if not _DEVICE.fullmatch(value):
        raise _wrong(name, value, "expected cpu, cuda or cuda:N")


def _directory(name: str, value: str) -> None:
    """One that is there, or that can be made."""
    place = Path(value).expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not value or not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise _wrong(name, value, f"expected a directory that can be written to ({place} is none)")


def _file(name: str, value: str) -> None:
    if value and not Path(value).expanduser().is_file():
        raise _wrong(name, value, "no such file, expected one of parameters, or nothing")


_MEANINGS = {
    "namespace": _namespace,
    "robot": _robot,
    "checkpoint": _checkpoint,
    "device": _device,
    "directory": _directory,
    "file": _file,
}
