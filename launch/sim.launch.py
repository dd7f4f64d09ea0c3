"""The whole loop without hardware: a simulated arm with its cameras, the policy and the controller.

ros2 launch twinbrain_ros sim.launch.py
ros2 topic pub --once --qos-durability transient_local /instruction std_msgs/msg/String \
    "{data: pick up the red block}"
ros2 service call /set_mode twinbrain_ros/srv/SetMode "{mode: 2, source: me, reason: try it}"
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Simulator, policy and controller."""
    policy = PythonLaunchDescriptionSource(str(Path(__file__).with_name("policy.launch.py")))
    sim = Node(
        package="twinbrain_ros",
        executable="sim_node",
        name="sim_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "robot": ParameterValue(LaunchConfiguration("robot"), value_type=str),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "task": ParameterValue(LaunchConfiguration("task"), value_type=str),
            }
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return LaunchDescription(
        [
            # Here the arm is simulated: it may as well start by itself.
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Configure and activate the nodes; the arm holds all the same.",
            ),
            DeclareLaunchArgument("seed", default_value="0", description="Seed of the first scene."),
            DeclareLaunchArgument(
                "task", default_value="pick", choices=["pick", "put"], description="Task of the first scene."
            ),
            # The included file declares the other arguments, with their descriptions and choices.
            IncludeLaunchDescription(
                policy, launch_arguments=[("autostart", LaunchConfiguration("autostart"))]
            ),
            sim,
        ]
    )
