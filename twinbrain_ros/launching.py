"""What the launch files share: their arguments, this package's nodes, and a recorder.

Only launch files import it: launch and launch_ros come with a ROS installation, not with wheels.

Nothing is started before every argument was checked. A node that ends soon after its start ends the launch;
one that ends later leaves the others as they are (the arm holds), and may be started again. However the
launch ends, its nodes end too: each of them watches the launch's process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.events import Shutdown
from launch.launch_description_sources import (
    PythonLaunchDescriptionSource,
    get_launch_description_from_python_launch_file,
)
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch.utilities import perform_substitutions
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

from twinbrain_ros.control.rivals import full_name
from twinbrain_ros.launch_arguments import Argument, ArgumentError, check_apart, check_names, check_values
from twinbrain_ros.parameter_file import check_parameter_file
from twinbrain_ros.resources import PACKAGE, share_dir, transport_environment
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

SWITCH = ("true", "false")
_SHARED: dict[str, Argument] = {
    "namespace": Argument(
        str, "", "Namespace of all nodes and topics, one for each arm.", means="namespace"
    ),
    "robot": Argument(str, "wx250s", "Robot file: the name of one that ships, or a path.", means="robot"),
    "checkpoint": Argument(
        str, "", "Directory of a TwinBrain checkpoint; empty takes the demo's.", means="checkpoint"
    ),
    "device": Argument(str, "cpu", "Where the policy runs: cpu, cuda, cuda:1, ...", means="device"),
    "dtype": Argument(
        str, "", "Type of the weights; empty: bfloat16 on a GPU, else float32.", ("", "float32", "bfloat16")
    ),
    "left_period_s": Argument(
        float, "0.0", "How old [s] what the left brain remembers may be; 0 runs it for every chunk.",
        lower=0.0, upper=60.0,
    ),
    "strategy": Argument(
        str, "receding_horizon",
        "How chunks follow one another; real_time also makes the policy continue the running chunk.",
        ("open_loop", "receding_horizon", "temporal_ensemble", "real_time"),
    ),
    "execution_steps": Argument(
        int, "0", "Steps of each chunk that are executed; 0 takes the robot file's.", lower=0, upper=1000
    ),
    "dry_run": Argument(
        bool, "false", "Publish commands on dry_run/<topic> only, where no arm listens.", SWITCH
    ),
    "velocity_margin": Argument(
        float, "0.9", "Share of the joint velocity limits that commands may use; 0.2 on the first day.",
        lower=0.01, upper=1.0,
    ),
    "autostart": Argument(
        bool, "false", "Configure and activate the nodes; the arm holds all the same.", SWITCH
    ),
    "use_sim_time": Argument(bool, "false", "Take the time from /clock.", SWITCH),
    "record": Argument(
        bool, "false",
        "Start a recorder_node: every stretch of autonomy becomes a bag, and others by its services.", SWITCH,
    ),
    "bag_dir": Argument(
        str, "bags", "Directory of recordings; each is one inside, named by its time.", means="directory"
    ),
    "image_compression": Argument(
        str, "none", "What becomes of raw images in recordings; png is lossless.", ("none", "jpeg", "png")
    ),
    "params_file": Argument(
        str, "", "File of ROS parameters for all nodes (every parameter of each); empty: none.", means="file"
    ),
    "log_level": Argument(
        str, "info", "The least severe messages to be logged.", ("debug", "info", "warn", "error", "fatal")
    ),
}  # fmt: skip
# Of single launch files; how they are described is written there.
_OWN: dict[str, Argument] = {
    **dict.fromkeys(("seed", "left_seed", "right_seed"), Argument(int, "0", "", lower=0, upper=2**31 - 1)),
    **dict.fromkeys(("left", "right"), Argument(str, "", "", means="namespace")),
    "joy_device": Argument(int, "0", "", lower=0, upper=1000),
}
# In every launch file, beside its own.
EVERYWHERE = ("namespace", "use_sim_time", "params_file", "log_level")
RECORDING = ("record", "bag_dir", "image_compression")

# A node that ends earlier than this had nothing to do with what happened since.
AT_START_S = 30.0
LAUNCHED_BY = "TWINBRAIN_LAUNCHED_BY"  # as `nodes.lifeline` reads it, which is imported by nodes only

# Until what the recorder holds is on the disk and its bag is whole.
_BAG_CLOSES_S = 30


def arguments(*names: str, **defaults: Any) -> list[DeclareLaunchArgument]:
    """Declares shared arguments, some with other defaults than usual."""
    declared = []
    for name in names:
        shared = _SHARED[name]
        choices = list(shared.choices) or None
        default = defaults.get(name, shared.default)
        declared.append(
            DeclareLaunchArgument(
                name, default_value=default, choices=choices, description=shared.description
            )
        )
    return declared


def checked(
    file: str, theirs: Callable[[Any], Iterable[IncludeLaunchDescription]] | None = None
) -> OpaqueFunction:
    """Ends the launch with a sentence if this file cannot take what it is given; to be put before all else.

    Args:
        file: the launch file's name.
        theirs: gives the launch files of others that it includes now, whose arguments it takes too.
    """

    def check(context: Any) -> None:
        path = share_dir() / "launch" / file
        declared: dict[str, DeclareLaunchArgument] = {}
        for argument in get_launch_description_from_python_launch_file(str(path)).get_launch_arguments():
            declared.setdefault(argument.name, argument)
        given = dict(context.launch_configurations)
        of_this = {name: value for name, value in given.items() if name in declared}
        check_values(of_this, {name: _argument(entry) for name, entry in declared.items()})
        values = _with_defaults(context, declared)
        arms = [side for side in ("left", "right") if side in declared]
        check_apart(values, arms)
        # Else another file includes it, with arguments of its own.
        on_top = any(Path(word).name == file for word in sys.argv)
        if on_top:
            with _all_set(context, values):
                more = theirs(context) if theirs is not None else ()
                known = {*declared, *(name for entry in more for name in _arguments_of(entry, context))}
            check_names(_typed(context), known)
        if of_this.get("params_file"):
            spaces = [values[side] for side in arms] or [values.get("namespace", "")]
            outer = given.get("ros_namespace", "")
            nodes = _nodes([_below(outer, space) for space in spaces], values)
            _check_file(of_this["params_file"], nodes, not on_top, values, _typed(context))

    return OpaqueFunction(function=check)


def _with_defaults(context: Any, declared: Mapping[str, DeclareLaunchArgument]) -> dict[str, str]:
    """What every argument is, or will be: a default may be made of arguments that were declared before."""
    values: dict[str, str] = {}
    for name, entry in declared.items():
        with _all_set(context, values):
            default = perform_substitutions(context, entry.default_value or [])
        values[name] = context.launch_configurations.get(name, default)
    return values


@contextmanager
def _all_set(context: Any, values: Mapping[str, str]) -> Iterator[None]:
    """Meanwhile the launch has these values."""
    before = dict(context.launch_configurations)
    context.launch_configurations.update(values)
    try:
        yield
    finally:
        context.launch_configurations.clear()
        context.launch_configurations.update(before)


def _arguments_of(entry: IncludeLaunchDescription, context: Any) -> list[str]:
    description = entry.launch_description_source.get_launch_description(context)
    return [argument.name for argument in description.get_launch_arguments()]


def _below(outer: str, namespace: str) -> str:
    return namespace if namespace.startswith("/") else f"{outer.rstrip('/')}/{namespace}"


def _nodes(namespaces: Iterable[str], values: Mapping[str, str]) -> dict[str, Mapping[str, Any] | None]:
    """Parameters of the nodes that launch files start, by full names; None: they are not known."""
    from twinbrain_ros.nodes.catalogue import parameters_of_all

    known: dict[str, Mapping[str, Any] | None] = dict(parameters_of_all())
    if values.get("use_camera") == "usb_cam":
        known |= {f"{camera.name}_camera": None for camera in load_robot(values["robot"]).cameras}
    return {full_name(space, name): entry for space in namespaces for name, entry in known.items()}


def _typed(context: Any) -> list[str]:
    """Names of the arguments of the command line."""
    return [word.partition(":=")[0] for word in context.argv if ":=" in word]


def _argument(declared: DeclareLaunchArgument) -> Argument:
    known = _SHARED.get(declared.name) or _OWN.get(declared.name)
    if known is not None:
        return known
    return Argument(str, "", "", tuple(declared.choices or ()))


def _check_file(
    name: str,
    nodes: Mapping[str, Mapping[str, Any] | None],
    others: bool,
    values: Mapping[str, str],
    typed: list[str],
) -> None:
    """Raises ArgumentError or ParameterFileError if a parameter file cannot be used, or contradicts."""
    path = Path(name).expanduser()
    said = check_parameter_file(path, nodes, others)
    if "robot" in said and said["robot"] != values.get("robot"):
        raise ArgumentError(
            f"params_file {path}: robot is {said['robot']!r}, expected it as the launch argument robot"
        )
    for name in typed:
        if name in said and name in _SHARED and not _same(said[name], values[name]):
            raise ArgumentError(
                f"launch argument {name} is {values[name]!r}, but {path} says {said[name]!r}: give it once"
            )


def _same(said: Any, given: str) -> bool:
    return (
        said == type(said)(given)
        if isinstance(said, (int, float)) and not isinstance(said, bool)
        else (str(said).lower() == given.lower())
    )


def parameter(name: str, kind: type | None = None) -> ParameterValue:
    """An argument's value as a parameter; its type has to be given if it is not a shared one."""
    return ParameterValue(LaunchConfiguration(name), value_type=kind or _SHARED[name].kind)


