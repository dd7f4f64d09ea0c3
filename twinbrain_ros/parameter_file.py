"""A ROS parameter file, checked against the nodes that it is for before any of them is started.

rclpy ignores what a file says for nodes and parameters that there are not, so that a misspelt limit would be
none at all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from twinbrain_ros.text import one_line, shown

_PARAMETERS = "ros__parameters"
_ANY = ("*", "**")
# What rclpy itself knows on every node.
_EVERYWHERE = ("use_sim_time", "qos_overrides", "start_type_description_service")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number with a point, as 1.0", str: "a text"}


class ParameterFileError(ValueError):
    """A file that cannot be used: names the file, the node, the parameter, what was found and expected."""


class Known(Protocol):
    """A parameter that a node has; `nodes.parameters.Declared` is one."""

    @property
    def name(self) -> str: ...
    @property
    def default(self) -> bool | int | float | str: ...
    @property
    def lower(self) -> float | None: ...
    @property
    def upper(self) -> float | None: ...


Nodes = Mapping[str, Mapping[str, Known] | None]


def check_parameter_file(path: Path, nodes: Nodes, others: bool = False) -> dict[str, Any]:
    """Checks a file.

    Args:
        nodes: parameters by name, by the full name of the node; None: not known, of a node of others.
        others: whether nodes of the same names run in other namespaces, which the file may be for too.
    Returns:
        what it says, by parameter: of several values for several nodes the last one.
    Raises:
        ParameterFileError: it cannot be read, or says something for nobody.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        blocks = list(_blocks(path, document))
    except RecursionError:
        raise ParameterFileError(f"{path}: found YAML that refers to itself, expected nodes") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterFileError(f"{path}: not readable as YAML: {one_line(error)}") from None
    said: dict[str, Any] = {}
    for pattern, values in blocks:
        reached: Nodes = {name: known for name, known in nodes.items() if _reaches(pattern, name)}
        if not reached:
            reached = _namesakes(pattern, nodes) if others and pattern.count("/") > 1 else {}
            if not reached:
                instead = _instead(pattern, nodes)
                raise ParameterFileError(f"{path}: {shown(pattern)} reaches no node: {instead}")
        if pattern.rpartition("/")[2] in _ANY:
            reached = {name: known for name, known in reached.items() if known is not None} or reached
        for name, value in values.items():
            _check(path, pattern, str(name), value, reached)
            said[str(name)] = value
    return said


def _reaches(pattern: str, node: str) -> bool:
    """Whether rcl gives a node what stands under a key: `/*` is one name, `/**` any number of them."""
    levels = {"**": r"(/\w+)*", "*": r"/\w+"}
    expression = "".join(levels.get(level, "/" + re.escape(level)) for level in pattern.split("/")[1:])
    return re.fullmatch(expression, node) is not None


def _namesakes(pattern: str, nodes: Nodes) -> Nodes:
    last = pattern.rpartition("/")[2]
    return {name: known for name, known in nodes.items() if last in ("*", "**", name.rpartition("/")[2])}


def _instead(pattern: str, nodes: Nodes) -> str:
    """What to write for a key that reaches none."""
    meant = list(_namesakes(pattern, nodes))
    last = pattern.rpartition("/")[2]
    if meant and last not in _ANY:
        return f"expected {' or '.join(meant)}, or /**/{last} for every namespace"
    names = {name.rpartition("/")[2]: name for name in nodes}
    near = difflib.get_close_matches(last, list(names), n=1)
    hint = f"did you mean {names[near[0]]}? " if near else ""
    return f"{hint}expected one of {', '.join(nodes)}, or /** for all"


def _blocks(path: Path, document: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Each node's name, with wildcards and namespaces, and its parameters."""
    if not isinstance(document, Mapping) or not document:
        expected = f"expected nodes, each with {_PARAMETERS}"
        raise ParameterFileError(f"{path}: {prefix or '(top level)'}: found {shown(document)}, {expected}")
    for key, value in document.items():
        if key == _PARAMETERS and prefix:
            if not isinstance(value, Mapping):
                raise ParameterFileError(
                    f"{path}: {prefix}: {_PARAMETERS}: found {shown(value)}, expected parameters and values"
                )
            yield prefix, value
        else:
            yield from _blocks(path, value, f"{prefix.rstrip('/')}/{str(key).strip('/')}")


def _check(path: Path, pattern: str, name: str, value: Any, nodes: Nodes) -> None:
    place = f"{path}: {pattern}: parameter {shown(name)}"
    if name.partition(".")[0] in _EVERYWHERE or any(known is None for known in nodes.values()):
        return
    found = [known[name] for known in nodes.values() if known and name in known]
    if not found:
        names = sorted({other for known in nodes.values() if known for other in known})
        raise ParameterFileError(
            f"{place}: there is none of this name, {_near(name, names)}expected one of {', '.join(names)}"
        )
    for known in found:
        kind = type(known.default)
        if type(value) is not kind:
            raise ParameterFileError(f"{place}: found {shown(value)}, expected {_KINDS[kind]}")
        lower, upper = known.lower, known.upper
        if lower is not None and upper is not None and not lower <= float(value) <= upper:
            expected = f"expected {_KINDS[kind]} from {lower:g} to {upper:g}"
            raise ParameterFileError(f"{place}: found {shown(value)}, {expected}")


def _near(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}? " if near else ""
