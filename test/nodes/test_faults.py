"""Whatever fails while the arm moves: it rests in time, the reason is told, nothing restarts by itself."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from controller_rig import CALM, NAME, ControllerRig
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from twinbrain_ros.msg import ChunkStatus, ControlMode
from twinbrain_ros.srv import ResetScene, SetMode

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.robot.robot_file import RobotFile

ERROR = 2
SHARP_S = 0.8


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    """An arm in the middle of a motion."""
    return sharp(bench, robot)


def sharp(bench: Any, robot: RobotFile, *watchdogs: str, **parameters: Any) -> ControllerRig:
    """The same, with these watchdogs far sharper than the others, so that one of them stops the arm.

    Not as sharp as by default, where a machine that pauses for 0.3 s would be the fault itself.
    """
    rig = ControllerRig(bench, robot, **dict.fromkeys(watchdogs, SHARP_S), **parameters)
    rig.drive()
    return rig


def stopped(rig: ControllerRig, words: str, after: Callable[[], object] = lambda: None) -> None:
    """The arm was stopped for this reason, in time, and stays where it is until somebody resets it."""
    rig.bench.until(lambda: after() or rig.mode().latched, f"never stopped: {words}")
    mode, speed = rig.mode(), max(rig.speed(), 0.5)
    assert mode.mode == ControlMode.HOLD and mode.source == "watchdog" and words in mode.reason, mode.reason
    rig.rests_in_time(convert.from_time(mode.header.stamp), speed)
    rig.bench.until(lambda: words in rig.bench.value(NAME, "problem/fault"), "not on /diagnostics")
    assert rig.bench.status[NAME].level[0] == ERROR
    where = rig.path[-1][1]
    rig.joints_go = rig.policy_goes = True
    rig.problem, rig.reads = "", None
    rig.until_settled()
    assert rig.send_chunk().reason == "the mode is HOLD"
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and "call the service reset first" in answer.message
    np.testing.assert_allclose(rig.path[-1][1], where, atol=1e-4)
    assert rig.trigger("reset").success
    rig.until_settled()
    assert rig.set_mode(ControlMode.AUTONOMY).success
    assert rig.send_chunk().outcome == ChunkStatus.EXECUTED


def test_a_policy_that_falls_silent(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, "policy_timeout_s")
    rig.policy_goes = False
    stopped(rig, "the policy has been silent for")


def test_a_policy_that_sees_nothing(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, "observation_timeout_s")
    rig.problem = "the image of camera 'front' is 0.300 s old, expected at most 0.25 s"
    stopped(rig, "the image of camera 'front' is 0.300 s old")


def test_a_policy_that_gives_no_more_chunks(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, chunk_timeout_s=0.6)
    stopped(rig, "no chunk was accepted for")


def test_chunks_that_are_all_refused(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, chunk_timeout_s=0.6)
    broken = np.tile([math.nan, 0, 0, 0, 0, 0, 1.0], (8, 1))

    def send() -> None:
        assert rig.send_chunk(broken).outcome in (ChunkStatus.REFUSED, ChunkStatus.DISCARDED)

    stopped(rig, "no chunk was accepted for", after=send)


def test_joint_states_that_stop(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, "joints_timeout_s")
    rig.joints_go = False
    stopped(rig, f"expected at most {SHARP_S} s")


def test_joint_states_that_become_nan(bench: Any, robot: RobotFile) -> None:
    rig = sharp(bench, robot, "joints_timeout_s")
    rig.reads = np.array([0.0, math.nan, 0.0, 0.0, 0.0, 0.0])
    stopped(rig, "the newest were refused: joint_states: position of 'shoulder' is nan")


def test_joint_states_that_freeze_under_new_stamps(rig: ControllerRig) -> None:
    rig.reads = rig.follower.set_point
    stopped(rig, "the joint states are frozen")


def test_an_arm_that_does_not_follow(rig: ControllerRig) -> None:
    noise, start, start_ns = np.random.default_rng(0), rig.path[-1][1], rig.now_ns()

    def read() -> None:  # a live arm, pushed away by something
        way = min(rig.now_ns() - start_ns, 10**9) / 1e9
        rig.reads = start + np.clip(rig.robot.home - 0.4 - start, -way, way) + noise.normal(0, 1e-4, 6)

    stopped(rig, "from where it was commanded, expected at most 0.35 rad", after=read)


@pytest.mark.parametrize("chunk", ["from the future", "out of order", "duplicate", "of another horizon"])
def test_a_bad_chunk_does_not_disturb_the_motion_and_the_arm_comes_to_rest(
    rig: ControllerRig, chunk: str
) -> None:
    running = rig.status[-1]
    changes: dict[str, dict[str, Any]] = {
        "from the future": {
            "observation_stamp": convert.to_time(rig.now_ns() + 10**9),
            "due": convert.to_time(rig.now_ns() + 10**9),
        },
        "out of order": {
            "observation_stamp": convert.to_time(convert.from_time(running.observation_stamp) - 1),
            "due": running.observation_stamp,
        },
        "duplicate": {"observation_stamp": running.observation_stamp, "due": running.observation_stamp},
        "of another horizon": {"data": np.zeros((7, 7))},
    }
    status = rig.send_chunk(**changes[chunk])
    assert status.outcome in (ChunkStatus.REFUSED, ChunkStatus.DISCARDED) and status.reason
    assert rig.mode().mode == ControlMode.AUTONOMY and rig.speed() > 0.01
    rig.until_at_rest()


@pytest.mark.parametrize(("jump_s", "words"), [(-5.0, "the clock went back by"), (5.0, "jumped forward by")])
def test_a_clock_that_jumps(bench: Any, robot: RobotFile, jump_s: float, words: str) -> None:
    rig = sharp(bench, robot, sim_clock=True)
    path = rig.path
    rig.path = []  # its stamps are of the old time
    rig.jump_ns = round(jump_s * 1e9)
    rig.bench.until(lambda: rig.mode().latched, "never stopped")
    assert words in rig.mode().reason, rig.mode().reason
    commands = len(rig.arm)
    assert len(path) > 3
    rig.bench.until(lambda: len(rig.path) > 20)
    assert len(rig.arm) == commands
    assert rig.trigger("reset").success
    rig.until_settled()
    assert rig.set_mode(ControlMode.AUTONOMY).success


def test_a_controller_that_is_held_up(bench: Any, robot: RobotFile) -> None:
    """The arm comes to rest by itself meanwhile, and is stopped for good when the controller comes back."""
    rig = sharp(bench, robot, "overrun_s")
    end_ns = rig.now_ns() + round(1.5 * SHARP_S * 1e9)
    while rig.now_ns() < end_ns:  # the bench's thread is the controller's too
        pass
    rig.bench.until(lambda: rig.mode().latched)
    assert "the controller was held up for" in rig.mode().reason
    rig.until_at_rest()


LATE = """
import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

