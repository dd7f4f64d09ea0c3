"""Policy and controller for an arm that is already there: its driver publishes cameras and joint states.

ros2 launch twinbrain_ros policy.launch.py robot:=wx250s namespace:=wx250s checkpoint:=/path/to/checkpoint

Nothing moves by starting this: the nodes wait for a lifecycle manager unless autostart is true, and the
controller holds the arm until its set_mode service is asked for autonomy.
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

ARGUMENTS = (
    DeclareLaunchArgument(
        "robot", default_value="wx250s", description="Robot file: the name of one that ships, or a path."
    ),
    DeclareLaunchArgument(
        "checkpoint",
        default_value="",
        description="Directory of a TwinBrain checkpoint; empty takes the demo's.",
    ),
    DeclareLaunchArgument(
        "device", default_value="cpu", description="Where the policy runs: cpu, cuda, cuda:1, ..."
    ),
    DeclareLaunchArgument(
        "dtype",
        default_value="",
        description="Type of the weights: float32, bfloat16; empty: bfloat16 on a GPU, else float32.",
    ),
    DeclareLaunchArgument(
        "left_period_s",
        default_value="0.0",
        description="How old [s] what the left brain remembers may be; 0 runs it for every chunk.",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of all topics, one for each arm."
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="false",
        choices=["true", "false"],
        description="Configure and activate the nodes; the arm holds all the same.",
    ),
    DeclareLaunchArgument(
        "execution_steps",
        default_value="0",
        description="Steps of each chunk that are executed; 0 takes the robot file's.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="The least severe messages that the nodes log.",
    ),
)


def node(executable: str, **types: type) -> Node:
    """A node of this package that takes the launch arguments named in `types` as parameters."""
    parameters = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in types.items()
    }
    return Node(
        package="twinbrain_ros",
        executable=executable,
        name=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[parameters],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )


def generate_launch_description() -> LaunchDescription:
    """Policy and controller."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            # Fast DDS loses large best-effort images silently with its default transports.
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            node("controller_node", robot=str, autostart=bool, execution_steps=int),
            node(
                "policy_node",
                robot=str,
                autostart=bool,
                execution_steps=int,
                checkpoint=str,
                device=str,
                dtype=str,
                left_period_s=float,
            ),
        ]
    )
