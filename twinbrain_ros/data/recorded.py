"""A bag as the policy saw it: observations built from recorded messages as the live node builds them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.realtime import RealTimeGuide
from twinbrain_ros.data.bag import Bag, BagError, Message
from twinbrain_ros.data.contract import COMPRESSED, in_namespace
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.frames import FrameBuilder, NotReady, Observation
from twinbrain_ros.data.instructions import Instructions
from twinbrain_ros.data.joint_parts import part_of_message
from twinbrain_ros.data.messages import NS_PER_S, chunk_from_message, from_time, image_from_message
from twinbrain_ros.data.problems import Problems
from twinbrain_ros.robot.chunk import ActionChunk, Guide
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import Camera, RobotFile, load_robot

# Of images that have no order by stamps: so long after an observation they are no longer looked for, and so
# many chunks are meanwhile looked after.
GIVEN_UP_NS = NS_PER_S
CHUNKS_TRIED = 8


@dataclass(frozen=True)
class Moment:
    """An observation from a bag, with what belongs to it.

    Attributes:
        observation: exactly what the live policy saw, or saw at this time at the latest.
        log_ns: when its last part was received [ns].
        instruction: that held then.
        mode: who drove then.
        chunk: that was made from it, None if none was.
        guide: what that chunk was made to agree with; None if nothing, or if it is not in the bag.
    """

    observation: Observation
    log_ns: int
    instruction: str
    mode: Mode
    chunk: ActionChunk | None = None
    guide: Guide | None = None


def robot_of(bag: Bag, given: str | None = None) -> RobotFile:
    """The robot file of a bag: the given one, else the recorded one, else the shipped one its chunks name.

    Raises:
        BagError: the bag does not say; names what could be given.
        RobotFileError: the recorded one is not valid.
    """
    if given is not None:
        return load_robot(given)
    if bag.episode.robot_file:
        return load_robot(_unpacked(bag.episode.robot_file, bag.episode.urdf))
    for message in _of_type(bag, "twinbrain_ros/msg/ActionChunk"):
        name = bag.decode(message).robot
        try:
            return load_robot(name)
        except FileNotFoundError as error:
            raise BagError(f"{bag.path}: made by a robot that is not known here: {error}") from error
    raise BagError(f"{bag.path}: says nothing of its robot: name its robot file with --robot")


def namespace_of(bag: Bag, robot: RobotFile) -> str:
    """The namespace of an arm's topics in a bag: the recorded one, else the only one that has joint states.

    Raises:
        BagError: there are several.
    """
    if bag.episode.robot:
        return bag.episode.namespace
    end = "/" + robot.topics.joint_states
    leaders = {entry.topic for entry in robot.teleop}
    found = [
        name.removesuffix(end).strip("/")
        for name in bag.topics
        if name.endswith(end) and not any(name.endswith("/" + leader) for leader in leaders)
    ]
    if len(found) > 1:
        raise BagError(f"{bag.path}: found arms in the namespaces {found}, expected one: give --namespace")
    return found[0] if found else ""


def _of_type(bag: Bag, kind: str) -> Iterator[Message]:
    return bag.messages([name for name, topic in bag.topics.items() if topic.type == kind])


def camera_topics(bag: Bag, robot: RobotFile, namespace: str) -> dict[str, Camera]:
    """The cameras of a robot, in its order, by the topic that has their images in a bag.

    Raw images where there are both raw and compressed ones: they are what the live policy has seen.
    """
    cameras = {}
    for camera in robot.cameras:
        raw = in_namespace(namespace, camera.base_topic)
        packed = raw + COMPRESSED
        if camera.compressed:
            cameras[packed] = camera
            continue
        cameras[packed if bag.count(packed) and not bag.count(raw) else raw] = camera
    return cameras


def recorded_image(content: Any, camera: Camera) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] uint8 RGB of a recorded image message, raw or compressed.

    Raises:
        FrameError: it is not what the robot file says.
    """
    image = image_from_message(content, camera)
    # A view of bytes, which torch would warn of.
    return image if image.flags.writeable else image.copy()


