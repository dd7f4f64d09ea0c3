"""The simulator node over real topics: it looks like an arm with cameras, in real time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import SceneState
from twinbrain_ros.srv import ResetScene

from twinbrain_ros.data.frames import image_from_buffer
from twinbrain_ros.data.joint_parts import part_from_names
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN, OK = 2, 1, 0
NAME = "sim_node"


@pytest.fixture
def sim(bench: Any) -> SimNode:
    node = bench.add(SimNode, autostart=True)
    assert node.autostart()
    return node


def reset(bench: Any, seed: int, task: str) -> ResetScene.Response:
    return bench.call(ResetScene, "reset_scene", ResetScene.Request(seed=seed, task=task))


def test_every_camera_shows_the_robot_files_pictures(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    images = {c.name: bench.record(Image, c.topic, qos.SENSOR_IN) for c in robot.cameras}
    bench.until(lambda: all(len(taken) >= 5 for taken in images.values()))
    for camera in robot.cameras:
        for m in images[camera.name]:
            pixels = image_from_buffer(m.data, m.width, m.height, m.step, m.encoding, camera)
            assert pixels.std() > 10  # it shows something
    stamps = [{convert.from_time(m.header.stamp) for m in taken} for taken in images.values()]
    assert len(stamps[0] & stamps[1]) >= 4  # cameras due together show the same moment


def measured(state: JointState, robot: RobotFile) -> np.ndarray:
    part = part_from_names(0, state.name, state.position, robot)
    assert part is not None and len(part.indices) == len(robot.arm_joints) + 1
    return part.positions


def test_joint_states_come_at_their_rate_with_every_joint(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    states = bench.record(JointState, robot.topics.joint_states, qos.SENSOR_IN)
    bench.until(lambda: len(states) >= 100)
    positions = measured(states[-1], robot)
    np.testing.assert_allclose(positions[:-1], robot.home, atol=0.02)
    assert "right_finger" in states[-1].name
    stamps = [convert.from_time(m.header.stamp) for m in states]
    assert all(later > earlier for earlier, later in pairwise(stamps))

    def period_s() -> float:
        """Over the last half second; a machine that is busy with something else may take its time."""
        newest = [convert.from_time(m.header.stamp) for m in states[-50:]]
        return float(np.median(np.diff(newest))) / 1e9

    bench.until(lambda: period_s() == pytest.approx(1 / robot.rates.joint_states_hz, rel=0.25))


def test_the_description_is_latched(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    texts = bench.record(String, robot.topics.robot_description, qos.LATCHED)
    bench.until(lambda: texts)
    assert texts[0].data == robot.urdf()


def test_the_arm_follows_a_trajectory(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    states = bench.record(JointState, robot.topics.joint_states, qos.SENSOR_IN)
    arm = bench.publisher(JointTrajectory, robot.topics.arm_trajectory, qos.COMMAND)
    target = robot.home + np.array([0.3, 0, 0, 0, 0, 0.2])
    arm.publish(convert.trajectory_message(robot.arm_joints, [0.3], [target.tolist()]))
    bench.until(lambda: states and np.allclose(measured(states[-1], robot)[:-1], target, atol=0.02))
    gripper = bench.publisher(JointTrajectory, robot.topics.gripper_trajectory, qos.COMMAND)
    gripper.publish(convert.trajectory_message([robot.gripper.joint], [0.1], [[robot.gripper.closed_m]]))
    closed = robot.gripper.closed_m
    bench.until(lambda: measured(states[-1], robot)[-1] < closed + 2e-3)


def test_a_bad_trajectory_is_refused_and_named(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    arm = bench.publisher(JointTrajectory, robot.topics.arm_trajectory, qos.COMMAND)
    arm.publish(convert.trajectory_message(["waist"], [0.3], [[0.1]]))
    bench.until(lambda: bench.says(NAME, ERROR, "arm trajectory refused: joint names are ['waist']"))
    arm.publish(convert.trajectory_message(robot.arm_joints, [0.3], [[float("nan")] * 6]))
    bench.until(lambda: bench.says(NAME, ERROR, "finite"))
    arm.publish(convert.trajectory_message(robot.arm_joints, [0.3], [robot.home.tolist()]))
    bench.until(lambda: bench.says(NAME, OK, "active"))


def test_the_trajectory_controller_is_the_one_that_the_parameter_names(bench: Any, robot: RobotFile) -> None:
    """An end in motion is taken by Humble's alone."""
    sim = bench.add(SimNode, autostart=True, follower="humble_10")
    assert sim.autostart()
    states = bench.record(JointState, robot.topics.joint_states, qos.SENSOR_IN)
    arm = bench.publisher(JointTrajectory, robot.topics.arm_trajectory, qos.COMMAND)
    goal = (robot.home + np.array([0.2, 0, 0, 0, 0, 0])).tolist()
    arm.publish(convert.trajectory_message(robot.arm_joints, [0.5], [goal], [[0.1] * 6]))
    bench.until(lambda: states and abs(states[-1].position[0] - goal[0]) < 0.02)


