"""What a ROS message type looks like, as a bag has to say it: read from the installed packages."""

from __future__ import annotations

import json
import os
import re
import sys
from functools import cache
from pathlib import Path

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
PRIMITIVES = {"bool", "byte", "char", "float32", "float64", "string", "wstring", *_INTEGERS}
_SEPARATOR = "\n" + "=" * 80 + "\nMSG: {name}\n"
_FIELD_TYPE = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_/]*)")


class DefinitionError(ValueError):
    """No installed package defines a type; the message names it and where it was looked for."""


@cache
def definition(name: str) -> str:
    """The text of a message type and of every type in it, one below the other, as mcap's `ros2msg` wants it.

    Args:
        name: such as `sensor_msgs/msg/Image`.
    Raises:
        DefinitionError: it, or a type in it, is not installed.
    """
    found: dict[str, str] = {}
    _collect(name, found)
    own = found.pop(name)
    return own + "".join(
        _SEPARATOR.format(name=part.replace("/msg/", "/")) + text for part, text in found.items()
    )


@cache
def type_hash(name: str) -> str:
    """The type's RIHS01 hash (REP 2016), "" if its package does not say."""
    try:
        described = json.loads(_file(name, "json").read_text(encoding="utf-8"))
    except DefinitionError:
        return ""
    hashes = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}
    return str(hashes.get(name, ""))


def _collect(name: str, found: dict[str, str]) -> None:
    text = _file(name, "msg").read_text(encoding="utf-8")
    found[name] = text
    package = name.split("/")[0]
    for line in text.splitlines():
        field = _FIELD_TYPE.match(line.partition("#")[0])
        if field is None or field.group(1) in PRIMITIVES:
            continue
        part = field.group(1).split("/")
        inner = f"{package if len(part) == 1 else part[0]}/msg/{part[-1]}"
        if inner not in found:
            _collect(inner, found)


def _file(name: str, suffix: str) -> Path:
    parts = name.split("/")
    if len(parts) != 3 or parts[1] != "msg":
        raise DefinitionError(f"message type: found {name!r}, expected <package>/msg/<Name>")
    prefixes = [entry for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    places = [Path(prefix) / "share" / parts[0] / "msg" for prefix in (*prefixes, sys.prefix)]
    for place in places:
        path = place / f"{parts[2]}.{suffix}"
        if path.is_file():
            return path
    tried = ", ".join(str(place) for place in places)
    raise DefinitionError(f"message type {name}: not installed; looked for {parts[2]}.{suffix} in {tried}")
