"""Two simulated arms side by side, each with its own policy and controller in a namespace of its own.

ros2 launch twinbrain_ros two_arms.launch.py
ros2 topic pub --once /left/instruction std_msgs/msg/String "{data: pick up the red block}"
ros2 service call /left/set_mode twinbrain_ros/srv/SetMode "{mode: 2, source: me, reason: try it}"

The arguments of sim.launch.py are taken too, and are for both arms.
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, GroupAction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription
from twinbrain_ros.launching import checked, include


def generate_launch_description() -> LaunchDescription:
    """Both arms."""
    described, arms = [], []
    for number, side in enumerate(("left", "right")):
        described += [
            DeclareLaunchArgument(
                side, default_value=side, description=f"Namespace of the {side} arm: its name."
            ),
            DeclareLaunchArgument(
                f"{side}_seed",
                default_value=str(number),
                description=f"Seed of the first scene of the {side} arm.",
            ),
        ]
        sim = include(
            "sim.launch.py", namespace=LaunchConfiguration(side), seed=LaunchConfiguration(f"{side}_seed")
        )
        arms.append(GroupAction([sim]))  # what is set for one arm is not for the other
    return LaunchDescription([checked("two_arms.launch.py"), *described, *arms])
