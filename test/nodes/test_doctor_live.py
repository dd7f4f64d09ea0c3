"""`twinbrain doctor --live` on a running graph."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller_manager_msgs.srv import ListControllers
from controller_rig import ControllerRig
from rclpy.qos import QoSProfile, ReliabilityPolicy
from robot_files import commanded_gripper
from sensor_msgs.msg import CompressedImage, JointState
from stand_in_drivers import ControllerManager
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import ActionChunk

from twinbrain_ros.cli import main
from twinbrain_ros.demo.checks import Check
from twinbrain_ros.demo.live_checks import live_checks
from twinbrain_ros.nodes import qos
from twinbrain_ros.robot.robot_file import RobotFile, load_robot


def looked_at(bench: Any, robot: RobotFile, **more: Any) -> dict[str, Check]:
    """The checks by name, made in a thread of their own as by another process, while the bench runs."""
    with ThreadPoolExecutor(max_workers=1) as doctor:
        checks = doctor.submit(lambda: list(live_checks(robot, **more)))
        bench.until(checks.done, "the doctor does not come back")
    return {check.name: check for check in checks.result()}


def test_a_running_arm_is_described(bench: Any, robot: RobotFile) -> None:
    manager = ControllerManager(bench.node, robot)
    ControllerRig(bench, robot)
    checks = looked_at(bench, robot)
    arm = checks["arm's commands"]
    assert (arm.status, arm.found) == (
        "ok", "/arm_controller/joint_trajectory from /controller_node to /bench",
    )  # fmt: skip
    assert checks["chunks"].found == "/action_chunk from /bench"
    assert checks["joint states"].status == checks["clocks"].status == "ok"
    assert "is active, at 100 Hz" in checks["arm's controller"].found
    assert checks["quality of service"].status == "ok"
    assert checks["/controller_node says"].status == "ok"
    assert "/policy_node is not among" in checks["nodes"].found
    assert checks["arm follows"].found.startswith("unknown: nothing on /arm_controller/controller_state")
    assert manager.controllers


def test_what_is_wrong_with_a_running_arm_is_named(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot)
    bench.node.create_publisher(JointTrajectory, robot.topics.arm_trajectory, qos.COMMAND)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    bench.node.create_publisher(ActionChunk, robot.topics.action_chunk, best_effort)
    rig.reads = None
    checks = looked_at(bench, robot)
    assert checks["arm's commands"].status == "fail"
    assert "from /bench and /controller_node" in checks["arm's commands"].found
    assert checks["quality of service"].status == "fail"
    assert "/action_chunk: /controller_node does not hear /bench" in checks["quality of service"].found
    assert checks["controllers"].found.startswith("unknown: there is no service /controller_manager/list_con")
    assert checks["/controller_node says"].status == "fail"


def test_topics_are_those_that_the_nodes_use(bench: Any, robot: RobotFile, tmp_path: Path) -> None:
    """Joint states in parts, compressed images, a controller manager of another name."""
    document = yaml.safe_load(robot.path.read_text(encoding="utf-8"))
    document["urdf"] = str(robot.urdf_path)
    document["topics"]["joint_states"] = ["arm/joint_states", "hand/joint_states"]
    document["cameras"][0]["transport"] = "compressed"
    path = tmp_path / "parts.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    parts = load_robot(path)
    parted = {"arm": robot.arm_joints, "hand": (robot.gripper.joint,)}
    publishers = {of: bench.node.create_publisher(JointState, f"{of}/joint_states", 5) for of in parted}

    def tell() -> None:
        for of, names in parted.items():
            publishers[of].publish(JointState(name=list(names), position=[0.02] * len(names)))

    bench.node.create_timer(0.02, tell)
    image = parts.cameras[0].image_topic
    bench.node.create_publisher(CompressedImage, image, 5)
    bench.node.create_service(ListControllers, "/cell/manager/list_controllers", lambda _, answer: answer)
    checks = looked_at(bench, parts, manager="/cell/manager")
    joints, camera = checks["joint states"], checks[f"camera {parts.cameras[0].name}"]
    assert joints.status == "ok" and "/hand/joint_states at" in joints.found, joints
    assert (camera.status, camera.found) == ("ok", f"/{image} from /bench")
    assert checks["arm's controller"].mend.endswith("-c /cell/manager")


def test_of_a_gripper_that_is_not_measured_it_says_what_it_was_told(bench: Any, tmp_path: Path) -> None:
    commanded = commanded_gripper(tmp_path)
    rig = ControllerRig(bench, commanded, finger_m=math.nan)
    checks = looked_at(bench, commanded)
    assert checks["joint states"].status == "ok"
    found = checks["gripper's position"]
    assert found.status == "warn" and found.found.endswith("go_to home first")
    rig.go("go_home")
    found = looked_at(bench, commanded)["gripper's position"]
    assert found.status == "ok"
    assert found.found.startswith("as commanded, /commanded_joint_states from /controller_node at ")


def test_without_a_graph_it_says_what_is_missing(bench: Any, robot: RobotFile) -> None:
    checks = looked_at(bench, robot)
    assert "/controller_node, /policy_node is not among" in checks["nodes"].found
    assert "no driver listens to /arm_controller/joint_trajectory" in checks["arm's commands"].found
    assert checks["joint states"].found == "none on /joint_states"
    assert checks["clocks"].found.startswith("unknown")


def test_a_robot_file_that_is_not_there_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--live", "--robot", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
