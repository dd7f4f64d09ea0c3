"""Policy and controller for an arm that is already there: its driver publishes cameras and joint states.

ros2 launch twinbrain_ros policy.launch.py robot:=wx250s namespace:=wx250s checkpoint:=/path/to/checkpoint

Nothing moves by starting this: the nodes wait for a lifecycle manager unless autostart is true, and the
controller holds the arm until its set_mode service is asked for autonomy.
"""

from __future__ import annotations

from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from twinbrain_ros.launching import (
    EVERYWHERE,
    RECORDING,
    arguments,
    checked,
    equals,
    image_transport,
    node,
    recorder,
)

BOTH = ("robot", "autostart", "execution_steps")
CONTROLLER = ("strategy", "dry_run", "velocity_margin")
POLICY = ("checkpoint", "device", "dtype", "left_period_s")


def generate_launch_description() -> LaunchDescription:
    """Policy and controller."""
    # One argument for both: what the policy makes must be what the controller expects.
    real_time = ParameterValue(equals("strategy", "real_time"), value_type=bool)
    return LaunchDescription(
        [
            checked("policy.launch.py"),
            *arguments(*EVERYWHERE, *BOTH, *POLICY, *CONTROLLER, *RECORDING),
            image_transport(),
            recorder(),
            node("controller_node", *BOTH, *CONTROLLER),
            node("policy_node", *BOTH, *POLICY, parameters={"real_time": real_time}),
        ]
    )
