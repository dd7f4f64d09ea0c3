"""Small bags with everything an arm's contract names, along a path that a test knows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from twinbrain_ros.msg import ChunkStatus, PolicyStatus

from twinbrain_ros.control.modes import Mode, ModeChange
from twinbrain_ros.data.bag import Message
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic, in_namespace, recorded_topics
from twinbrain_ros.data.episode_info import EpisodeInfo
from twinbrain_ros.nodes.convert import (
    chunk_message,
    image_message,
    mode_message,
    to_time,
    trajectory_message,
)
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile

NS_PER_S = 1_000_000_000
MS = 1_000_000
START_NS = 1_700_000_000 * NS_PER_S
INSTRUCTION = "pick up the red block"
POLICY = "stand-in@000000000000"
IMAGE_NS, JOINT_NS, COMMAND_NS = 50 * MS, 10 * MS, 20 * MS
WRIST_LATER_NS = 4 * MS  # the second camera's images are stamped so much later than the first one's
ON_THE_WAY_NS = 2 * MS  # from a stamp to its receipt
INFERENCE_NS = 60 * MS  # from an observation to its chunk

JointPath = Callable[[float], NDArray[np.float64]]
ChunkData = Callable[[float, int], NDArray[np.float64]]


@dataclass(frozen=True)
class MadeBag:
    """What is in a bag: where it is, when it starts [ns], its chunks, and its messages in their order."""

    path: Path
    start_ns: int
    chunks: tuple[ActionChunk, ...]
    messages: Sequence[Message] = field(repr=False)

    def of(self, topic: str) -> list[bytes]:
        """The serialized messages of a topic, by its full name."""
        return [message.data for message in self.messages if message.topic == topic]


def swing(robot: RobotFile, rad: float = 0.2, period_s: float = 4.0) -> JointPath:
    """From home, every joint on a sine of its own phase; [J] of a time since the start [s]."""
    phases = np.arange(len(robot.arm_joints))

    def joints(at_s: float) -> NDArray[np.float64]:
        turn = 2 * np.pi * at_s / period_s
        return np.asarray(robot.home + rad * (np.sin(turn + phases) - np.sin(phases)))

    return joints


def still(robot: RobotFile, seconds: float = 0.0, sequence: int = 0) -> NDArray[np.float64]:
    """Actions [T, A] of an arm that stays where it is (at home, for joint positions), its gripper open."""
    data = np.zeros((robot.action.horizon, len(robot.action.names)))
    if robot.action.space == "joint_position":
        data[:, :-1] = robot.home
    data[:, -1] = 1.0
    return data


def commanded_states(
    robot: RobotFile, seconds: float, opening: Callable[[float], float]
) -> list[tuple[str, int, Any]]:
    """What the controller says of a gripper that no driver measures, for `more` of a bag."""
    found = []
    for after_ns in range(0, round(seconds * NS_PER_S), COMMAND_NS):
        finger_m = robot.gripper.finger(opening(after_ns / NS_PER_S))
        message = JointState(name=[robot.gripper.joint], position=[finger_m])
        message.header.stamp = to_time(START_NS + after_ns)
        found.append((robot.topics.commanded_joint_states, START_NS + after_ns + ON_THE_WAY_NS, message))
    return found


def make_bag(
    path: Path,
    robot: RobotFile,
    seconds: float = 3.0,
    *,
    joints: JointPath | None = None,
    opening: Callable[[float], float] = lambda at_s: 1.0,
    modes: Sequence[tuple[float, Mode]] = ((0.0, Mode.AUTONOMY),),
    instructions: Sequence[tuple[float, str]] = ((0.0, INSTRUCTION),),
    chunk_every_s: float | None = 0.5,
    chunk_data: ChunkData | None = None,
    chunk_more: Mapping[int, Mapping[str, Any]] | None = None,
    told: Callable[[float], float] | None = None,
    leave_out: Collection[str] = (),
    silent: Mapping[str, tuple[float, float]] | None = None,
    namespace: str = "",
    start_ns: int = START_NS,
    info: EpisodeInfo | None = None,
    more: Sequence[tuple[str, int, Any]] = (),
    sensed_joints: bool = True,
) -> MadeBag:
    """Writes a bag: cameras at 20 Hz, joint states at 100 Hz, commands at 50 Hz, and what else there is.

    Args:
        joints: arm joints [J] at a time since the start [s]; default: `swing`.
        opening: of the gripper, likewise.
        modes, instructions: what held from when on [s].
        chunk_every_s: one from the image at 0 and then every so often; a multiple of 0.05. None: none.
        chunk_data: actions [T, A] of a chunk from its time [s] and sequence (from 1); default: `still`.
        chunk_more: other fields of chunks, by sequence.
        told: opening that the gripper is commanded to; default: `opening`, the measured one.
        leave_out: topics (as the robot file names them) that get no messages.
        silent: topics that get none from one time to another [s].
        sensed_joints: whether there are joint states but those in `more`.
        more: messages besides: topic, time of receipt [ns], content.
        info: of the episode; None: the robot file's texts, policy and instruction. `EpisodeInfo()`: nothing.
    """
    gaps = {**dict.fromkeys(leave_out, (-math.inf, math.inf)), **(silent or {})}
    bag = _Making(robot, namespace, start_ns, seconds, gaps)
    bag.sensors(joints or swing(robot), opening, sensed_joints)
    bag.commands(joints or swing(robot), told or opening)
    bag.events(modes, instructions)
    if chunk_every_s is not None:
        data = chunk_data or (lambda at_s, sequence: still(robot))
        bag.chunks(chunk_every_s, data, instructions, joints or swing(robot), chunk_more or {})
    for entry in more:
        bag.put(*entry)
    if info is None:
        info = EpisodeInfo(
            robot=robot.name,
            robot_file=robot.path.read_text(encoding="utf-8"),
            urdf=robot.urdf(),
            namespace=namespace,
            policy=POLICY,
            instruction=instructions[-1][1] if instructions else "",
            started_ns=start_ns,
            ended_ns=start_ns + round(seconds * NS_PER_S),
        )
    return bag.write(path, info)


class _Making:
    """A bag that is being made."""

    def __init__(
        self,
        robot: RobotFile,
        namespace: str,
        start_ns: int,
        seconds: float,
        gaps: Mapping[str, tuple[float, float]],
    ) -> None:
        self.robot, self.start_ns, self.seconds = robot, start_ns, seconds
        self._namespace, self._gaps = namespace, gaps
        self._known = {topic.name: topic for topic in recorded_topics(robot, namespace)}
        self._rows: list[tuple[int, Topic, bytes]] = []
        self._chunks: list[ActionChunk] = []

    def put(self, topic: str, log_ns: int, message: Any) -> None:
        from_s, to_s = self._gaps.get(topic, (math.inf, math.inf))
        if not from_s <= self._since(log_ns) < to_s:
            entry = self._known[in_namespace(self._namespace, topic)]
            self._rows.append((log_ns, entry, serialize_message(message)))

    def _times(self, every_ns: int) -> range:
        return range(self.start_ns, self.start_ns + round(self.seconds * NS_PER_S), every_ns)

    def _since(self, stamp_ns: int) -> float:
        return (stamp_ns - self.start_ns) / NS_PER_S

    def image_stamps(self, image_ns: int) -> tuple[int, ...]:
        """Of the images of all cameras that belong to the first one's of this stamp."""
        return tuple(image_ns + number * WRIST_LATER_NS for number in range(len(self.robot.cameras)))

    def sensors(self, joints: JointPath, opening: Callable[[float], float], with_joints: bool) -> None:
        robot, topics = self.robot, self.robot.topics
        for index, image_ns in enumerate(self._times(IMAGE_NS)):
            stamps = self.image_stamps(image_ns)
            for number, (camera, stamp_ns) in enumerate(zip(robot.cameras, stamps, strict=True)):
                # Counting, so that no two images of a bag are the same.
                pixels = np.full((camera.height, camera.width, 3), (index + 100 * number) % 256, np.uint8)
                self.put(
                    camera.image_topic, stamp_ns + ON_THE_WAY_NS, image_message(pixels, camera, stamp_ns)
                )
            status = PolicyStatus(observation_stamp=to_time(image_ns), policy=POLICY)
            status.header.stamp = to_time(image_ns + ON_THE_WAY_NS)
            self.put(topics.policy_status, image_ns + 2 * ON_THE_WAY_NS, status)
        names = [*robot.arm_joints, robot.gripper.joint]
        for stamp_ns in self._times(JOINT_NS) if with_joints else ():
            at_s = self._since(stamp_ns)
            finger = robot.gripper.closed_m + opening(at_s) * (robot.gripper.open_m - robot.gripper.closed_m)
            state = JointState(name=names, position=[*joints(at_s).tolist(), finger])
            state.header.stamp = to_time(stamp_ns)
            self.put(topics.joint_states, stamp_ns + ON_THE_WAY_NS // 2, state)

    def commands(self, joints: JointPath, told: Callable[[float], float]) -> None:
        robot, topics = self.robot, self.robot.topics
        for stamp_ns in self._times(COMMAND_NS):
            at_s = self._since(stamp_ns)
            positions = joints(at_s).tolist()
            if robot.command_interface == "joint_trajectory":
                arm: Any = trajectory_message(robot.arm_joints, [0.02], [positions])
            else:
                arm = JointGroupCommand(name="arm", cmd=positions)
            self.put(topics.arm_trajectory, stamp_ns, arm)
            self.put(topics.gripper_trajectory, stamp_ns, self._gripper(robot.gripper.finger(told(at_s))))

    def _gripper(self, finger_m: float) -> Any:
        interface = self.robot.gripper_command.interface
        if interface == "position":
            return Float64MultiArray(data=[finger_m])
        if interface == "xs_joint_single":
            return JointSingleCommand(name="gripper", cmd=2 * finger_m)
        return trajectory_message([self.robot.gripper.joint], [0.02], [[finger_m]])

    def events(self, modes: Sequence[tuple[float, Mode]], instructions: Sequence[tuple[float, str]]) -> None:
        for at_s, mode in modes:
            stamp_ns = self.start_ns + round(at_s * NS_PER_S)
            change = ModeChange(mode, stamp_ns, "test", "as the test wants it")
            self.put(self.robot.topics.control_mode, stamp_ns, mode_message(change, stamp_ns))
        for at_s, text in instructions:
            self.put(self.robot.topics.instruction, self.start_ns + round(at_s * NS_PER_S), String(data=text))
        description = String(data=self.robot.urdf())
        self.put(self.robot.topics.robot_description, self.start_ns, description)

    def chunks(
        self,
        every_s: float,
        data: ChunkData,
        instructions: Sequence[tuple[float, str]],
        joints: JointPath,
        more: Mapping[int, Mapping[str, Any]],
    ) -> None:
        robot = self.robot
        for sequence, image_ns in enumerate(self._times(round(every_s * NS_PER_S)), start=1):
            at_s = self._since(image_ns)
            texts = [text for since_s, text in instructions if since_s <= at_s]
            chunk = ActionChunk.for_robot(
                robot,
                sequence,
                image_ns,
                texts[-1] if texts else "",
                data(at_s, sequence),
                joints(at_s),
                noise_seed=1000 + sequence,
                inference_time_s=INFERENCE_NS / NS_PER_S,
                image_stamps_ns=self.image_stamps(image_ns),
                joint_stamp_ns=image_ns,
            )
            chunk = dataclasses.replace(chunk, **more.get(sequence, {}))
            self._chunks.append(chunk)
            sent_ns = image_ns + INFERENCE_NS
            self.put(robot.topics.action_chunk, sent_ns, chunk_message(chunk, robot, sent_ns))
            status = ChunkStatus(
                sequence=sequence,
                observation_stamp=to_time(image_ns),
                outcome=ChunkStatus.EXECUTED,
                first_command_stamp=to_time(sent_ns + ON_THE_WAY_NS),
                due=to_time(image_ns),
            )
            status.header.stamp = to_time(sent_ns + ON_THE_WAY_NS)
            self.put(robot.topics.chunk_status, sent_ns + 2 * ON_THE_WAY_NS, status)

    def write(self, path: Path, info: EpisodeInfo) -> MadeBag:
        values = info.to_json() if info != EpisodeInfo() else {}
        writer = BagWriter(path, values)
        messages = []
        # Sorting is stable: of messages at the same time those that were put first come first.
        for log_ns, topic, data in sorted(self._rows, key=lambda row: row[0]):
            writer.write(topic, log_ns, data)
            messages.append(Message(topic.name, topic.type, log_ns, data))
        writer.close(values)
        return MadeBag(path, self.start_ns, tuple(self._chunks), messages)