kept = []
for n in range(20):
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"late_{n}", context=context)
    node.create_subscription(JointState, "joint_states", lambda message: None, 10)
    kept.append((node, context))
print("there", flush=True)
for node, context in kept:
    node.destroy_node()
    context.try_shutdown()
"""


def test_late_joiners_by_the_dozen_do_not_disturb_the_motion(rig: ControllerRig) -> None:
    """Each brings its own DDS participant and discovers everything there is."""
    late = subprocess.Popen([sys.executable, "-c", LATE], stdout=subprocess.PIPE)
    while late.poll() is None:
        status = rig.send_chunk()
        assert status.outcome == ChunkStatus.EXECUTED, status.reason
        sent_ns = rig.now_ns()
        rig.bench.until(lambda sent_ns=sent_ns: rig.now_ns() > sent_ns + 200_000_000)  # type: ignore[misc]
    assert late.communicate()[0] == b"there\n" and late.returncode == 0
    assert rig.mode().mode == ControlMode.AUTONOMY
    limits = rig.node._controller.governor.limits
    speeds = np.array([point.velocities for message in rig.arm for point in message.points])
    assert np.all(np.abs(speeds) <= limits.velocity * 1.0001)
    rig.until_at_rest()


def test_an_emergency_stop_by_service_and_by_button_works_without_a_policy(
    bench: Any, robot: RobotFile
) -> None:
    rig = ControllerRig(bench, robot)
    for stop in (lambda: rig.trigger("estop"), lambda: setattr(rig, "held", {1})):
        rig.drive()
        rig.policy_goes = False
        stop()
        rig.bench.until(lambda: rig.mode().mode == ControlMode.ESTOP)
        rig.rests_in_time(convert.from_time(rig.mode().header.stamp), max(rig.speed(), 0.5))
        commands, rig.held = len(rig.arm), None
        assert not rig.set_mode(ControlMode.HOLD).success and len(rig.arm) == commands
        rig.policy_goes = True
        assert rig.trigger("reset").success


# What a policy that is stopped is noticed by stays sharp enough; the rest is for a busy machine.
PATIENT = CALM | {"policy_timeout_s": 1.0}

# Whole processes ------------------------------------------------------------------------------------


class Processes:
    """Simulator, expert and controller as processes of their own, the arm on its way."""

    def __init__(self, bench: Any, robot: RobotFile, start: Callable[..., Any]) -> None:
        self.bench, self.start = bench, start
        self.nodes = {name: start(name, autostart=True) for name in ("sim_node", "expert_policy_node")}
        self.nodes["controller_node"] = start("controller_node", autostart=True, **PATIENT)
        self.joints: JointState | None = None
        bench.node.create_subscription(JointState, robot.topics.joint_states, self._on_joints, 10)
        self.modes = bench.record(ControlMode, robot.topics.control_mode, qos.LATCHED)
        self.status = bench.record(ChunkStatus, robot.topics.chunk_status)
        self.words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
        self.episode = self.again_ns = 0
        bench.until(self.moving, "the arm does not move")

    def moving(self) -> bool:
        """Whether the arm moves; an episode that is over before this machine has looked is begun again."""
        now_ns = self.bench.node.get_clock().now().nanoseconds
        if self.speed() <= 0.1 and now_ns > self.again_ns:
            self.ask(ControlMode.HOLD)
            self.episode += 1
            scene = self.bench.call(
                ResetScene, "reset_scene", ResetScene.Request(seed=self.episode, task="put")
            )
            self.words.publish(String(data=scene.instruction))
            self.bench.until(lambda: self.ask(ControlMode.AUTONOMY).success, "autonomy is refused")
            self.again_ns = self.bench.node.get_clock().now().nanoseconds + 6_000_000_000
        return self.speed() > 0.1

    def _on_joints(self, message: JointState) -> None:
        self.joints = message

    def ask(self, mode: int) -> Any:
        request = SetMode.Request(mode=mode, source="test", reason="try")
        return self.bench.call(SetMode, "set_mode", request)

    def speed(self) -> float:
        return max(map(abs, self.joints.velocity[:6])) if self.joints is not None else 0.0

    def comes_to_rest(self) -> None:
        self.bench.until(lambda: self.speed() < 0.02, "the arm does not come to rest")
        where = list(self.joints.position[:6])
        end = self.bench.node.get_clock().now().nanoseconds + 500_000_000
        self.bench.until(lambda: self.bench.node.get_clock().now().nanoseconds > end)
        np.testing.assert_allclose(self.joints.position[:6], where, atol=5e-3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_policy_process_that_is_killed_or_stopped(
    bench: Any, robot: RobotFile, start_process: Callable[..., Any], number: signal.Signals
) -> None:
    loop = Processes(bench, robot, start_process)
    os.kill(loop.nodes["expert_policy_node"].popen.pid, number)
    bench.until(lambda: loop.modes and loop.modes[-1].latched, "never stopped")
    assert "the policy has been silent for" in loop.modes[-1].reason
    loop.comes_to_rest()
    if number is signal.SIGSTOP:  # it comes back: nothing moves all the same
        os.kill(loop.nodes["expert_policy_node"].popen.pid, signal.SIGCONT)
        count = len(loop.status)
        bench.until(lambda: len(loop.status) > count)
        assert loop.status[-1].outcome == ChunkStatus.DISCARDED
        loop.comes_to_rest()


def test_a_controller_process_that_is_killed_in_mid_motion_and_started_again(
    bench: Any, robot: RobotFile, start_process: Callable[..., Any]
) -> None:
    """Its last command leads to rest; the new one begins in hold."""
    loop = Processes(bench, robot, start_process)
    loop.nodes["controller_node"].popen.kill()
    loop.comes_to_rest()
    count = len(loop.modes)
    start_process("controller_node", autostart=True)
    bench.until(lambda: len(loop.modes) > count, "the new controller is not heard")
    assert loop.modes[-1].mode == ControlMode.HOLD
    loop.comes_to_rest()
    bench.until(lambda: loop.status[-1].reason == "the mode is HOLD")
