"""Parameters declared once each, with type, range, unit and description."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.parameter import Parameter

if TYPE_CHECKING:
    from rclpy.node import Node


@dataclass(frozen=True)
class Declared:
    """One parameter.

    Attributes:
        name: snake_case.
        default: its type is the parameter's type.
        description: one sentence; the unit is appended.
        unit: "" if it has none.
        lower, upper: range, both or none, for numbers.
        fixed: can only be given at start.
    """

    name: str
    default: bool | int | float | str
    description: str
    unit: str = ""
    lower: float | None = None
    upper: float | None = None
    fixed: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The same for ROS."""
        text = f"{self.description} Unit: {self.unit}." if self.unit else self.description
        descriptor = ParameterDescriptor(name=self.name, description=text, read_only=self.fixed)
        if self.lower is None or self.upper is None:
            return descriptor
        if isinstance(self.default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.lower), to_value=int(self.upper), step=1)
            ]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.lower), to_value=float(self.upper), step=0.0)
            ]
        return descriptor


COMMON = (
    Declared("robot", "wx250s", "Robot file: the name of one that ships with the package, or a path."),
    Declared("autostart", False, "Configure and activate at start, without a lifecycle manager.", fixed=True),
)


def declare(node: Node, parameters: Iterable[Declared]) -> None:
    """Declares them on the node.

    Raises:
        rclpy.exceptions.ParameterException: a value given at start has a wrong type or is out of range.
    """
    for parameter in parameters:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())


def refuse_while_configured(
    names: set[str], phase: str, changes: list[Parameter[Any]]
) -> SetParametersResult:
    """Parameters are read at configure: a later change would have no effect and is therefore refused."""
    for change in changes:
        if change.name in names and phase != "unconfigured":
            reason = f"{change.name} is read at configure and the node is {phase}: clean up first"
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)
