"""The launch files, walked by the real `launch` where it is installed: it does not come as a wheel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from twinbrain_ros.resources import TRANSPORT_CHOICES, share_dir, transport_environment
from twinbrain_ros.robot.robot_file import load_robot

REASON = "the launch packages are not installed: they come with a ROS installation, not with wheels"
FILES = (
    "policy.launch.py",
    "sim.launch.py",
    "teleop.launch.py",
    "two_arms.launch.py",
    "widowx.launch.py",
)
# Those that start a policy.
LOOPS = tuple(name for name in FILES if name != "teleop.launch.py")
EVERYWHERE = {"namespace", "robot", "autostart", "dry_run", "use_sim_time", "record", "bag_dir", "log_level"}
OF_LOOPS = {"checkpoint", "device", "dtype", "left_period_s", "strategy", "execution_steps"}
SWITCHES = {"autostart", "dry_run", "use_sim_time", "record", "controller"}


@dataclass
class Started:
    """A process that a launch would start."""

    executable: str
    namespace: str = ""
    name: str = ""
    parameters: dict[str, Any] | None = None
    remappings: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] | None = None


def launch_file(name: str) -> Path:
    return share_dir() / "launch" / name


def load(name: str) -> Any:
    pytest.importorskip("launch", reason=REASON)
    pytest.importorskip("launch_ros", reason=REASON)
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    return get_launch_description_from_python_launch_file(str(launch_file(name)))


def arguments_of(name: str) -> dict[str, Any]:
    """Its arguments by name, the outermost first."""
    found: dict[str, Any] = {}
    for argument in load(name).get_launch_arguments():
        found.setdefault(argument.name, argument)
    return found


def started(name: str, found: list[Started] | None = None, /, **given: str) -> list[Started]:
    """What a launch file would start with arguments: all of it is worked out, and nothing is run.

    Args:
        found: is added to as it goes, for what ends in an error.
    """
    description = load(name)
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(given)
    found = [] if found is None else found
    walk(description, context, found)
    return found


def walk(entity: Any, context: Any, found: list[Started]) -> None:
    from launch.actions import ExecuteProcess
    from launch_ros.actions import Node

    if not isinstance(entity, ExecuteProcess):
        for inner in entity.visit(context) or ():
            walk(inner, context, found)
    elif entity.condition is None or entity.condition.evaluate(context):
        found.append(node_of(entity, context) if isinstance(entity, Node) else process_of(entity, context))


def text(context: Any, parts: Any) -> str:
    return "".join(part.perform(context) for part in parts)


def process_of(process: Any, context: Any) -> Started:
    command = tuple(text(context, part) for part in process.cmd)
    return Started(command[0], command=command, environment=dict(context.environment))


def node_of(node: Any, context: Any) -> Started:
    node._perform_substitutions(context)
    parameters: dict[str, Any] = {}
    for source, is_file in node._Node__expanded_parameter_arguments:
        assert is_file
        for block in yaml.safe_load(Path(source).read_text(encoding="utf-8")).values():
            parameters.update(block["ros__parameters"])
    executable = node.node_executable
    return Started(
        executable if isinstance(executable, str) else text(context, executable),
        node.expanded_node_namespace,
        node.node_name.rpartition("/")[2],
        parameters,
        tuple(node.expanded_remapping_rules or ()),
        environment=dict(context.environment),
    )


def by_executable(processes: list[Started]) -> dict[str, Started]:
    assert len({process.executable for process in processes}) == len(processes)
    return {process.executable: process for process in processes}


@pytest.mark.parametrize("name", FILES)
def test_a_launch_file_is_valid_python(name: str) -> None:
    path = launch_file(name)
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert "generate_launch_description" in code.co_names


def test_every_launch_file_is_tested() -> None:
    assert {path.name for path in launch_file(".").glob("*.launch.py")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(name: str) -> None:
    arguments = arguments_of(name)
    assert set(arguments) >= EVERYWHERE | (OF_LOOPS if name in LOOPS else set())
    assert all(len(argument.description) > 10 for argument in arguments.values())
    for switch in SWITCHES & set(arguments):
        assert arguments[switch].choices == ["true", "false"], switch
    assert "info" in arguments["log_level"].choices


def test_the_strategies_are_those_of_the_controller() -> None:
    from twinbrain_ros.control.strategies import Strategy

    assert arguments_of("policy.launch.py")["strategy"].choices == [kind.value for kind in Strategy]


def test_another_strategy_is_refused() -> None:
    with pytest.raises(Exception, match="strategy"):
        started("policy.launch.py", strategy="realtime")


def test_a_real_arm_does_not_start_by_itself() -> None:
    for name in ("policy.launch.py", "widowx.launch.py", "teleop.launch.py"):
        assert arguments_of(name)["autostart"].default_value[0].text == "false"


@pytest.mark.parametrize("name", FILES)
def test_every_node_gets_time_robot_and_start_from_the_arguments(name: str) -> None:
    given = {"use_sim_time": "true", "autostart": "true", "robot": "wx250s", "log_level": "debug"}
    nodes = started(name, **given)
    assert nodes
    for node in nodes:
        assert node.parameters is not None and node.parameters["use_sim_time"] is True
        if node.executable != "joy_node":
            assert (node.parameters["robot"], node.parameters["autostart"]) == ("wx250s", True)


@pytest.mark.parametrize("name", [name for name in FILES if name != "two_arms.launch.py"])
def test_the_namespace_reaches_every_node(name: str) -> None:
    nodes = started(name, namespace="arm/left")
    assert nodes and {node.namespace for node in nodes} == {"/arm/left"}
    # Relative names only: an absolute one would leave the namespace.
    assert not [rule for node in nodes for rule in node.remappings if any(side[0] == "/" for side in rule)]


def test_the_nodes_take_their_arguments_as_parameters() -> None:
    given = {"checkpoint": "/here", "device": "cuda:1", "dtype": "bfloat16", "left_period_s": "0.5"}
    nodes = by_executable(started("policy.launch.py", **given, execution_steps="3", dry_run="true"))
    assert set(nodes) == {"controller_node", "policy_node"}
    policy, controller = nodes["policy_node"].parameters, nodes["controller_node"].parameters
    assert policy == {
        "robot": "wx250s", "autostart": False, "execution_steps": 3, "use_sim_time": False,
        "real_time": False, "checkpoint": "/here", "device": "cuda:1", "dtype": "bfloat16",
        "left_period_s": 0.5,
    }  # fmt: skip
    assert controller == {
        "robot": "wx250s", "autostart": False, "execution_steps": 3, "use_sim_time": False,
        "strategy": "receding_horizon", "dry_run": True, "velocity_margin": 0.9,
    }  # fmt: skip


def test_every_parameter_is_one_of_the_nodes() -> None:
    from twinbrain_ros.nodes.controller_node import ControllerNode
    from twinbrain_ros.nodes.parameters import COMMON
    from twinbrain_ros.nodes.policy_node import PolicyNode
    from twinbrain_ros.nodes.sim_node import SimNode

    kinds: dict[str, Any] = {
        "controller_node": ControllerNode,
        "policy_node": PolicyNode,
        "sim_node": SimNode,
    }
    nodes = by_executable(started("sim.launch.py"))
    assert set(nodes) == set(kinds)
    for executable, node in nodes.items():
        declared = {
            parameter.name: parameter.default for parameter in (*COMMON, *kinds[executable].parameters)
        }
        for name, value in (node.parameters or {}).items():
            # rclpy declares this one itself.
            assert name == "use_sim_time" or type(value) is type(declared[name]), name


@pytest.mark.parametrize(("strategy", "real_time"), [("real_time", True), ("temporal_ensemble", False)])
def test_a_strategy_reaches_controller_and_policy(strategy: str, real_time: bool) -> None:
    nodes = by_executable(started("sim.launch.py", strategy=strategy))
    controller, policy = nodes["controller_node"].parameters, nodes["policy_node"].parameters
    assert controller is not None and controller["strategy"] == strategy
    assert policy is not None and policy["real_time"] is real_time


def test_large_images_get_through_unless_the_shell_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen in ("", *TRANSPORT_CHOICES):
        for name in TRANSPORT_CHOICES:
            monkeypatch.delenv(name, raising=False)
        if chosen:
            monkeypatch.setenv(chosen, "mine")
        for node in started("sim.launch.py"):
            assert node.environment is not None
            found = {name: node.environment[name] for name in TRANSPORT_CHOICES if name in node.environment}
            assert found == ({chosen: "mine"} if chosen else transport_environment({})) != {}


# Two arms -------------------------------------------------------------------------------------------


def test_two_arms_share_no_topic() -> None:
    processes = started("two_arms.launch.py", right="wx/right", record="true")
    each = {"controller_node", "policy_node", "sim_node", "recorder_node"}
    assert {(node.namespace, node.executable) for node in processes} == {
        (namespace, executable) for namespace in ("/left", "/wx/right") for executable in each
    }


def test_two_arms_have_scenes_of_their_own_and_share_other_arguments() -> None:
    nodes = started("two_arms.launch.py", right_seed="7", task="put", strategy="open_loop")
    seeds = {
        node.namespace: (node.parameters["seed"], node.parameters["task"])
        for node in nodes
        if node.executable == "sim_node" and node.parameters
    }
    assert seeds == {"/left": (0, "put"), "/right": (7, "put")}
    strategies = [
        node.parameters["strategy"]
        for node in nodes
        if node.executable == "controller_node" and node.parameters
    ]
    assert strategies == ["open_loop", "open_loop"]


# Recording ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_recorded_unless_asked_for(name: str) -> None:
    assert all(process.executable != "recorder_node" for process in started(name))


@pytest.mark.parametrize("name", [name for name in FILES if name != "two_arms.launch.py"])
def test_a_recorder_starts_beside_the_others_and_follows_autonomy(name: str, tmp_path: Path) -> None:
    asked = {"record": "true", "bag_dir": str(tmp_path), "image_compression": "png"}
    processes = started(name, namespace="left", robot="wx250s", **asked)
    (recorder,) = (process for process in processes if process.executable == "recorder_node")
    assert recorder.namespace == "/left" and recorder.parameters is not None
    assert recorder.parameters["directory"] == str(tmp_path)
    assert recorder.parameters["image_compression"] == "png"
    assert recorder.parameters["auto"] is True and recorder.parameters["autostart"] is True
    assert recorder.parameters["robot"] == "wx250s"


def test_a_recorder_follows_the_namespace_that_somebody_has_put_around() -> None:
    description = load("policy.launch.py")
    from launch.actions import GroupAction
    from launch_ros.actions import PushRosNamespace

    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(record="true", namespace="left")
    found: list[Started] = []
    walk(GroupAction([PushRosNamespace("cell"), *description.entities]), context, found)
    assert {process.namespace for process in found} == {"/cell/left"}
    assert "recorder_node" in {process.executable for process in found}


# Teleoperation --------------------------------------------------------------------------------------


def test_a_joystick_comes_with_a_controller_unless_there_is_one_already() -> None:
    nodes = by_executable(started("teleop.launch.py", joy_device="2"))
    assert set(nodes) == {"joy_node", "controller_node"}
    joystick = nodes["joy_node"].parameters
    assert joystick is not None and joystick["device_id"] == 2 and joystick["autorepeat_rate"] == 20.0
    assert set(by_executable(started("teleop.launch.py", controller="false"))) == {"joy_node"}


def edited(tmp_path: Path, change: Any) -> str:
    """A changed copy of the shipped robot file."""
    robot = load_robot("wx250s")
    document = yaml.safe_load(robot.path.read_text(encoding="utf-8"))
    document["urdf"] = str(robot.urdf_path)
    change(document)
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def test_the_joystick_talks_on_the_robot_files_topic(tmp_path: Path) -> None:
    robot = edited(tmp_path, lambda document: document["teleop"][0].update(topic="pad/joy"))
    assert by_executable(started("teleop.launch.py", robot=robot))["joy_node"].remappings == (
        ("joy", "pad/joy"),
    )


def test_a_robot_file_without_a_joystick_is_named(tmp_path: Path) -> None:
    robot = edited(tmp_path, lambda document: document.update(teleop=[]))
    found: list[Started] = []
    with pytest.raises(RuntimeError, match=r"edited.yaml: no input of kind 'joy'"):
        started("teleop.launch.py", found, robot=robot)
    assert not found


# The WidowX, with drivers of others -------------------------------------------------------------------

DRIVER = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

NAMES = {names}

def generate_launch_description():
    arguments = [DeclareLaunchArgument(name, default_value="unset", description="x") for name in NAMES]
    values = {{name: LaunchConfiguration(name) for name in NAMES}}
    return LaunchDescription([
        *arguments,
        Node(package="p", executable="{executable}", name={node}, namespace={namespace}, parameters=[values]),
    ])
"""
ARM = ("robot_model", "robot_name", "use_rviz", "use_sim_time")
CAMERA = (
    "camera_name",
    "camera_namespace",
    "serial_no",
    "rgb_camera.color_profile",
    "rgb_camera.color_format",
)


