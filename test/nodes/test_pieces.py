"""The nodes' own small parts that need no topics: health, pacing, conversions."""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.demo.scene import scene_from_message
from twinbrain_ros.nodes import convert, sim_messages
from twinbrain_ros.nodes.health import LOG_AGAIN_AFTER_S, Health, Level, Percentiles
from twinbrain_ros.nodes.pacing import Pacer, Schedule
from twinbrain_ros.robot.actions import euler_to_matrix
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.tabletop import TabletopSim

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# Health ---------------------------------------------------------------------------------------------


def test_a_problem_is_logged_once_and_counted_every_time() -> None:
    health = Health(Clock())
    assert [health.report("image/front/step", "wrong") for _ in range(3)] == [True, False, False]
    summary = health.summary("active")
    assert (summary.level, summary.message) == (Level.ERROR, "wrong")
    assert summary.values["problem/image/front/step"] == "3x wrong"


def test_a_problem_that_comes_and_goes_is_logged_again_only_after_a_while() -> None:
    clock = Clock()
    health = Health(clock)
    health.report("x", "wrong")
    health.clear("x")
    assert health.summary("well").message == "well"
    assert not health.report("x", "wrong")
    health.clear("x")
    clock.now = LOG_AGAIN_AFTER_S
    assert health.report("x", "wrong")


def test_the_worst_problem_is_shown_and_a_prefix_clears_what_is_below_it() -> None:
    health = Health(Clock())
    health.report("image/front/step", "grave")
    health.report("waiting", "light", Level.WARN)
    health.report("imaginary", "other", Level.WARN)
    assert health.summary("").message == "grave"
    health.clear("image")
    assert health.summary("").level is Level.WARN
    assert health.active("imaginary") and not health.active("image/front/step")


def test_counters_and_figures_are_shown() -> None:
    health = Health(Clock())
    health.count("frames", 0)
    health.figure("latency_ms")
    assert health.summary("").values == {"frames": "0", "latency_ms_p50": "", "latency_ms_p99": ""}
    health.count("frames")
    for value in range(1, 101):
        health.figure("latency_ms").add(value)
    assert health.summary("").values == {
        "frames": "1",
        "latency_ms_p50": "50.00",
        "latency_ms_p99": "99.00",
    }


def test_percentiles_forget_the_oldest() -> None:
    percentiles = Percentiles(kept=2)
    for value in (9.0, 1.0, 2.0):
        percentiles.add(value)
    assert percentiles.at(100) == 2.0


# Pacing ---------------------------------------------------------------------------------------------


def test_the_simulation_follows_the_clock() -> None:
    pacer = Pacer()
    pacer.start(now_ns=5000 * MS, sim_ns=20 * MS)
    assert pacer.stamp_ns(20 * MS) == 5000 * MS
    assert pacer.behind_s(5012 * MS, 20 * MS) == pytest.approx(0.012)
    assert pacer.behind_s(5012 * MS, 32 * MS) == 0.0


def test_a_long_pause_is_not_made_up_for() -> None:
    pacer = Pacer(max_catch_up_s=0.1)
    pacer.start(0, 0)
    assert pacer.behind_s(1000 * MS, 0) == pytest.approx(0.1)
    assert pacer.slipped_s == pytest.approx(0.9)
    assert pacer.stamp_ns(100 * MS) == 1000 * MS


def test_a_clock_that_jumps_back_is_followed() -> None:
    pacer = Pacer(max_catch_up_s=0.1)
    pacer.start(5000 * MS, 0)
    assert pacer.behind_s(1000 * MS, 0) == 0.0
    assert pacer.behind_s(1010 * MS, 0) == pytest.approx(0.01)


def test_a_schedule_keeps_its_rhythm_and_counts_missed_beats() -> None:
    schedule = Schedule(20.0)
    asked = [0, 10, 49, 52, 99, 100, 260, 299, 300]
    assert [t for t in asked if schedule.due(t * MS)] == [0, 52, 100, 260, 300]
    assert schedule.missed == 2
    schedule.restart()
    assert schedule.due(301 * MS)


# Conversions ----------------------------------------------------------------------------------------


