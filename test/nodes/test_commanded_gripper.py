"""A gripper that no driver measures, through real nodes: it is where it was told to be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controller_rig import NAME, ControllerRig
from robot_files import commanded_gripper
from sensor_msgs.msg import JointState
from stand_in import StandInPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger
from twinbrain_ros.msg import ChunkStatus, ControlMode, PolicyStatus
from twinbrain_ros.srv import ResetScene, SetMode, StartEpisode

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.recorded import RecordedFrames, robot_of
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

OK, WARN, ERROR = 0, 1, 2
HOME_M = 0.03
UNKNOWN = "nothing is known of the gripper joint 'left_finger'"


@pytest.fixture
def commanded(tmp_path: Path) -> RobotFile:
    """The WidowX, its gripper not measured."""
    return commanded_gripper(tmp_path, HOME_M)


class Heard:
    """What the controller says of the gripper: positions [m] and stamps [ns]."""

    def __init__(self, bench: Any, robot: RobotFile) -> None:
        self.messages = bench.record(JointState, robot.topics.commanded_joint_states, qos.SENSOR_IN)
        self._joint = robot.gripper.joint

    def newest_m(self) -> float | None:
        if not self.messages:
            return None
        message = self.messages[-1]
        assert message.name == [self._joint]
        return float(message.position[0])

    def stamps(self) -> list[int]:
        return [convert.from_time(message.header.stamp) for message in self.messages]


@pytest.mark.parametrize("finger_m", [math.nan, 0.02], ids=["nan", "a number that means nothing"])
def test_autonomy_waits_until_the_gripper_was_told_something(
    bench: Any, commanded: RobotFile, finger_m: float
) -> None:
    rig = ControllerRig(bench, commanded, finger_m=finger_m)
    heard = Heard(bench, commanded)
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success
    assert answer.message.startswith(f"cannot start autonomy: {UNKNOWN}")
    assert answer.message.endswith("go_to home first")
    bench.until(lambda: bench.says(NAME, WARN, UNKNOWN), "it is not told on /diagnostics")
    assert not heard.messages and not rig.gripper

    rig.go("go_home")  # where the arm is already
    bench.until(lambda: heard.newest_m() == HOME_M, "what the gripper was told is not told")
    assert list(rig.gripper[-1].points[-1].positions) == [HOME_M]
    bench.until(lambda: rig.mode().mode == ControlMode.HOLD)
    before = len(heard.messages)
    bench.until(lambda: len(heard.messages) > before + 5, "it is not told while the arm holds")
    assert np.all(np.diff(heard.stamps()) > 0)
    bench.until(lambda: bench.says(NAME, OK, "active"))
    assert "told to be at 0.0300 m" in bench.value(NAME, "gripper")

    rig.until_settled()
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert answer.success, answer.message
    closing = np.tile([0.02, 0, 0, 0, 0, 0, 0.0], (commanded.action.horizon, 1))
    assert rig.send_chunk(closing).outcome == ChunkStatus.EXECUTED
    bench.until(lambda: heard.newest_m() == commanded.gripper.closed_m, "the chunk's opening is not told")
    assert rig.node._controller.joints.newest.finger_m is None  # it does not listen to itself


def test_another_publisher_of_what_the_gripper_was_told_bars_motion(bench: Any, commanded: RobotFile) -> None:
    rig = ControllerRig(bench, commanded, finger_m=math.nan)
    bench.node.create_publisher(JointState, commanded.topics.commanded_joint_states, qos.SENSOR_OUT)
    words = "/commanded_joint_states takes where the gripper was told to be from one node"
    bench.until(lambda: bench.says(NAME, ERROR, words))
    answer = rig.set_mode(ControlMode.TELEOP)
    assert not answer.success and words in answer.message


def test_in_a_dry_run_it_is_told_and_said_that_the_gripper_did_not_hear(
    bench: Any, commanded: RobotFile
) -> None:
    rig = ControllerRig(bench, commanded, prefix="dry_run/", dry_run=True, finger_m=math.nan)
    heard = Heard(bench, commanded)
    rig.go("go_home")
    bench.until(lambda: heard.newest_m() == HOME_M)
    bench.until(lambda: bench.value(NAME, "gripper").endswith("in a dry run, which the gripper did not hear"))


class Seen(StandInPolicy):
    """Answers with its noise, and keeps the state that it saw by that."""

    def __init__(self) -> None:
        self.states: dict[bytes, np.ndarray] = {}

    def act(self, images: Any, instruction: str, state: Any, *, noise: Any, stamp_s: float) -> np.ndarray:
        self.states[np.asarray(noise, dtype=np.float64).tobytes()] = state
        return np.asarray(noise, dtype=np.float64)


def test_the_policy_sees_what_the_gripper_was_told_and_so_does_who_reads_the_bag(
    bench: Any, tmp_path: Path, commanded: RobotFile
) -> None:
    """All our nodes, and a simulated driver whose measured finger must not count."""
    path, policy = str(commanded.path), Seen()
    nodes = [
        bench.add(RecorderNode, autostart=True, robot=path, directory=str(tmp_path / "bags"), min_free_mib=1),
        bench.add(
            lambda **arguments: PolicyNode(lambda *_: policy, lambda _: None, **arguments),
            autostart=True, robot=path, execution_steps=1,
        ),
        bench.add(ControllerNode, autostart=True, robot=path, joints_timeout_s=3.0, overrun_s=3.0),
        bench.add(SimNode, autostart=True, robot=path),
    ]  # fmt: skip
    assert all(node.autostart() for node in nodes)
    topics = commanded.topics
    status = bench.record(PolicyStatus, topics.policy_status, qos.COMMAND)
    modes = bench.record(ControlMode, topics.control_mode, qos.LATCHED)
    bench.call(ResetScene, "reset_scene", ResetScene.Request(seed=4, task="pick"))
    bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e"))
    bench.publisher(String, topics.instruction, qos.LATCHED).publish(String(data="pick up the red block"))
    bench.until(lambda: status and status[-1].problem.startswith(UNKNOWN), "the policy does not say why")
    assert not policy.states

    def home() -> bool:
        return bool(bench.call(Trigger, "go_home", Trigger.Request()).success)

    bench.until(home, "go_home is refused")
    bench.until(lambda: modes[-1].mode == ControlMode.HOLD and modes[-1].reason == "the arm is in 'home'")

    def autonomy() -> bool:
        return bool(bench.call(SetMode, "set_mode", SetMode.Request(mode=ControlMode.AUTONOMY)).success)

    bench.until(autonomy, "autonomy is refused")
    bench.until(lambda: len(policy.states) >= 8, "the policy has nothing to act on")
    answer = bench.call(Trigger, "episode/stop", Trigger.Request())
    assert answer.success, answer.message
    opening = commanded.gripper.opening(HOME_M)
    assert next(iter(policy.states.values()))[-1] == opening

    bag = open_bag(answer.message)
    recorded = robot_of(bag)
    assert recorded.topics.commanded_joint_states == "commanded_joint_states"
    frames = RecordedFrames(bag, recorded, Kinematics(recorded))
    moments = list(frames.chunk_moments())
    assert len(moments) >= 6 and frames.problems.sentences() == ()
    for moment in moments:
        assert moment.chunk is not None
        assert len(set(moment.observation.joint_stamps_ns)) == 2  # the arm's and the gripper's own
        state = policy.states[moment.chunk.data.tobytes()]
        assert moment.observation.state.tobytes() == state.tobytes()
