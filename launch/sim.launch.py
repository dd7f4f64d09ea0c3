"""The whole loop without hardware: a simulated arm with its cameras, the policy and the controller.

ros2 launch twinbrain_ros sim.launch.py
ros2 topic pub --once /instruction std_msgs/msg/String "{data: pick up the red block}"
ros2 service call /set_mode twinbrain_ros/srv/SetMode "{mode: 2, source: me, reason: try it}"
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument

from launch import LaunchDescription
from twinbrain_ros.launching import arguments, checked, include, node, parameter
from twinbrain_ros.sim.follower_kinds import DEFAULT, KINDS


def generate_launch_description() -> LaunchDescription:
    """Simulator, policy and controller."""
    scene = {
        "seed": parameter("seed", int),
        "task": parameter("task", str),
        "follower": parameter("follower", str),
    }
    return LaunchDescription(
        [
            checked("sim.launch.py"),
            # Here the arm is simulated: it may as well start by itself.
            *arguments("autostart", autostart="true"),
            DeclareLaunchArgument("seed", default_value="0", description="Seed of the first scene."),
            DeclareLaunchArgument(
                "task", default_value="pick", choices=["pick", "put"], description="Task of the first scene."
            ),
            DeclareLaunchArgument(
                "follower",
                default_value=DEFAULT,
                choices=list(KINDS),
                description="Trajectory controller of the simulated arm: distribution, rate and option.",
            ),
            # Declares the other arguments, with their descriptions and choices.
            include("policy.launch.py"),
            node("sim_node", "robot", "autostart", parameters=scene),
        ]
    )
