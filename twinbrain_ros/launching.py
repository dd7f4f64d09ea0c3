"""What the launch files share: their arguments, this package's nodes, and a recorder.

Only launch files import it: launch and launch_ros come with a ROS installation, not with wheels.
"""

from __future__ import annotations

from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from twinbrain_ros.resources import PACKAGE, share_dir, transport_environment
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

# By name: type of the parameter, default, choices if there are only some, description.
_SHARED: dict[str, tuple[type, str, list[str] | None, str]] = {
    "namespace": (str, "", None, "Namespace of all nodes and topics, one for each arm."),
    "robot": (str, "wx250s", None, "Robot file: the name of one that ships, or a path."),
    "checkpoint": (str, "", None, "Directory of a TwinBrain checkpoint; empty takes the demo's."),
    "device": (str, "cpu", None, "Where the policy runs: cpu, cuda, cuda:1, ..."),
    "dtype": (
        str, "", ["", "float32", "bfloat16"], "Type of the weights; empty: bfloat16 on a GPU, else float32.",
    ),
    "left_period_s": (
        float, "0.0", None, "How old [s] what the left brain remembers may be; 0 runs it for every chunk.",
    ),
    "strategy": (
        str, "receding_horizon", ["open_loop", "receding_horizon", "temporal_ensemble", "real_time"],
        "How chunks follow one another; real_time also makes the policy continue the running chunk.",
    ),
    "execution_steps": (
        int, "0", None, "Steps of each chunk that are executed; 0 takes the robot file's.",
    ),
    "dry_run": (
        bool, "false", ["true", "false"], "Publish commands on dry_run/<topic> only, where no arm listens.",
    ),
    "velocity_margin": (
        float, "0.9", None, "Share of the joint velocity limits that commands may use; 0.2 on the first day.",
    ),
    "autostart": (
        bool, "false", ["true", "false"], "Configure and activate the nodes; the arm holds all the same.",
    ),
    "use_sim_time": (bool, "false", ["true", "false"], "Take the time from /clock."),
    "record": (
        bool, "false", ["true", "false"],
        "Start a recorder_node: every stretch of autonomy becomes a bag, and others by its services.",
    ),
    "bag_dir": (str, "bags", None, "Directory of recordings; each is one inside, named by its time."),
    "image_compression": (
        str, "none", ["none", "jpeg", "png"], "What becomes of raw images in recordings; png is lossless.",
    ),
    "log_level": (
        str, "info", ["debug", "info", "warn", "error", "fatal"], "The least severe messages to be logged.",
    ),
}  # fmt: skip
RECORDING = ("record", "bag_dir", "image_compression")

# Until what the recorder holds is on the disk and its bag is whole.
_BAG_CLOSES_S = 30


def arguments(*names: str, **defaults: Any) -> list[DeclareLaunchArgument]:
    """Declares shared arguments, some with other defaults than usual."""
    declared = []
    for name in names:
        _, default, choices, description = _SHARED[name]
        default = defaults.get(name, default)
        declared.append(
            DeclareLaunchArgument(name, default_value=default, choices=choices, description=description)
        )
    return declared


def parameter(name: str, kind: type | None = None) -> ParameterValue:
    """An argument's value as a parameter; its type has to be given if it is not a shared one."""
    return ParameterValue(LaunchConfiguration(name), value_type=kind or _SHARED[name][0])


def equals(name: str, value: str) -> PythonExpression:
    """Whether an argument has a value."""
    return PythonExpression(["'", LaunchConfiguration(name), f"' == '{value}'"])


def node(executable: str, *names: str, package: str = PACKAGE, **more: Any) -> Node:
    """A node in the launch's namespace, time and log level.

    Args:
        executable: is its name too.
        names: shared arguments that it takes as parameters.
        package: that it is from.
        more: of Node; `parameters` is a dictionary here.
    """
    taken = {name: parameter(name) for name in (*names, "use_sim_time")}
    return Node(
        package=package,
        executable=executable,
        name=more.pop("name", executable),
        namespace=LaunchConfiguration("namespace"),
        parameters=[taken | more.pop("parameters", {})],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        **more,
    )


def include(name: str, **launch_arguments: Any) -> IncludeLaunchDescription:
    """Another launch file of this package, with arguments that differ from this one's."""
    source = PythonLaunchDescriptionSource(str(share_dir() / "launch" / name))
    return IncludeLaunchDescription(source, launch_arguments=launch_arguments.items())


def image_transport() -> OpaqueFunction:
    """Lets every process that is started after it send and get large images."""

    def settings(context: Any) -> list[SetEnvironmentVariable]:
        added = transport_environment(context.environment)
        return [SetEnvironmentVariable(name, value) for name, value in added.items()]

    return OpaqueFunction(function=settings)


def robot_of(context: Any) -> RobotFile:
    """The robot file that the launch is about."""
    return load_robot(LaunchConfiguration("robot").perform(context))


def recorder() -> Node:
    """Records what the robot file names, if argument `record` says so; as it moves nothing, it is active."""
    return node(
        "recorder_node",
        "robot",
        "image_compression",
        parameters={"directory": parameter("bag_dir"), "auto": True, "autostart": True},
        condition=IfCondition(LaunchConfiguration("record")),
        sigterm_timeout=str(_BAG_CLOSES_S),
    )
