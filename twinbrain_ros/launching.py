"""What the launch files share: their arguments, this package's nodes, and a recorder.

Only launch files import it: launch and launch_ros come with a ROS installation, not with wheels.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from twinbrain_ros.resources import PACKAGE, share_dir
from twinbrain_ros.robot.robot_file import Camera, RobotFile, load_robot

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
    "record": (bool, "false", ["true", "false"], "Record the robot file's topics with ros2 bag."),
    "bag_dir": (str, "bags", None, "Directory of recordings; each is one inside, named by its time."),
    "bag_storage": (str, "mcap", ["mcap", "sqlite3"], "Format of recordings."),
    "log_level": (
        str, "info", ["debug", "info", "warn", "error", "fatal"], "The least severe messages to be logged.",
    ),
}  # fmt: skip
RECORDING = ("record", "bag_dir", "bag_storage")

# Fast DDS loses large best-effort images silently with its default transports; another choice stays.
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
# An unfinished bag cannot be played as it is: the recorder gets time to write what it holds.
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


def image_transport() -> SetEnvironmentVariable:
    """Lets every process that is started after it send and get large images."""
    return SetEnvironmentVariable(_TRANSPORTS, EnvironmentVariable(_TRANSPORTS, default_value="LARGE_DATA"))


def robot_of(context: Any) -> RobotFile:
    """The robot file that the launch is about."""
    return load_robot(LaunchConfiguration("robot").perform(context))


def recorder() -> OpaqueFunction:
    """Records what the robot file names, if argument `record` says so."""
    return OpaqueFunction(function=_recorder, condition=IfCondition(LaunchConfiguration("record")))


def info_topic(camera: Camera) -> str:
    """Where a camera's calibration belongs: beside its images."""
    return str(PurePosixPath(camera.topic).with_name("camera_info"))


def recorded_topics(robot: RobotFile, namespace: str) -> list[str]:
    """Everything that tells of an episode: the robot file's topics in a namespace, and /diagnostics."""
    relative = [topic for camera in robot.cameras for topic in (camera.topic, info_topic(camera))]
    relative += [*vars(robot.topics).values(), *(entry.topic for entry in robot.teleop)]
    return [*(f"{namespace.rstrip('/')}/{topic}" for topic in relative), "/diagnostics"]


def _recorder(context: Any) -> list[ExecuteProcess]:
    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    robot = robot_of(context)
    # Full names: unlike nodes, `ros2 bag` cannot be put into a namespace.
    outer = context.launch_configurations.get("ros_namespace")
    namespace = make_namespace_absolute(prefix_namespace(outer, value("namespace"))) or "/"
    arm = namespace.strip("/").replace("/", "_") or robot.name
    bag = PurePosixPath(value("bag_dir")) / f"{arm}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    command = ["ros2", "bag", "record", "--output", str(bag), "--storage", value("bag_storage")]
    command += ["--node-name", f"recorder_{arm}"]
    command += ["--use-sim-time"] if IfCondition(value("use_sim_time")).evaluate(context) else []
    command += ["--topics", *recorded_topics(robot, namespace)]
    return [ExecuteProcess(cmd=command, name="recorder", output="screen", sigterm_timeout=str(_BAG_CLOSES_S))]