def equals(name: str, value: str) -> PythonExpression:
    """Whether an argument has a value."""
    return PythonExpression(["'", LaunchConfiguration(name), f"' == '{value}'"])


class _LaunchedNode(Node):
    """A node that takes the launch's parameter file, if there is one, after everything else."""

    def _perform_substitutions(self, context: Any) -> None:
        path = context.launch_configurations.get("params_file", "")
        if path:
            # launch_ros has no public way to what it was given.
            name = "_Node__parameters"
            setattr(self, name, (*getattr(self, name), ParameterFile(str(Path(path).expanduser()))))
        super()._perform_substitutions(context)


def node(executable: str, *names: str, package: str = PACKAGE, **more: Any) -> Node:
    """A node in the launch's namespace, time and log level; it ends with the launch.

    Args:
        executable: is its name too.
        names: shared arguments that it takes as parameters.
        package: that it is from.
        more: of Node; `parameters` is a dictionary here.
    """
    taken = {name: parameter(name) for name in (*names, "use_sim_time")}
    started_s = time.monotonic()
    if package != PACKAGE:  # it does not know of the launch: something has to look for it
        more.setdefault("prefix", f"{sys.executable} -m twinbrain_ros.nodes.lifeline")

    def ended(event: Any, context: Any) -> Any:
        if context.is_shutdown:
            return None
        after_s = time.monotonic() - started_s
        what = f"{executable} ended with exit code {event.returncode}"
        if after_s < AT_START_S:
            reason = f"{what} {after_s:.0f} s after its start: the launch ends"
            return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]
        return [LogInfo(msg=f"{what}: the others go on (the arm holds); it can be started again")]

    return _LaunchedNode(
        package=package,
        executable=executable,
        name=more.pop("name", executable),
        namespace=LaunchConfiguration("namespace"),
        parameters=[taken | more.pop("parameters", {})],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        additional_env={LAUNCHED_BY: str(os.getpid())},
        on_exit=ended,
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
