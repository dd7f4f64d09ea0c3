"""The launch files that start drivers of others: a joystick's, the arm's, cameras'."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_rig import Started, by_executable, started

from twinbrain_ros.robot.robot_file import load_robot

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
ARM = ("robot_model", "robot_name", "use_rviz", "use_sim_time", "load_configs")
CAMERA = (
    "camera_name",
    "camera_namespace",
    "serial_no",
    "rgb_camera.color_profile",
    "rgb_camera.color_format",
    "enable_gyro",
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
        "load_configs": "unset",
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
        ("~/color/image_raw/compressed", "camera/front/image_raw/compressed"),
        ("~/color/camera_info", "camera/front/camera_info"),
    )
    assert wrist.remappings[0] == ("~/color/image_raw", "camera/wrist/image_raw")
    assert front.parameters is not None and wrist.parameters is not None
    assert front.parameters["rgb_camera.color_profile"] == "640x480x30"
    assert (front.parameters["serial_no"], wrist.parameters["serial_no"]) == ("", "123456")


def test_arguments_of_the_drivers_are_theirs(drivers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"use_camera": "realsense", "enable_gyro": "true", "use_arm": "xs", "load_configs": "false"}
    words = [f"{name}:={value}" for name, value in given.items()]
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "twinbrain_ros", "widowx.launch.py", *words])
    camera = by_executable(started("widowx.launch.py", **given))["realsense2_camera"]
    assert camera.parameters is not None and camera.parameters["enable_gyro"] is True
    monkeypatch.setattr(sys, "argv", [*sys.argv, "robto:=franka"])
    with pytest.raises(Exception, match="robto"):
        started("widowx.launch.py", **given, robto="franka")


def test_a_parameter_file_may_name_the_robot_that_the_driver_implies(drivers: None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("/**:\n  ros__parameters:\n    robot: wx250s_xs\n", encoding="utf-8")
    assert started("widowx.launch.py", use_arm="xs", params_file=str(path))
    with pytest.raises(Exception, match="expected it as the launch argument robot"):
        started("widowx.launch.py", params_file=str(path))


def test_a_usb_camera_publishes_what_the_robot_file_names(drivers: None) -> None:
    nodes = by_executable(started("widowx.launch.py", use_camera="usb_cam", robot="franka"))
    camera = nodes["usb_cam_node_exe"]
    assert (camera.name, camera.namespace) == ("front_camera", "/wx250s")
    assert dict(camera.remappings) == {
        "image_raw": "camera/front/image_raw",
        "image_raw/compressed": "camera/front/image_raw/compressed",
        "camera_info": "camera/front/camera_info",
    }
    assert camera.parameters is not None
    assert (camera.parameters["image_width"], camera.parameters["framerate"]) == (640, 30.0)
    assert camera.parameters["video_device"] == "/dev/video0"
