"""A recorder outlives what keeps it from recording an episode, says so, and records again when it can."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from twinbrain_ros.msg import ControlMode, EpisodeStatus
from twinbrain_ros.srv import StartEpisode

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.robot.robot_file import RobotFile

NAME = "recorder_node"
ERROR = 2


class Recording:
    """A recorder that follows the modes that a test plays."""

    def __init__(self, bench: Any, directory: Path, robot: RobotFile, **parameters: Any) -> None:
        self.bench, self.directory = bench, directory
        given = {"autostart": True, "auto": True, "directory": str(directory), "min_free_mib": 1} | parameters
        self.node = bench.add(RecorderNode, **given)
        assert self.node.autostart()
        self.status = bench.record(EpisodeStatus, "episode", qos.LATCHED)
        self.modes = bench.publisher(ControlMode, robot.topics.control_mode, qos.LATCHED)
        self.joints = bench.publisher(JointState, robot.topics.joint_states)

    def mode(self, mode: int) -> None:
        self.modes.publish(ControlMode(mode=mode, reason="a test's"))

    def records(self) -> bool:
        return bool(self.status) and self.status[-1].recording

    def said(self, words: str) -> int:
        """How often it stands in what was logged: a new message on /diagnostics, not the same again."""
        found = [words in message for message in self.bench.said.get(NAME, [])]
        return sum(now and not before for now, before in zip(found, [False, *found], strict=False))

    def whole(self) -> list[Path]:
        """The bags that open and are not cut off."""
        return [path for path in sorted(self.directory.iterdir()) if not open_bag(path).truncated]


def gone(directory: Path) -> Callable[[], None]:
    shutil.rmtree(directory)
    return directory.mkdir


def a_file(directory: Path) -> Callable[[], None]:
    directory.rmdir()
    directory.write_text("not a folder")

    def mend() -> None:
        directory.unlink()
        directory.mkdir()

    return mend


@pytest.mark.parametrize("spoil", [gone, a_file])
def test_a_folder_that_is_gone(bench: Any, tmp_path: Path, robot: RobotFile, spoil: Any) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    mend = spoil(recording.directory)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(lambda: bench.says(NAME, ERROR, "autonomy is not recorded"))
    assert str(recording.directory) in bench.status[NAME].message
    assert not bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e")).success
    mend()
    bench.until(recording.records)  # by itself, as autonomy goes on
    bench.until(lambda: bench.says(NAME, 0, "recording"))
    assert recording.said("autonomy is not recorded") == 1
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: not recording.records())
    assert len(recording.whole()) == 1


def test_a_full_disk_at_the_beginning(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    recording = Recording(bench, tmp_path / "bags", robot, min_free_mib=10**6)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(lambda: bench.says(NAME, ERROR, "MiB are free, expected at least"))
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: bench.says(NAME, 0, "active"))
    answer = bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e"))
    assert not answer.success and "MiB are free" in answer.message
    assert not list(recording.directory.iterdir())


@pytest.fixture
def disk() -> Iterator[Callable[[int | None], None]]:
    """Lets files grow to so many bytes only, as on a full disk; None: as before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def allow(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))

    yield allow
    allow(None)


def test_a_disk_that_fills_in_an_episode(bench: Any, tmp_path: Path, robot: RobotFile, disk: Any) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(recording.records)
    first = Path(recording.status[-1].bag)
    disk(50_000)

    def broke_off() -> bool:
        recording.joints.publish(JointState(name=[f"joint_{i}" for i in range(500)]))
        return bench.says(NAME, ERROR, "broke off")

    bench.until(broke_off)
    assert str(first) in bench.status[NAME].message

    def tried_again() -> bool:
        broke_off()
        return len(list(recording.directory.iterdir())) >= 4

    bench.until(tried_again, "it does not try again and again")
    disk(None)
    bench.until(lambda: recording.records() and recording.status[-1].bag != str(first))
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: not recording.records())
    assert Path(recording.status[-1].bag) in [path for path in recording.directory.iterdir() if path != first]
    assert not open_bag(recording.status[-1].bag).truncated


def test_a_mode_message_that_is_none(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    recording.modes.publish(b"\x00\x01\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f")
    bench.until(lambda: bench.says(NAME, ERROR, "that are no twinbrain_ros/msg/ControlMode"))
    recording.mode(ControlMode.AUTONOMY)
    bench.until(recording.records)
    bench.until(lambda: bench.says(NAME, 0, "recording"))


def test_a_mode_that_is_none_is_named_and_ends_no_episode(
    bench: Any, tmp_path: Path, robot: RobotFile
) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(recording.records)
    recording.mode(77)
    bench.until(lambda: bench.says(NAME, ERROR, "control_mode: mode is 77, expected one of 0, 1, 2, 3, 4"))
    assert recording.records()
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: not recording.records())
    bench.until(lambda: bench.says(NAME, 0, "active"))


def test_autonomy_while_the_last_bag_is_being_closed(
    bench: Any, tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(recording.records)
    first = recording.status[-1].bag
    recorder = recording.node._recorder
    finish, held = recorder._finish, [True]

    def slow(episode: Any) -> None:
        while held:
            recorder._wake.wait(0.01)
        finish(episode)

    monkeypatch.setattr(recorder, "_finish", slow)
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: recorder.state().closing)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(lambda: recording.node._owed)
    assert recorder.state().bag == Path(first)
    held.clear()
    bench.until(lambda: recording.records() and recording.status[-1].bag != first)
    recording.mode(ControlMode.HOLD)
    bench.until(lambda: not recording.records())
    assert len(recording.whole()) == 2 and not bench.says(NAME, ERROR, "")


def test_what_a_person_has_stopped_is_not_begun_again(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    recording = Recording(bench, tmp_path / "bags", robot)
    recording.mode(ControlMode.AUTONOMY)
    bench.until(recording.records)
    assert bench.call(Trigger, "episode/stop", Trigger.Request()).success
    before = len(bench.said[NAME])
    bench.until(lambda: len(bench.said[NAME]) >= before + 3)  # 1 s apart
    assert not recording.records() and len(recording.whole()) == 1