@pytest.fixture
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages with launch files like those of the real drivers."""

    def package(name: str, file: str, names: tuple[str, ...], node: str, namespace: str) -> None:
        index = tmp_path / "share/ament_index/resource_index/packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / name).touch()
        folder = tmp_path / "share" / name / "launch"
        folder.mkdir(parents=True)
        text = DRIVER.format(names=names, executable=name, node=node, namespace=namespace)
        (folder / file).write_text(text, encoding="utf-8")

    robot, camera = "LaunchConfiguration('robot_name')", "LaunchConfiguration('camera_namespace')"
    package("interbotix_xsarm_ros_control", "xsarm_ros_control.launch.py", ARM, "'driver'", robot)
    package("interbotix_xsarm_control", "xsarm_control.launch.py", ARM, "'driver'", robot)
    package("realsense2_camera", "rs_launch.py", CAMERA, "LaunchConfiguration('camera_name')", camera)
    package("usb_cam", "camera.launch.py", (), "'camera'", "''")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))


def test_without_drivers_it_is_the_policy_launch() -> None:
    nodes = by_executable(started("widowx.launch.py"))
    assert set(nodes) == {"controller_node", "policy_node"}
    assert {node.namespace for node in nodes.values()} == {"/wx250s"}


@pytest.mark.parametrize(
    ("given", "package"),
    [
        ({"use_arm": "ros2_control"}, "interbotix_xsarm_ros_control"),
        ({"use_arm": "xs"}, "interbotix_xsarm_control"),
        ({"use_camera": "realsense"}, "realsense2_camera"),
        ({"use_camera": "usb_cam"}, "usb_cam"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    given: dict[str, str], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    found: list[Started] = []
    with pytest.raises(Exception, match=package):
        started("widowx.launch.py", found, **given)
    # Launch ends on it, but would leave running what it has only just started.
    assert not found


@pytest.mark.parametrize(
    ("use_arm", "package", "robot"),
    [
        ("ros2_control", "interbotix_xsarm_ros_control", "wx250s"),
        ("xs", "interbotix_xsarm_control", "wx250s_xs"),
    ],
)
def test_the_arms_driver_has_the_namespace_as_its_name(
    drivers: None, use_arm: str, package: str, robot: str
) -> None:
    nodes = by_executable(started("widowx.launch.py", use_arm=use_arm, namespace="left"))
    assert set(nodes) == {"controller_node", "policy_node", package}
    driver = nodes[package]
    assert driver.namespace == "/left"
    assert driver.parameters == {
        "robot_model": "wx250s", "robot_name": "left", "use_rviz": False, "use_sim_time": False,
    }  # fmt: skip
    for executable in ("controller_node", "policy_node"):
        parameters = nodes[executable].parameters
        assert parameters is not None and parameters["robot"] == robot


def test_realsense_cameras_publish_what_the_robot_file_names(drivers: None) -> None:
    nodes = started("widowx.launch.py", use_camera="realsense", robot="franka", wrist_camera="123456")
    front, wrist = (node for node in nodes if node.executable == "realsense2_camera")
    assert (front.name, front.namespace) == ("front_camera", "/wx250s")
    assert front.remappings == (
        ("~/color/image_raw", "camera/front/image_raw"),
        ("~/color/camera_info", "camera/front/camera_info"),
    )
    assert wrist.remappings[0] == ("~/color/image_raw", "camera/wrist/image_raw")
    assert front.parameters is not None and wrist.parameters is not None
    assert front.parameters["rgb_camera.color_profile"] == "640x480x30"
    assert (front.parameters["serial_no"], wrist.parameters["serial_no"]) == ("", "123456")


def test_a_usb_camera_publishes_what_the_robot_file_names(drivers: None) -> None:
    nodes = by_executable(started("widowx.launch.py", use_camera="usb_cam", robot="franka"))
    camera = nodes["usb_cam_node_exe"]
    assert (camera.name, camera.namespace) == ("front_camera", "/wx250s")
    assert dict(camera.remappings) == {
        "image_raw": "camera/front/image_raw",
        "camera_info": "camera/front/camera_info",
    }
    assert camera.parameters is not None
    assert (camera.parameters["image_width"], camera.parameters["framerate"]) == (640, 30.0)
    assert camera.parameters["video_device"] == "/dev/video0"
