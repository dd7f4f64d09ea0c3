"""The cameras of a robot on their topics: images in, and why there are none.

What a camera sends is decoded as its robot file says. Whatever keeps its images from being used is one
sentence, the same in the log, on /diagnostics and in policy_status: the newest refusal, a clock that is not
this node's, or what the graph says of a topic on which nothing comes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from twinbrain_ros.data.contract import COMPRESSED, COMPRESSED_IMAGE, IMAGE
from twinbrain_ros.data.frames import (
    FUTURE_TOLERANCE_S,
    NS_PER_S,
    RESTART_S,
    FrameBuilder,
    FrameError,
    NotReady,
    Observation,
    Problem,
)
from twinbrain_ros.data.frozen import FrozenCameras
from twinbrain_ros.data.messages import from_time, image_from_message
from twinbrain_ros.data.views import TrainedView, ViewWatch
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.robot.camera import STAMPS, Camera
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.text import shown

# Stamps before this (September 2001) are no time of day, but the time since something was switched on.
SINCE_BOOT_NS = 10**9 * NS_PER_S
OTHER_CLOCK_S = 30.0  # no image comes so late, and no clock that is kept goes so wrong
# Two that send on a topic within so long are two cameras, and not one that was started again.
TOGETHER_S = 1.0
TOPICS_SHOWN = 5
RECEIPT = (
    "`stamps: receipt` at this camera in the robot file, or image_stamps:=receipt, goes by when it comes"
)


@dataclass(frozen=True)
class Why:
    """Why there is no observation: its cause for `Health`, a sentence, and how bad it is."""

    cause: str
    message: str
    level: Level


class CameraTopics:
    """Subscribes to a robot's cameras and feeds a frame builder.

    Args:
        node: owns the subscriptions and tells of what is wrong; its parameter image_stamps may say that the
            time of receipt counts for all cameras.
        robot: its cameras.
        frames, frozen: get the images.
        views: what the policy was trained to see of each camera, as far as that is known.
        on_new: called after each image that can be used.
    """

    def __init__(
        self,
        node: TwinBrainNode,
        robot: RobotFile,
        frames: FrameBuilder,
        frozen: FrozenCameras,
        views: Mapping[str, TrainedView],
        on_new: Callable[[], None],
    ) -> None:
        self._node, self._frames, self._frozen, self._on_new = node, frames, frozen, on_new
        self._cameras = {camera.name: camera for camera in robot.cameras}
        self._max_age_s = robot.observation.max_age_s
        stamps = node.value("image_stamps")
        if stamps not in STAMPS:
            raise ValueError(f"image_stamps is {stamps!r}, expected one of {', '.join(STAMPS)}")
        self._by_receipt = {
            name for name, camera in self._cameras.items() if "receipt" in (stamps, camera.stamps)
        }
        self._views = ViewWatch(views)
        self._headers: dict[str, int] = {}  # newest stamp of each camera's messages
        self._refused: dict[str, tuple[str, str]] = {}  # cause and sentence of the newest image
        self._astray: dict[str, str] = {}  # what is wrong with the clock of the newest image
        self._ahead: set[str] = set()  # cameras whose newest image is not even taken yet, by its stamp
        self._silent: dict[str, str] = {}  # what the graph says of a camera from which nothing has come
        self._senders: dict[str, dict[bytes, float]] = {name: {} for name in self._cameras}
        self._jumped: set[str] = set()
        self._together = ""
        for camera in robot.cameras:
            node.health.count(f"frames_received/{camera.name}", 0)
            node.health.count(f"frames_used/{camera.name}", 0)
            kind = CompressedImage if camera.compressed else Image
            on_image = functools.partial(self._on_image, camera)
            node.subscribe(kind, camera.image_topic, on_image, qos.SENSOR_IN, informed=True)

    # In ---------------------------------------------------------------------------------------------

    def _on_image(self, camera: Camera, message: Any, information: Mapping[str, Any]) -> None:
        health, name = self._node.health, camera.name
        health.count(f"frames_received/{name}")
        if sender := information.get("publisher_gid"):  # not every distribution says who it was
            self._senders[name][bytes(sender["data"])] = time.monotonic()
        try:
            self._add(camera, from_time(message.header.stamp), image_from_message(message, camera))
        except FrameError as error:
            cause = f"image/{name}/{error.field}"
            if self._refused.get(name, (cause,))[0] != cause:  # the newest is what is told
                health.clear(f"image/{name}")
            self._refused[name] = (cause, str(error))
            self._node.report(cause, str(error))
            return
        self._refused.pop(name, None)
        health.clear(f"image/{name}")
        self._on_new()

    def _add(self, camera: Camera, header_ns: int, image: Any) -> None:
        name, now_ns = camera.name, self._node.now_ns()
        last_ns = self._headers.get(name, -1)
        self._headers[name] = header_ns
        if name in self._by_receipt:
            # A stamp that does not go on does not say which image it is: what it shows does.
            stamp_ns, header_ns = now_ns, header_ns if header_ns > max(last_ns, 0) else 0
        elif header_ns == 0:
            expected = f"a time: the driver does not stamp its images; {RECEIPT}"
            raise FrameError(name, "stamp", "zero", expected)
        else:
            stamp_ns = header_ns
            self._watch_clock(name, header_ns, last_ns, now_ns)
        self._frames.add_image(name, stamp_ns, image, header_ns)
        self._frozen.add_image(name, stamp_ns, image)

    def _watch_clock(self, name: str, header_ns: int, last_ns: int, now_ns: int) -> None:
        behind_s = (now_ns - header_ns) / NS_PER_S
        self._ahead.discard(name)
        if -FUTURE_TOLERANCE_S <= behind_s <= self._max_age_s or now_ns == 0:
            self._astray.pop(name, None)
        else:
            self._astray[name] = _astray(name, header_ns, behind_s)
            if behind_s < 0:
                self._ahead.add(name)
        if last_ns - header_ns > RESTART_S * NS_PER_S:
            self._jumped.add(name)
            back_s = (last_ns - header_ns) / NS_PER_S
            message = f"camera {name!r}: its stamps went back by {back_s:.1f} s: taken as started again"
            self._node.report(f"stamps/{name}", message, Level.WARN)

    # What is wrong ----------------------------------------------------------------------------------

    def explained(self, result: NotReady) -> Why:
        """The reason of a frame builder in the words of what the cameras have really sent."""
        if self._together:
            return Why("senders", self._together, Level.ERROR)
        first = [result.stream, *(name for name in self._cameras if name != result.stream)]
        for name in first:
            if name in self._refused:
                return Why(*self._refused[name], Level.ERROR)
        cause = f"observation/{result.problem.value}/{result.stream}"
        if result.problem is Problem.MISSING:
            said = self._silent.get(result.stream, "")
            return Why(cause, f"{result.message}{said}", Level.WARN)
        said = next((self._astray[name] for name in first if name in self._astray), result.message)
        return Why(
            cause,
            said or f"{result.message}: does it come late, or do the clocks differ? {RECEIPT}",
            Level.ERROR,
        )

    def problem(self) -> str:
        """What forbids to act on images that are there; empty: nothing."""
        return self._together or self.ahead()

    def ahead(self) -> str:
        """Which camera's clock is certainly ahead: its images would be paired with what came after them."""
        return next((self._astray[name] for name in self._cameras if name in self._ahead), "")

    def check(self) -> None:
        """Looks at what makes no event; called once a second."""
        for name in set(self._cameras) - self._jumped:
            self._node.health.clear(f"stamps/{name}")
        self._jumped.clear()
        received = {name: name in self._headers or name in self._refused for name in self._cameras}
        self._silent = {
            name: self._graph_says(camera) for name, camera in self._cameras.items() if not received[name]
        }
        self._together = next(filter(None, map(self._two_senders, self._cameras.values())), "")
        if self._together:
            self._node.report("senders", self._together)
        else:
            self._node.health.clear("senders")

    def compare(self, seen: Observation) -> None:
        """Warns of cameras that do not show what the checkpoint was trained on."""
        self._views.look(seen.images, seen.state)
        found = self._views.findings()
        for name in seen.images:
            if name in found:
                self._node.report(f"view/{name}", found[name], Level.WARN)
            else:
                self._node.health.clear(f"view/{name}")

    def _two_senders(self, camera: Camera) -> str:
        now_s = time.monotonic()
        senders = self._senders[camera.name]
        for sender in [sender for sender, at_s in senders.items() if now_s - at_s > TOGETHER_S]:
            del senders[sender]
        if len(senders) < 2:
            return ""
        names = ", ".join(sorted(entry.node_name for entry in self._publishers(camera.image_topic)))
        return (
            f"camera {camera.name!r}: found {len(senders)} publishers that send on {camera.image_topic} "
            f"(nodes {shown(names)}), expected one"
        )

    # The graph --------------------------------------------------------------------------------------

    def _publishers(self, topic: str) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(topic))

    def _graph_says(self, camera: Camera) -> str:
        """What is there in place of the images of a camera from which nothing has come."""
        expected = COMPRESSED_IMAGE if camera.compressed else IMAGE
        here = self._publishers(camera.image_topic)
        for entry in here:
            if entry.topic_type != expected:
                return (
                    f": on {camera.image_topic} node {shown(entry.node_name)} publishes "
                    f"{shown(entry.topic_type)}, expected {expected}{_cure(entry.topic_type)}"
                )
        if here:
            return f", though node {shown(here[0].node_name)} publishes on {camera.image_topic}"
        nobody = f": nobody publishes on {camera.image_topic}"
        beside = camera.base_topic if camera.compressed else camera.base_topic + COMPRESSED
        for entry in self._publishers(beside):
            return (
                f"{nobody}; on {beside} node {shown(entry.node_name)} publishes {shown(entry.topic_type)}"
                f"{_cure(entry.topic_type)}"
            )
        return f"{nobody}{self._elsewhere(camera)}"

    def _elsewhere(self, camera: Camera) -> str:
        """Other topics with images that no camera of the robot file has."""
        node = self._node
        known = {node.resolve_topic_name(other.image_topic) for other in self._cameras.values()}
        beside = node.resolve_topic_name(camera.base_topic) + "/"
        found = [
            f"{name} ({', '.join(kinds)})"
            for name, kinds in node.get_topic_names_and_types()
            if name not in known and _of_images(name, kinds, beside) and node.count_publishers(name)
        ]
        more = f" and {len(found) - TOPICS_SHOWN} more" if len(found) > TOPICS_SHOWN else ""
        return f"; there are images on {', '.join(found[:TOPICS_SHOWN])}{more}" if found else ""


def _of_images(name: str, kinds: Iterable[str], beside: str) -> bool:
    return name.startswith(beside) or any(kind in (IMAGE, COMPRESSED_IMAGE) for kind in kinds)


def _cure(kind: str) -> str:
    """What to write into the robot file for images of this type."""
    transport = {IMAGE: "raw", COMPRESSED_IMAGE: "compressed"}.get(kind)
    return f"; `transport: {transport}` at this camera in the robot file takes it" if transport else ""


def _astray(name: str, header_ns: int, behind_s: float) -> str:
    """What is wrong with stamps that are so far behind the node's clock, or ahead of it; "" if they may be
    of images that come late."""
    way = f"{abs(behind_s):.3f} s {'behind' if behind_s > 0 else 'ahead of'} this machine's clock"
    if 0 < header_ns < SINCE_BOOT_NS:
        way += " (of 1970): of another clock, or the time since boot"
    elif abs(behind_s) > OTHER_CLOCK_S:
        way += ": of another clock"
    elif behind_s < 0:
        way += f", expected at most {FUTURE_TOLERANCE_S} s ahead: do the clocks agree?"
    else:
        return ""
    return f"camera {name!r}: its stamps are {way}; {RECEIPT}"
