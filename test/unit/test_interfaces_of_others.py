"""The interfaces of others that tests use: importable under their own names, with the field's own fields."""

from __future__ import annotations

import functools
import importlib

import pytest
from rclpy.serialization import deserialize_message, serialize_message

FIELDS = {
    "control_msgs.msg.GripperCommand": ("position", "max_effort"),
    "control_msgs.msg.JointJog": ("header", "joint_names", "displacements", "velocities", "duration"),
    "controller_manager_msgs.msg.ControllerState": ("name", "state", "type", "is_async", "update_rate"),
    "interbotix_xs_msgs.msg.JointGroupCommand": ("name", "cmd"),
    "interbotix_xs_msgs.msg.JointSingleCommand": ("name", "cmd"),
    "interbotix_xs_msgs.srv.TorqueEnable.Request": ("cmd_type", "name", "enable"),
}


def found(path: str) -> type:
    package, group, *names = path.split(".")
    return functools.reduce(getattr, names, importlib.import_module(f"{package}.{group}"))


@pytest.mark.parametrize("path", FIELDS)
def test_an_interface_has_the_fields_that_are_used_and_travels(path: str) -> None:
    kind = found(path)
    fields = tuple(kind.get_fields_and_field_types())
    assert fields[: len(FIELDS[path])] == FIELDS[path]
    assert deserialize_message(serialize_message(kind()), kind) == kind()


def test_the_action_of_a_gripper_has_goal_result_and_feedback() -> None:
    action = importlib.import_module("control_msgs.action").GripperCommand
    assert tuple(action.Goal.get_fields_and_field_types()) == ("command",)
    ends = ("position", "effort", "stalled", "reached_goal")
    assert tuple(action.Result.get_fields_and_field_types()) == ends
    assert tuple(action.Feedback.get_fields_and_field_types()) == ends
