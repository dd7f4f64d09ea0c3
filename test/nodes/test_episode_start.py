"""An episode that begins in a pose: the arm goes there first, and everything else is answered meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controller_rig import HELD_UP, ControllerRig
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from twinbrain_ros.msg import ControlMode, EpisodeStatus
from twinbrain_ros.srv import LabelEpisode, StartEpisode

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.pose_client import FOUND_S
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.robot.robot_file import RobotFile

NAME = "recorder_node"
NO_SERVER_S = 20.0  # it says so after 0.8 s; the rest is for a busy machine


class Episodes:
    """A recorder node, and a person who asks for episodes without waiting for the answer."""

    def __init__(self, bench: Any, directory: Path, **parameters: Any) -> None:
        self.bench = bench
        self.node = bench.add(
            RecorderNode, autostart=True, directory=str(directory), min_free_mib=1, **parameters
        )
        assert self.node.autostart()
        self.status = bench.record(EpisodeStatus, "episode", qos.LATCHED)
        self._client = bench.node.create_client(StartEpisode, "episode/start")
        bench.until(self._client.service_is_ready)

    def ask(self, pose: str, name: str = "e") -> Any:
        return self._client.call_async(StartEpisode.Request(name=name, pose=pose))

    def answer(self, asked: Any) -> Any:
        self.bench.until(asked.done, "episode/start is not answered")
        return asked.result()

    def begin(self, rig: ControllerRig, pose: str) -> Any:
        """The answer to one that begins in a pose; asked again where a busy machine was silent."""
        while HELD_UP in (answer := self.answer(self.ask(pose))).message:
            rig.until_settled()
        assert answer.success and not answer.message, answer.message
        return answer

    def call(self, what: str) -> Any:
        return self.bench.call(Trigger, f"episode/{what}", Trigger.Request())

    def knows_the_controller(self) -> None:
        self.bench.until(self.node._start._way._client.server_is_ready, "the controller is not found")


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    """The arm lies where it lies after power-on."""
    rig = ControllerRig(bench, robot, go_to_speed=0.5)
    rig.follower.activate(robot.poses["sleep"].arm)
    bench.until(lambda: bench.value("controller_node", "pose") == "sleep", "its pose is not told")
    rig.until_settled()
    return rig


@pytest.fixture
def episodes(rig: ControllerRig, tmp_path: Path) -> Episodes:
    episodes = Episodes(rig.bench, tmp_path)
    episodes.knows_the_controller()
    rig.until_settled()  # again: making a node holds up the bench, and so the arm's joint states
    return episodes


def on_the_way(rig: ControllerRig, episodes: Episodes) -> Any:
    def sets_off() -> bool:
        return bool(rig.mode().mode == ControlMode.GO_TO and rig.speed() > 0.3)

    while True:
        rig.until_settled()
        asked = episodes.ask("home")
        ended = asked.done
        rig.bench.until(lambda ended=ended: ended() or sets_off(), "it does not set off")
        if not asked.done():
            return asked
        assert HELD_UP in asked.result().message, asked.result().message


def holds(rig: ControllerRig, episodes: Episodes, tmp_path: Path) -> None:
    """The arm is at rest on its way, and nothing is recorded."""
    rig.until_at_rest()
    assert np.max(np.abs(rig.path[-1][1] - rig.robot.home)) > 0.2
    assert not episodes.status[-1].recording and not list(tmp_path.iterdir())


def test_the_bag_begins_with_the_arm_at_rest_in_the_pose(rig: ControllerRig, episodes: Episodes) -> None:
    answer = episodes.begin(rig, "home")
    assert rig.mode().mode == ControlMode.HOLD and rig.mode().reason == "the arm is in 'home'"
    rig.bench.until(lambda: episodes.status[-1].recording and "/joint_states" in episodes.status[-1].topics)
    assert rig.set_mode(ControlMode.TELEOP).success
    assert episodes.call("stop").success
    bag = open_bag(answer.bag)
    names = [*rig.robot.arm_joints, rig.robot.gripper.joint]
    for message in bag.messages(["/joint_states"]):
        state = deserialize_message(message.data, JointState)
        assert list(state.name) == names
        np.testing.assert_allclose(state.position[:-1], rig.robot.home, atol=0.01)
    modes = [deserialize_message(m.data, ControlMode) for m in bag.messages(["/control_mode"])]
    assert [mode.mode for mode in modes] == [ControlMode.HOLD, ControlMode.TELEOP]


def test_on_the_way_everything_is_answered_and_a_stop_cancels_it(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    asked = on_the_way(rig, episodes)
    second = episodes.answer(episodes.ask("", "f"))
    assert second.message == "one is about to begin: the arm is on its way to 'home'" and not second.success
    label = rig.bench.call(LabelEpisode, "episode/label", LabelEpisode.Request(outcome="success"))
    assert "no episode has been recorded yet" in label.message
    rig.bench.until(lambda: rig.bench.says(NAME, 0, "on the way to 'home', where an episode begins"))
    assert rig.mode().mode == ControlMode.GO_TO
    stop = episodes.call("stop")
    assert stop.success and stop.message == "cancelled on the way to 'home': no episode has begun"
    answer = episodes.answer(asked)
    assert not answer.success
    assert answer.message == "no episode begins, the arm does not get to 'home': stopped"
    rig.bench.until(lambda: rig.mode().reason == "go_to was cancelled")
    holds(rig, episodes, tmp_path)
    rig.until_settled()
    episodes.begin(rig, "home")  # with the same name: nothing stands in its way


def test_a_discard_on_the_way_cancels_it_and_leaves_the_last_episode(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    assert episodes.answer(episodes.ask("", "last")).success
    assert episodes.call("stop").success
    asked = on_the_way(rig, episodes)
    assert episodes.call("discard").success
    assert "does not get to 'home': discarded" in episodes.answer(asked).message
    rig.bench.until(lambda: rig.mode().reason == "go_to was cancelled")
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_cancel_before_the_goal_is_answered_cancels_too(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    way = episodes.node._start._way
    rig.until_settled()
    asked = episodes.ask("home")
    rig.bench.until(lambda: way._sent is not None)
    assert way._handle is None
    episodes.node._start.cancel("stopped")
    assert "stopped" in episodes.answer(asked).message
    rig.bench.until(lambda: rig.mode().reason == "go_to was cancelled")
    holds(rig, episodes, tmp_path)


def test_without_a_controller_it_says_so_at_once(bench: Any, tmp_path: Path) -> None:
    episodes = Episodes(bench, tmp_path)
    start_s = time.monotonic()
    answer = episodes.answer(episodes.ask("home"))
    assert not answer.success and "nobody serves the action go_to" in answer.message
    assert time.monotonic() - start_s < NO_SERVER_S and FOUND_S < 1.0
    assert episodes.answer(episodes.ask("")).success


def test_a_way_that_is_refused_says_why(rig: ControllerRig, episodes: Episodes, tmp_path: Path) -> None:
    answer = episodes.answer(episodes.ask("hme"))
    poses = "there is no pose 'hme', expected one of home, sleep, upright"
    assert answer.message == f"no episode begins, the arm does not get to 'hme': {poses}"
    assert not answer.success
    assert not list(tmp_path.iterdir())


def test_what_stands_against_an_episode_is_found_before_the_arm_moves(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    (tmp_path / "e").mkdir()
    answer = episodes.answer(episodes.ask("home"))
    assert not answer.success and f"{tmp_path / 'e'} exists already" in answer.message
    assert episodes.answer(episodes.ask("", "f")).success
    answer = episodes.answer(episodes.ask("home", "g"))
    assert not answer.success and "an episode is being recorded" in answer.message
    assert rig.mode().mode == ControlMode.HOLD and rig.arm == []


def test_an_emergency_stop_on_the_way_is_the_reason(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    asked = on_the_way(rig, episodes)
    assert rig.trigger("estop").success
    assert episodes.answer(asked).message.endswith("does not get to 'home': estop called")
    holds(rig, episodes, tmp_path)


def test_a_controller_that_is_deactivated_or_ends_on_the_way_is_the_reason(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    asked = on_the_way(rig, episodes)
    rig.node.trigger_deactivate()
    assert episodes.answer(asked).message.endswith("does not get to 'home': deactivated")
    holds(rig, episodes, tmp_path)
    assert "is inactive, expected active" in episodes.answer(episodes.ask("home")).message
    rig.node.trigger_activate()
    rig.until_settled()
    asked = on_the_way(rig, episodes)
    rig.bench.remove(rig.node)
    assert "deactivated" in (said := episodes.answer(asked).message) or "the controller has gone" in said
    holds(rig, episodes, tmp_path)


def test_a_recorder_that_is_deactivated_cancels_the_way(
    rig: ControllerRig, episodes: Episodes, tmp_path: Path
) -> None:
    asked = on_the_way(rig, episodes)
    episodes.node.trigger_deactivate()
    episodes.node.trigger_cleanup()
    assert episodes.answer(asked).message.endswith("the recorder was deactivated")
    rig.bench.until(lambda: rig.mode().reason == "go_to was cancelled")
    holds(rig, episodes, tmp_path)


def test_arriving_does_not_end_an_episode_of_a_recorder_that_begins_and_ends_with_autonomy(
    rig: ControllerRig, tmp_path: Path
) -> None:
    episodes = Episodes(rig.bench, tmp_path, auto=True)
    episodes.knows_the_controller()
    rig.until_settled()
    episodes.begin(rig, "home")
    rig.until_settled()
    assert rig.set_mode(ControlMode.TELEOP).success
    rig.bench.until(lambda: episodes.node._driven, "the recorder does not hear that a person drives")
    assert episodes.status[-1].recording
    assert rig.set_mode(ControlMode.HOLD).success
    rig.bench.until(lambda: not episodes.status[-1].recording, "the episode does not end")
