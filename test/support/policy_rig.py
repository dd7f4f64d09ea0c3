"""A policy node on real topics whose cameras, joints and words a test plays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image, JointState
from stand_in import StandInPolicy
from std_msgs.msg import String
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.robot.robot_file import RobotFile


class StandIn(StandInPolicy):
    """Answers with its noise, so that a test sees which noise it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, np.ndarray], str, np.ndarray | None]] = []
        self.fails = ""
        self.go = threading.Event()
        self.go.set()

    def take_robot(self, robot: RobotFile) -> None:
        if robot.name != "wx250s":
            raise ValueError(f"robot: checkpoint 'wx250s', robot file {robot.name!r}")

    def prompts(self, instruction: str) -> object:
        if "sing" in instruction.split():
            raise ValueError("instruction: the words ['sing'] are not in this checkpoint's vocabulary")
        return None

    def act(self, images: Any, instruction: str, state: Any, *, noise: Any, stamp_s: float) -> np.ndarray:
        self.seen.append((dict(images), instruction, state))
        assert self.go.wait(10.0)
        if self.fails:
            raise ValueError(self.fails)
        return np.asarray(noise, dtype=np.float64)


class Rig:
    """A policy node whose cameras, joints and words the test plays."""

    def __init__(
        self,
        bench: Any,
        robot: RobotFile,
        policy: Any = None,
        generalist: Any = None,
        robot_file: str = "wx250s",
        node: bool = True,
        silent: Collection[str] = (),
        **parameters: Any,
    ) -> None:
        """robot_file: what the node is given; its topics are those of `robot`. node: whether to make one.
        silent: cameras that a test plays itself."""
        self.bench, self.robot, self.policy = bench, robot, policy or StandIn()
        if node:
            self.node = bench.add(
                lambda **arguments: PolicyNode(lambda *_: self.policy, lambda _: generalist, **arguments),
                **{"autostart": True, "seed": 3, "robot": robot_file} | parameters,
            )
            assert self.node.autostart()
        self.cameras = {
            c.name: bench.publisher(convert.image_type(c), c.image_topic)
            for c in robot.cameras
            if c.name not in silent
        }
        self.joints = bench.publisher(JointState, robot.topics.joint_states)
        self.words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
        self.chunks = bench.record(ActionChunkMessage, robot.topics.action_chunk, qos.STATUS)
        self.stamps: list[int] = []  # of the observations sent

    def now_ns(self) -> int:
        return int(self.bench.node.get_clock().now().nanoseconds)

    def image(self, camera: str, stamp_ns: int, **changes: Any) -> Image | CompressedImage:
        spec = self.robot.camera(camera)
        pixels = np.full((spec.height, spec.width, 3), 7, np.uint8)
        message = convert.image_message(pixels, spec, stamp_ns)
        for field, value in changes.items():
            setattr(message, field, value)
        return message

    def joint_state(self, stamp_ns: int, **changes: Any) -> JointState:
        robot = self.robot
        message = JointState(
            name=[*robot.arm_joints, robot.gripper.joint],
            position=[*robot.home.tolist(), robot.gripper.open_m],
        )
        message.header.stamp = convert.to_time(stamp_ns)
        for field, value in changes.items():
            setattr(message, field, value)
        return message

    def observe(self, **changes: dict[str, Any]) -> int:
        """Sends a complete observation, `changes` by stream, and waits until it is there; gives its stamp."""
        stamp = self.send(**changes)
        counters = self.node.health.summary("").values
        self.bench.until(
            lambda: all(
                self.node.health.summary("").values[f"frames_received/{name}"] == str(len(self.stamps))
                for name in self.cameras
            ),
            f"of {len(self.stamps)} frames only these arrived: {counters}",
        )
        return stamp

    def send(self, **changes: dict[str, Any]) -> int:
        """Sends a complete observation; gives its stamp."""
        stamp = self.now_ns()
        self.joints.publish(self.joint_state(stamp, **changes.get("joint_states", {})))
        for name, publisher in self.cameras.items():
            publisher.publish(self.image(name, stamp, **changes.get(name, {})))
        self.stamps.append(stamp)
        return stamp

    def observe_until(self, condition: Callable[[], Any], what: str = "", **changes: dict[str, Any]) -> None:
        """As many observations as it takes: joint states and images may overtake each other on the way.

        None while the policy works on one: a thread that only publishes would leave it no time to.
        """

        def tried() -> Any:
            result = condition()
            worker = self.node._worker
            if not result and (worker is None or not worker.busy):
                self.observe(**changes)
            return result

        self.bench.until(tried, what)

    def chunk(self, count: int) -> ActionChunkMessage:
        """The chunk number `count`."""
        self.observe_until(lambda: len(self.chunks) >= count, f"chunk {count} never came")
        return self.chunks[count - 1]

    def no_chunk(self) -> None:
        """Observations that would be answered are not."""
        before = len(self.chunks)
        for _ in range(3):
            self.observe()
        assert not self.node._worker.busy and len(self.chunks) == before

    def say(self, text: str) -> None:
        self.words.publish(String(data=text))

    def told(self, text: str) -> None:
        """Says it, and waits until the node knows."""
        self.say(text)
        self.bench.until(lambda: understood(self, text), f"{text!r} never came")


def understood(rig: Rig, text: str) -> bool:
    return rig.node.instruction == text
