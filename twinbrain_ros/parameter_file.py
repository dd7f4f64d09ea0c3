"""A ROS parameter file, checked against the nodes that it is for before any of them is started.

rclpy ignores what a file says for nodes and parameters that there are not, so that a misspelt limit would be
none at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from twinbrain_ros.text import shown

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


def check_parameter_file(path: Path, nodes: Nodes) -> dict[str, Any]:
    """Checks a file.

    Args:
        nodes: parameters by name, by the name of the node; None where they are not known (nodes of others).
    Returns:
        what it says, by parameter: of several values for several nodes the last one.
    Raises:
        ParameterFileError: it cannot be read, or says something for nobody.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterFileError(f"{path}: not readable as YAML: {error}") from None
    said: dict[str, Any] = {}
    for pattern, values in _blocks(path, document):
        node = pattern.rpartition("/")[2]
        if node not in _ANY and node not in nodes:
            raise ParameterFileError(
                f"{path}: node {shown(pattern)}: {_near(node, nodes)}expected one of {', '.join(nodes)}"
            )
        ours = {name: known for name, known in nodes.items() if known is not None}
        possible = ours if node in _ANY else {node: nodes[node]}
        for name, value in values.items():
            _check(path, pattern, str(name), value, possible)
            said[str(name)] = value
    return said


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
