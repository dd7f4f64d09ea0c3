"""What a recorder loses and costs: publishers' counts beside the bag's, and its process's processor time."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.data.bag import Bag, open_bag
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.data.recorded import camera_topics
from twinbrain_ros.demo.client import LoopClient, LoopError
from twinbrain_ros.demo.loop import RECORDER, LoopSettings, running_loop
from twinbrain_ros.demo.processes import NodeGroup, node_command
from twinbrain_ros.evaluation.controller_bench import run_episodes
from twinbrain_ros.evaluation.machine import machine_facts, package_versions
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

BAG = "bench"
# After the last picture, until the recorder has what is on its way [s].
SETTLE_S = 1.0


@dataclass(frozen=True)
class Recorded:
    """What was measured.

    Attributes:
        sent, in_bag: pictures of each camera.
        lost: messages of any topic that the publishers' counting or the recorder's own counts miss.
        messages, bytes: in the bag.
        seconds: recorded [s].
        cores: share of a core that the recorder's process took.
    """

    sent: dict[str, int]
    in_bag: dict[str, int]
    lost: dict[str, int]
    messages: int
    bytes: int
    seconds: float
    cores: float

    def to_json(self) -> dict[str, Any]:
        return {
            "pictures_sent": self.sent,
            "pictures_in_bag": self.in_bag,
            "pictures_lost": sum(self.sent.values()) - sum(self.in_bag.values()),
            "messages_lost": self.lost,
            "messages": self.messages,
            "megabytes_per_s": self.bytes / 1e6 / self.seconds,
            "seconds": self.seconds,
            "recorder_cores": self.cores,
            "machine": machine_facts(),
            "versions": package_versions(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The same as lines for a person."""
        facts = self.to_json()
        return [
            ("recorded", f"{self.messages} messages in {self.seconds:.1f} s, "
             f"{facts['megabytes_per_s']:.1f} MB/s"),
            *((f"  {camera}", f"{sent} pictures sent, {self.in_bag[camera]} in the bag")
              for camera, sent in self.sent.items()),
            ("lost", f"{facts['pictures_lost']} pictures, messages: {self.lost or 'none'}"),
            ("recorder", f"{self.cores:.2f} of a core"),
        ]  # fmt: skip


def with_cameras(robot: RobotFile, directory: Path, cameras: list[dict[str, Any]]) -> RobotFile:
    """The same robot with other values of its cameras, as a file in `directory`; more than it has are copies
    of its first one."""
    document = yaml.safe_load(robot.path.read_text(encoding="utf-8"))
    entries = document["cameras"]
    document["cameras"] = [
        {**entries[min(i, len(entries) - 1)], **changes} for i, changes in enumerate(cameras)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / robot.path.name
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    shutil.copy(robot.urdf_path, directory / robot.urdf_path.name)
    return load_robot(path)


def measure_loop(settings: LoopSettings, seconds: float) -> Recorded:
    """The demo's loop, episode after episode, in one bag.

    Raises:
        LoopError, NodeDied: the loop does not do what it is asked to.
    """
    assert settings.record is not None
    with running_loop(settings) as loop:
        started_ns = 0

        def begin() -> None:
            nonlocal started_ns
            started_ns = loop.client.now_ns()
            loop.client.start_episode(BAG, "", 0)

        loop.bring_up(begin)
        with _cores(loop.pids[RECORDER]) as cores:
            run_episodes(loop, seconds)
            frames = loop.count_frames()
        loop.client.stop_episode()
        sent = {camera: counts["sent"] for camera, counts in frames.per_camera.items()}
    bag = open_bag(settings.record / BAG)
    return _recorded(settings.robot, bag, sent, started_ns, cores[0])


def measure_cameras(robot: RobotFile, directory: Path, seconds: float, compression: str) -> Recorded:
    """Cameras alone, as fast as their robot file says.

    Raises:
        LoopError, NodeDied: a process does not do what it is asked to.
    """
    parameters = {
        "robot": robot.path,
        "autostart": True,
        "directory": directory,
        "image_compression": compression,
    }
    with NodeGroup(directory / "logs") as nodes:
        recorder = nodes.start(
            RECORDER, node_command(f"twinbrain_ros.nodes.{RECORDER}", RECORDER, parameters), os.environ
        )
        with LoopClient(robot, nodes.check) as client:
            client.start_episode(BAG, "", 0)
            with _cores(recorder.popen.pid) as cores:
                command = [sys.executable, "-m", "twinbrain_ros.demo.camera_talker"]
                command += [str(robot.path), str(seconds)]
                with NodeGroup(directory / "logs") as talkers:
                    talker = talkers.start("camera_talker", command, os.environ)
                    if not client.spin_until(lambda: talker.popen.poll() is not None, seconds + 60.0):
                        raise LoopError("camera_talker: does not come to its end")
                client.spin_until(lambda: False, SETTLE_S)
            client.stop_episode()
    count = int(talker.log.read_text(encoding="utf-8").split()[-2])
    sent = {camera.name: count for camera in robot.cameras}
    return _recorded(robot, open_bag(directory / BAG), sent, 0, cores[0])


def _recorded(robot: RobotFile, bag: Bag, sent: dict[str, int], since_ns: int, cores: float) -> Recorded:
    in_bag = {}
    for topic, camera in camera_topics(bag, robot, "").items():
        stamps = [from_time(bag.decode(message).header.stamp) for message in bag.messages([topic])]
        in_bag[camera.name] = sum(stamp_ns > since_ns for stamp_ns in stamps)
    size = sum(path.stat().st_size for path in bag.path.iterdir())
    seconds = (bag.end_ns - bag.start_ns) / 1e9
    return Recorded(sent, in_bag, bag.episode.missing, bag.message_count, size, seconds, cores)


@contextmanager
def _cores(pid: int) -> Iterator[list[float]]:
    """Gives a list that holds, afterwards, the share of a core that a process took meanwhile."""
    share: list[float] = []
    before_s, start_s = _processor_s(pid), time.monotonic()
    yield share
    share.append((_processor_s(pid) - before_s) / (time.monotonic() - start_s))


def _processor_s(pid: int) -> float:
    """Processor time of a process so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