def test_times_survive_the_way_there_and_back() -> None:
    assert convert.from_time(convert.to_time(1_763_845_000_123_456_789)) == 1_763_845_000_123_456_789


def test_a_chunk_survives_the_way_there_and_back_with_joints_in_any_order(robot: RobotFile) -> None:
    action = robot.action
    chunk = ActionChunk(
        7, 11, 12, action.period_s, "pick up the red block", robot.name, action.space, action.composition,
        action.names, np.arange(56.0).reshape(8, 7), np.arange(6.0), 2**63 + 5, 0.25, 0.5,
    )  # fmt: skip
    message = convert.chunk_message(chunk, robot, 99)
    message.observation_joint_names = list(reversed(robot.arm_joints))
    message.observation_joint_positions = list(reversed(range(6)))
    back = convert.chunk_from_message(message, robot)
    np.testing.assert_array_equal(back.data, chunk.data)
    np.testing.assert_array_equal(back.observation_positions, chunk.observation_positions)
    for field in ("sequence", "observation_ns", "due_ns", "names", "noise_seed"):
        assert getattr(back, field) == getattr(chunk, field)
    assert (back.inference_time_s, back.left_age_s) == (0.25, 0.5)
    assert message.header.frame_id == robot.base_frame


def test_a_chunk_that_contradicts_itself_is_refused(robot: RobotFile) -> None:
    action = robot.action
    chunk = ActionChunk(
        7, 11, 12, action.period_s, "", robot.name, action.space, action.composition, action.names,
        np.zeros((8, 7)), np.zeros(6),
    )  # fmt: skip
    message = convert.chunk_message(chunk, robot, 99)
    message.steps = 9
    with pytest.raises(ValueError, match="data has 56 values, expected 9 steps x 7 names = 63"):
        convert.chunk_from_message(message, robot)
    message.steps = 8
    message.observation_joint_names = ["a", *robot.arm_joints[1:]]
    with pytest.raises(ValueError, match=r"expected \['waist'\] among them"):
        convert.chunk_from_message(message, robot)
    message.observation_joint_positions = [0.0]
    with pytest.raises(ValueError, match="observation_joint_positions has 1 values, expected 6"):
        convert.chunk_from_message(message, robot)


@pytest.mark.parametrize("turn", [(0, 0, 0), (np.pi, 0, 0), (0, np.pi, 0), (0, 0, np.pi), (0.3, -2.0, 2.9)])
def test_a_rotation_becomes_its_unit_quaternion(turn: tuple[float, float, float]) -> None:
    rotation = euler_to_matrix(np.array(turn))
    w, x, y, z = convert.quaternion(rotation)
    vector = np.array([x, y, z])
    for axis in np.eye(3):  # turning a vector by the quaternion
        turned = axis + 2 * np.cross(vector, np.cross(vector, axis) + w * axis)
        np.testing.assert_allclose(turned, rotation @ axis, atol=1e-12)


def test_the_scene_survives_the_way_there_and_back(robot: RobotFile) -> None:
    sim = TabletopSim(robot)
    sim.reset(3, "put")
    truth = sim.scene_state()
    back = scene_from_message(sim_messages.scene_state(truth, sim.scene, 1, robot.base_frame, truth.time_ns))
    assert [entry.name for entry in back.objects] == [entry.name for entry in truth.objects]
    np.testing.assert_allclose(back.tool_rotation, truth.tool_rotation, atol=1e-12)
    np.testing.assert_allclose(back.objects[0].position, truth.objects[0].position)
    assert (back.held, back.touching) == (truth.held, truth.touching)


def test_an_image_is_sent_in_the_cameras_encoding(robot: RobotFile) -> None:
    import dataclasses

    camera = dataclasses.replace(robot.cameras[0], encoding="bgr8")
    pixels = np.zeros((camera.height, camera.width, 3), np.uint8)
    pixels[..., 0] = 200
    message = convert.image_message(pixels, camera, 5)
    assert (message.encoding, message.step, list(message.data[:3])) == ("bgr8", camera.width * 3, [0, 0, 200])
    with pytest.raises(ValueError, match="encoding is 'mono8', expected one of"):
        convert.image_message(pixels, dataclasses.replace(camera, encoding="mono8"), 5)