def test_an_unknown_trajectory_controller_is_refused_with_the_names(bench: Any) -> None:
    sim = bench.add(SimNode, follower="noetic_100")
    assert sim.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.until(lambda: bench.says(NAME, ERROR, "follower is 'noetic_100', expected one of humble_RATE"))


def test_a_reset_draws_the_scene_of_its_seed(bench: Any, sim: SimNode) -> None:
    scenes = bench.record(SceneState, "scene_state")

    def scene_of(seed: int) -> SceneState:
        episode = scenes[-1].episode if scenes else 0
        answer = reset(bench, seed, "put")
        assert answer.success and answer.instruction.startswith("put the ")
        bench.until(lambda: scenes and scenes[-1].episode == episode + 1)
        first = next(s for s in scenes if s.episode == episode + 1)
        assert (first.seed, first.task, first.instruction) == (seed, "put", answer.instruction)
        return first

    bench.until(lambda: scenes)
    first, other, again = scene_of(5), scene_of(6), scene_of(5)
    places = [[(p.position.x, p.position.y) for p in s.poses] for s in (first, other, again)]
    assert places[0] == places[2] != places[1]


def test_nothing_of_the_old_scene_is_stamped_after_a_reset(
    bench: Any, robot: RobotFile, sim: SimNode
) -> None:
    """Who waits for stamps later than the answer sees the arm at home, whatever was on its way."""
    states = bench.record(JointState, robot.topics.joint_states, qos.SENSOR_IN)
    arm = bench.publisher(JointTrajectory, robot.topics.arm_trajectory, qos.COMMAND)
    away = robot.home + 0.4
    arm.publish(convert.trajectory_message(robot.arm_joints, [0.3], [away.tolist()]))
    bench.until(lambda: states and states[-1].position[0] > 0.35)
    assert reset(bench, 1, "pick").success
    answered_ns = bench.node.get_clock().now().nanoseconds
    bench.until(lambda: convert.from_time(states[-1].header.stamp) > answered_ns + 50_000_000)
    after = [s for s in states if convert.from_time(s.header.stamp) > answered_ns]
    assert after and all(abs(s.position[0]) < 0.02 for s in after)


def test_an_unknown_task_is_refused_and_the_scene_stays(bench: Any, sim: SimNode) -> None:
    answer = reset(bench, 1, "juggle")
    assert not answer.success and answer.message == "task is 'juggle', expected one of pick, put"


def test_an_inactive_simulator_sends_nothing(bench: Any, robot: RobotFile, sim: SimNode) -> None:
    bench.until(lambda: int(bench.value(NAME, "frames_sent/front") or 0) > 0)
    assert sim.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: bench.value(NAME, "state") == "inactive")
    sent = bench.value(NAME, "frames_sent/front")
    seen = len(bench.said[NAME])
    bench.until(lambda: len(bench.said[NAME]) >= seen + 2)
    assert bench.value(NAME, "frames_sent/front") == sent
    answer = reset(bench, 1, "pick")
    assert not answer.success and answer.message == "the simulator is inactive, expected active"
    assert sim.trigger_activate() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: int(bench.value(NAME, "frames_sent/front")) > int(sent))


def test_a_node_at_its_end_offers_nothing_that_a_client_would_wait_for(bench: Any, sim: SimNode) -> None:
    def services() -> set[str]:
        return {name for name, _ in bench.node.get_service_names_and_types() if name.startswith("/sim_node/")}

    # rclpy itself keeps the one that describes types.
    bench.until(lambda: "/sim_node/change_state" in services())
    bench.remove(sim)
    bench.until(lambda: services() <= {"/sim_node/get_type_description"}, lambda: str(services()))