@cache
def _unpacked(robot_file: str, urdf: str) -> Path:
    """Both as files, where they stay until the process ends."""
    document = yaml.safe_load(robot_file)
    directory = Path(tempfile.mkdtemp(prefix="twinbrain-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "recorded.yaml"
    if isinstance(document, dict):  # what else it may be, `load_robot` refuses
        document["urdf"] = "recorded.urdf"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    path.with_suffix(".urdf").write_text(urdf, encoding="utf-8")
    return path


class RecordedFrames:
    """Feeds a bag's cameras and joint states to the builder that the live node uses.

    Attributes:
        robot, namespace, info: of the bag.
        problems: what could not be used.
    """

    def __init__(
        self, bag: Bag, robot: RobotFile, kinematics: Kinematics, namespace: str | None = None
    ) -> None:
        """namespace: of the arm's topics; None takes the bag's (`namespace_of`)."""
        self.bag, self.robot = bag, robot
        self.info = bag.episode
        self.namespace = namespace_of(bag, robot) if namespace is None else namespace
        self.problems = Problems()
        self._builder = FrameBuilder(robot, kinematics)
        self._guide = RealTimeGuide(robot, kinematics)
        self._sent: dict[int, ActionChunk] = {}  # chunks by sequence, of those that guided others
        self._due_ns: dict[int, int] = {}  # when their first step started
        self._cameras = camera_topics(bag, robot, self.namespace)
        self._joints = tuple(self.topic(name) for name in robot.topics.all_joint_states)
        self._commanded = self.topic(robot.topics.commanded_joint_states)
        self._mode = self.topic(robot.topics.control_mode)
        for name in (*self._cameras, *self._joints):
            if not bag.count(name):
                self.problems.add(f"missing/{name}", f"{name}: no messages in the bag")

    def topic(self, relative: str) -> str:
        """Full name of a topic of the robot file."""
        return in_namespace(self.namespace, relative)

    def chunk_moments(self) -> Iterator[Moment]:
        """One for each recorded chunk whose observation is in the bag, in the order of the observations.

        Each is built from exactly the messages that the live one was built from.
        """
        chunks = sorted(self._chunks, key=lambda chunk: chunk.observation_ns)
        guiding = {chunk.guide_sequence for chunk in chunks}
        self._sent = {chunk.sequence: chunk for chunk in chunks if chunk.sequence in guiding}
        self._due_ns = dict(self._starts(guiding))
        waiting = deque(chunks)
        newest: dict[str, int] = {}
        for log_ns, stream, stamp_ns, instruction, mode in self._feed():
            newest[stream] = stamp_ns
            # More than the first: one whose image is missing is waited for, and must not hold up the others.
            while chunk := next(
                (c for c in islice(waiting, CHUNKS_TRIED) if self._all_there(c, newest, log_ns)), None
            ):
                waiting.remove(chunk)
                moment = self._rebuilt(chunk, log_ns, instruction, mode)
                if moment is not None:
                    yield moment
        for chunk in waiting:
            self.problems.add("unseen", f"chunk {chunk.sequence}: its observation is not in the bag")

    def timed_moments(self, period_s: float) -> Iterator[Moment]:
        """One every `period_s`, of the newest complete observation, as a live policy would have had it."""
        last_ns = None
        for log_ns, stream, _, instruction, mode in self._feed():
            if stream in self._joints:
                continue
            seen = self._builder.build(log_ns)
            if isinstance(seen, NotReady):
                continue
            if last_ns is None or not 0 <= seen.stamp_ns - last_ns < round(period_s * NS_PER_S):
                last_ns = seen.stamp_ns
                yield Moment(seen, log_ns, instruction, mode)

    def ticks(self, period_s: float) -> Iterator[tuple[int, Moment | NotReady]]:
        """One every `period_s` from the first complete observation on, by the time of receipt [ns]: what a
        live policy would have seen then, or why it would have seen nothing. No tick is left out."""
        period_ns = round(period_s * NS_PER_S)
        due: deque[tuple[int, Moment | NotReady]] = deque()
        next_ns = None

        def before(log_ns: int, instruction: str, mode: Mode) -> None:
            nonlocal next_ns
            while next_ns is not None and log_ns > next_ns:
                seen = self._builder.build(next_ns)
                blind = isinstance(seen, NotReady)
                due.append((next_ns, seen if blind else Moment(seen, next_ns, instruction, mode)))
                next_ns += period_ns

        for log_ns, *_ in self._feed(before):
            yield from due
            due.clear()
            if next_ns is None and not isinstance(self._builder.build(log_ns), NotReady):
                next_ns = log_ns
        yield from due

    @cached_property
    def _chunks(self) -> list[ActionChunk]:
        return list(self._read_chunks())

    @cached_property
    def _by_receipt(self) -> frozenset[str]:
        """Cameras whose images the live policy took by the time of receipt: the robot file says so, or the
        chunks do, by images without a stamp or with stamps that cannot be of their observation's clock."""
        found = {camera.name for camera in self.robot.cameras if camera.stamps == "receipt"}
        apart_ns = round(self.robot.observation.max_skew_s * NS_PER_S)
        for chunk in self._chunks:
            for camera, stamp_ns, digest in self._named_images(chunk):
                if digest or abs(stamp_ns - chunk.observation_ns) > apart_ns:
                    found.add(camera.name)
        return frozenset(found)

    def _named_images(self, chunk: ActionChunk) -> Iterator[tuple[Camera, int, int]]:
        """By which stamp and digest a chunk names the image of each camera."""
        digests = chunk.image_digests or (0,) * len(chunk.image_stamps_ns)
        return zip(self.robot.cameras, chunk.image_stamps_ns, digests, strict=True)

    def _read_chunks(self) -> Iterator[ActionChunk]:
        topic = self.topic(self.robot.topics.action_chunk)
        for message in self.bag.messages([topic]):
            try:
                chunk = chunk_from_message(self.bag.decode(message), self.robot)
                chunk.validate(self.robot)
            except ValueError as error:
                self.problems.add(f"chunk/{type(error).__name__}", f"{topic}: chunk not usable: {error}")
                continue
            count = len(self.robot.cameras)
            if len(chunk.image_stamps_ns) != count or len(chunk.image_digests) not in (0, count):
                self.problems.add(
                    "stamps",
                    f"{topic}: a chunk names {len(chunk.image_stamps_ns)} image stamps, expected "
                    f"{len(self.robot.cameras)}, one for each camera of the robot file",
                )
                continue
            yield chunk

    def _all_there(self, chunk: ActionChunk, newest: dict[str, int], log_ns: int) -> bool:
        if not self._builder.joints_came(chunk.joint_stamp_ns, chunk.joint_stamps_ns):
            return False
        given_up = log_ns - chunk.observation_ns > GIVEN_UP_NS
        for topic, (camera, stamp_ns, digest) in zip(self._cameras, self._named_images(chunk), strict=True):
            if camera.name not in self._by_receipt:
                if newest.get(topic, -1) < stamp_ns:
                    return False
            elif not (given_up or self._builder.has_image(camera.name, stamp_ns, digest)):
                return False
        return True

    def _rebuilt(self, chunk: ActionChunk, log_ns: int, instruction: str, mode: Mode) -> Moment | None:
        named = list(self._named_images(chunk))
        seen = self._builder.rebuild(
            {camera.name: stamp_ns for camera, stamp_ns, _ in named},
            chunk.joint_stamp_ns,
            chunk.joint_stamps_ns,
            {camera.name: digest for camera, _, digest in named},
        )
        if isinstance(seen, NotReady):
            self.problems.add(
                f"rebuild/{seen.stream}",
                f"chunk {chunk.sequence}: its observation is not whole: {seen.message}",
            )
            return None
        return Moment(seen, log_ns, chunk.instruction, mode, chunk, self._guide_of(chunk))

    def _guide_of(self, chunk: ActionChunk) -> Guide | None:
        if not chunk.guide_sequence:
            return None
        driving, due_ns = self._sent.get(chunk.guide_sequence), self._due_ns.get(chunk.guide_sequence)
        if driving is None or due_ns is None:
            self.problems.add(
                "guide", f"chunk {chunk.sequence}: chunk {chunk.guide_sequence}, its guide, is not in the bag"
            )
            return None
        where = (chunk.observation_ns, chunk.observation_positions)
        return self._guide.along(driving, due_ns, *where, chunk.guide_frozen)

    def _starts(self, sequences: Collection[int]) -> Iterator[tuple[int, int]]:
        """When the first steps of these chunks started [ns], as the controller says."""
        topic = self.topic(self.robot.topics.chunk_status)
        for message in self.bag.messages([topic] if any(sequences) else []):
            try:
                status = self.bag.decode(message)
            except BagError as error:
                self.problems.add(f"{topic}/{type(error).__name__}", str(error))
                continue
            if status.sequence in sequences and from_time(status.first_command_stamp):
                yield int(status.sequence), from_time(status.due)

    def _feed(
        self, before: Callable[[int, str, Mode], None] | None = None
    ) -> Iterator[tuple[int, str, int, str, Mode]]:
        """Adds message after message to the builder; after each camera or joint message gives when it was
        received, its topic and stamp, the instruction and the mode. before: told of each message's receipt
        while it is not added yet, with the instruction and the mode until then."""
        instruction, mode = "", Mode.HOLD
        instructions = Instructions(self.robot, self.namespace)
        topics = [*self._cameras, *self._joints, *instructions.topics, self._mode]
        for message in self.bag.messages(topics):
            if before is not None:
                before(message.log_ns, instruction, mode)
            try:
                content = self.bag.decode(message)
                if message.topic in instructions.topics:
                    followed = instructions.read(message.topic, content)
                    instruction = instruction if followed is None else followed
                elif message.topic == self._mode:
                    mode = Mode(content.mode)
                else:
                    stamp_ns = self._add(message.topic, content, message.log_ns)
                    yield message.log_ns, message.topic, stamp_ns, instruction, mode
            except FrameError as error:
                self.problems.add(f"{error.stream}/{error.field}", f"{message.topic}: {error}")
            except (BagError, AttributeError, ValueError) as error:
                self.problems.add(f"{message.topic}/{type(error).__name__}", f"{message.topic}: {error}")

    def _add(self, topic: str, content: Any, log_ns: int) -> int:
        stamp_ns = from_time(content.header.stamp)
        if topic in self._joints:
            part = part_of_message(content, self.robot, topic == self._commanded)
            if part is not None:
                self._builder.add_part(part)
            return stamp_ns
        camera = self._cameras[topic]
        image = recorded_image(content, camera)
        # A live policy that did not go by receipt has refused images without a stamp; of others' recordings
        # they are better than nothing.
        if camera.name not in self._by_receipt and stamp_ns:
            self._builder.add_image(camera.name, stamp_ns, image)
            return stamp_ns
        self._builder.add_image(camera.name, log_ns, image, stamp_ns)
        return log_ns
