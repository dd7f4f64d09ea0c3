"""A joystick, and the controller that follows it: for driving an arm by hand, with or without a policy.

ros2 launch twinbrain_ros teleop.launch.py robot:=wx250s namespace:=wx250s autostart:=true

Beside policy.launch.py or sim.launch.py, which bring a controller already, start it with controller:=false.
The dead-man button and what the sticks do are in the robot file's teleop section. Needs the package joy.
"""

from __future__ import annotations

from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription
from twinbrain_ros.launching import (
    EVERYWHERE,
    RECORDING,
    arguments,
    checked,
    node,
    parameter,
    recorder,
    robot_of,
)
from twinbrain_ros.robot.teleop_inputs import JoyInput

REPEATS_HZ = 20.0  # held still, a stick sends nothing: without repeats it would fall silent


def joystick(context: Any) -> list[Any]:
    """The driver of the joystick, on the topic that the robot file has for it."""
    robot = robot_of(context)
    topics = [entry.topic for entry in robot.teleop if isinstance(entry, JoyInput)]
    if not topics:
        raise RuntimeError(f"{robot.path}: no input of kind 'joy' in 'teleop', expected one")
    device = {
        "device_id": parameter("joy_device", int),
        "autorepeat_rate": REPEATS_HZ,
        "deadzone": 0.0,  # the robot file's counts
    }
    return [node("joy_node", package="joy", parameters=device, remappings=[("joy", topics[0])])]


def generate_launch_description() -> LaunchDescription:
    """Joystick and controller."""
    taken = ("robot", "autostart", "dry_run", "velocity_margin")
    return LaunchDescription(
        [
            checked("teleop.launch.py"),
            *arguments(*EVERYWHERE, *taken, *RECORDING),
            DeclareLaunchArgument(
                "joy_device",
                default_value="0",
                description="Number of the joystick, as joy_enumerate_devices has it.",
            ),
            DeclareLaunchArgument(
                "controller",
                default_value="true",
                choices=["true", "false"],
                description="Start a controller_node too; false where another launch file has started one.",
            ),
            # First what may be missing: launch leaves behind what it started just before an error.
            OpaqueFunction(function=joystick),
            recorder(),
            node("controller_node", *taken, condition=IfCondition(LaunchConfiguration("controller"))),
        ]
    )
