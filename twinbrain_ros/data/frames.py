"""The one way to build an observation: from stamped camera images and joint states, live or from a bag."""

from __future__ import annotations

import enum
import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.decode import FrameError, image_from_buffer
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.joint_part import JointPart, joint_names, listed, never_told
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.state import pick_state

__all__ = [
    "FrameBuilder",
    "FrameError",
    "Look",
    "NotReady",
    "Observation",
    "Problem",
    "image_from_buffer",
]

NS_PER_S = 1_000_000_000

IMAGES_KEPT = 4  # per camera: enough to pair it with a camera that arrives some frames later
JOINTS_KEPT = 128  # of each part: more than a second at 100 Hz, longer than any allowed age
# A stamp that goes back by more than this is a source that was started again (a bag that loops, a reset
# clock): its old data belong to another time line. Less is a message out of order, which is dropped.
RESTART_S = 1.0
# Stamps of two machines never agree to the last millisecond; more than this is a clock that is wrong.
FUTURE_TOLERANCE_S = 0.05


@dataclass(frozen=True)
class Observation:
    """Everything the policy sees at one moment.

    Attributes:
        stamp_ns: the oldest stamp among the cameras: nothing the policy sees is older than this says.
        image_stamps_ns, joint_stamp_ns: of the parts; with them `FrameBuilder.rebuild` builds it again.
        joint_stamps_ns: of every joint, the gripper's last, where they differ, else empty; `joint_stamp_ns`
            is the oldest.
        unstamped: cameras whose images had no stamp of their own: what they show says which they were.
        images: per camera [H, W, 3] uint8 RGB.
        arm_positions: [J] measured arm joints in robot-file order [rad].
        gripper_opening: 0 closed to 1 open.
        state: [7] proprioceptive state: tool position [m], orientation (roll, pitch, yaw) [rad], opening.
        arm_joints: names of the arm's joints.
    """

    stamp_ns: int
    images: dict[str, NDArray[np.uint8]]
    arm_positions: NDArray[np.float64]
    gripper_opening: float
    state: NDArray[np.float64]
    image_stamps_ns: dict[str, int]
    joint_stamp_ns: int
    joint_stamps_ns: tuple[int, ...] = ()
    unstamped: frozenset[str] = frozenset()
    arm_joints: tuple[str, ...] = ()

    def named_state(self, names: Sequence[str]) -> NDArray[np.float64] | None:
        """The state of these names [S] (`robot.state.pick_state`); None for none."""
        return pick_state(names, self.state, self.arm_positions, self.arm_joints) if names else None

    def image_digests(self) -> dict[str, int]:
        """By camera what an image without a stamp is found again by; 0: its stamp."""
        return {
            name: image_digest(pixels) if name in self.unstamped else 0
            for name, pixels in self.images.items()
        }


def image_digest(pixels: NDArray[np.uint8]) -> int:
    """A number of 64 bits, never 0, that depends on every pixel [H, W, 3]."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


class Problem(enum.Enum):
    """Why there is no observation."""

    MISSING = "missing"  # a stream has given nothing yet
    SKEW = "skew"  # the streams' newest parts are too far from each other in time
    AGE = "age"  # it is complete, but too old
    FUTURE = "future"  # it is stamped later than now: clocks disagree


@dataclass(frozen=True)
class NotReady:
    """The reason why there is no observation: its kind, the stream at fault and a sentence with figures."""

    problem: Problem
    stream: str
    message: str


@dataclass(frozen=True)
class Look:
    """Images alone: of each camera asked for [H, W, 3] uint8 RGB, and the oldest one's stamp."""

    stamp_ns: int
    images: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class _Image:
    stamp_ns: int
    pixels: NDArray[np.uint8]
    header_ns: int  # of its message: by this it is found again; 0: by what it shows


@dataclass(frozen=True)
class _Joints:
    stamps_ns: tuple[int, ...]  # of the arm's joints, then of the gripper's
    arm: NDArray[np.float64]
    finger_m: float

    @property
    def stamp_ns(self) -> int:
        return min(self.stamps_ns)


_Stamped = TypeVar("_Stamped", _Image, JointPart)


class FrameBuilder:
    """Keeps the latest of every stream and pairs them by stamp.

    Memory is bounded: a few images per camera and about a second of joint states. Joint states are paired
    with the images by nearest stamp, each part of them by its own, and not interpolated, so that an
    observation holds measurements only.

    Args:
        robot: cameras, allowed age and allowed skew.
        kinematics: of the same robot, for the tool pose in the state.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics) -> None:
        self._robot = robot
        self._kinematics = kinematics
        self._cameras = {camera.name: camera for camera in robot.cameras}
        self._images: dict[str, deque[_Image]] = {name: deque(maxlen=IMAGES_KEPT) for name in self._cameras}
        self._joint_names = joint_names(robot)
        self._parts: dict[tuple[int, ...], deque[JointPart]] = {}  # by the joints that they are of

    def clear(self) -> None:
        """Forgets everything that was added."""
        for images in self._images.values():
            images.clear()
        self._parts.clear()

    def add_image(
        self, camera: str, stamp_ns: int, image: NDArray[np.uint8], header_ns: int | None = None
    ) -> None:
        """Adds an image [H, W, 3] uint8 RGB, as `image_from_buffer` gives it.

        Args:
            stamp_ns: when it was taken, for all that is known.
            header_ns: the stamp of its message, where that is another one; 0: it has none.
        Raises:
            FrameError: unknown camera, wrong shape or type, or a stamp that does not follow the last one.
        """
        if camera not in self._cameras:
            raise FrameError(camera, "camera", repr(camera), f"one of {list(self._cameras)}")
        expected = (self._cameras[camera].height, self._cameras[camera].width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise FrameError(camera, "image", f"{image.dtype} {image.shape}", f"uint8 {expected}")
        stream = self._images[camera]
        self._check_order(camera, stream[-1].stamp_ns if stream else None, stamp_ns)
        stream.append(_Image(stamp_ns, image, stamp_ns if header_ns is None else header_ns))

    def add_joints(self, stamp_ns: int, arm_positions: NDArray[np.float64], finger_m: float) -> None:
        """Adds a joint state: arm [J] in rad in robot-file order, gripper joint in m.

        Raises:
            FrameError: wrong length, or a value that is not finite.
        """
        arm = np.asarray(arm_positions, dtype=np.float64)
        count = len(self._robot.arm_joints)
        if arm.shape != (count,):
            raise FrameError("joint_states", "shape of positions", str(arm.shape), f"({count},)")
        if not (np.all(np.isfinite(arm)) and np.isfinite(finger_m)):
            raise FrameError("joint_states", "positions", f"{[*arm.tolist(), finger_m]}", "finite numbers")
        self.add_part(JointPart.whole(stamp_ns, arm, float(finger_m)))

    def add_part(self, part: JointPart) -> bool:
        """Adds what a message says of some joints.

        Returns:
            False if it says nothing new: a repeat, or older than what is known of the same joints.
        """
        stream = self._parts.get(part.indices)
        if stream and part.stamp_ns <= stream[-1].stamp_ns:
            if stream[-1].stamp_ns - part.stamp_ns <= RESTART_S * NS_PER_S:
                return False
            self.clear()
        self._parts.setdefault(part.indices, deque(maxlen=JOINTS_KEPT)).append(part)
        return True

    def _check_order(self, stream: str, last_ns: int | None, stamp_ns: int) -> None:
        if last_ns is None or stamp_ns > last_ns:
            return
        if last_ns - stamp_ns > RESTART_S * NS_PER_S:
            self.clear()
            return
        back_ms = (last_ns - stamp_ns) / 1e6
        found = f"{back_ms:.1f} ms before the last one" if back_ms else "the same as that of the last one"
        raise FrameError(stream, "stamp", found, "a later one")

    def build(self, now_ns: int) -> Observation | NotReady:
        """The newest observation that is complete and whose parts belong together, or why there is none."""
        chosen = self._choose(self._images)
        if isinstance(chosen, NotReady):
            return chosen
        stamp_ns = min(image.stamp_ns for image in chosen.values())
        joints = self._measured((stamp_ns,) * len(self._joint_names))
        if isinstance(joints, NotReady):
            return joints
        problem = self._age(chosen, stamp_ns, now_ns) or self._skew(chosen, stamp_ns, joints)
        if problem is not None:
            return problem
        return self._assemble(chosen, joints)

    def rebuild(
        self,
        image_stamps_ns: Mapping[str, int],
        joint_stamp_ns: int,
        joint_stamps_ns: Sequence[int] = (),
        image_digests: Mapping[str, int] = MappingProxyType({}),
    ) -> Observation | NotReady:
        """The observation that was built from exactly these messages, or which of them is not there.

        Args:
            image_digests: by camera, of images that have no stamp (`Observation.image_digests`).
        """
        chosen: dict[str, _Image] = {}
        for name in self._images:
            digest = image_digests.get(name, 0)
            image = self._named(name, image_stamps_ns.get(name, -1), digest)
            if image is None:
                which = "that shows what it saw" if digest else f"of stamp {image_stamps_ns.get(name)}"
                message = f"there is no image of camera {name!r} {which}"
                return NotReady(Problem.MISSING, name, message)
            chosen[name] = image
        stamps = tuple(joint_stamps_ns) or (joint_stamp_ns,) * len(self._joint_names)
        joints = self._measured(stamps, exact=True)
        if isinstance(joints, NotReady):
            message = f"there are no joint states of stamp {joint_stamp_ns}"
            return NotReady(Problem.MISSING, "joint_states", message)
        return self._assemble(chosen, joints)

    def joints_came(self, joint_stamp_ns: int, joint_stamps_ns: Sequence[int] = ()) -> bool:
        """Whether of every joint the measurement of its stamp, or a later one, was added."""
        stamps = tuple(joint_stamps_ns) or (joint_stamp_ns,) * len(self._joint_names)
        newest = [-1] * len(stamps)
        for indices, parts in self._parts.items():
            for joint in indices:
                newest[joint] = max(newest[joint], parts[-1].stamp_ns)
        return all(came_ns >= stamp_ns for came_ns, stamp_ns in zip(newest, stamps, strict=True))

    def _measured(self, stamps_ns: Sequence[int], exact: bool = False) -> _Joints | NotReady:
        """Every joint as it was measured nearest to its stamp, or exactly then."""
        chosen: list[JointPart | None] = [None] * len(self._joint_names)
        for indices, parts in self._parts.items():
            found: dict[int, JointPart | None] = {}
            for joint in indices:
                wanted_ns = stamps_ns[joint]
                if wanted_ns not in found:
                    found[wanted_ns] = (_stamped if exact else _nearest)(parts, wanted_ns)
                part, other = found[wanted_ns], chosen[joint]
                if part and not (other and _apart(other, wanted_ns) <= _apart(part, wanted_ns)):
                    chosen[joint] = part
        known = [part for part in chosen if part is not None]
        if len(known) < len(chosen):
            missing = [name for name, part in zip(self._joint_names, chosen, strict=True) if part is None]
            message = f"no position of {listed(missing)} has arrived yet in joint states"
            if not self._parts:
                message = "no joint states have arrived yet"
            elif self._robot.gripper.commanded and missing == [self._joint_names[-1]]:
                message = never_told(self._robot)
            return NotReady(Problem.MISSING, "joint_states", message)
        positions = [part.positions[part.indices.index(joint)] for joint, part in enumerate(known)]
        stamps = tuple(part.stamp_ns for part in known)
        return _Joints(stamps, np.array(positions[:-1]), float(positions[-1]))

    def has_image(self, camera: str, stamp_ns: int, digest: int = 0) -> bool:
        """Whether the image of this stamp, or without one of this digest, is among those that are kept."""
        return self._named(camera, stamp_ns, digest) is not None

    def _named(self, camera: str, stamp_ns: int, digest: int) -> _Image | None:
        for image in reversed(self._images[camera]):
            if image_digest(image.pixels) == digest if digest else image.header_ns == stamp_ns:
                return image
        return None

    def _assemble(self, chosen: dict[str, _Image], joints: _Joints) -> Observation:
        opening = float(self._robot.gripper.opening(joints.finger_m))
        position, rotation = self._kinematics.forward(joints.arm)
        return Observation(
            stamp_ns=min(image.stamp_ns for image in chosen.values()),
            images={name: image.pixels for name, image in chosen.items()},
            arm_positions=joints.arm,
            gripper_opening=opening,
            state=tool_state(position, rotation, opening),
            image_stamps_ns={name: image.header_ns or image.stamp_ns for name, image in chosen.items()},
            joint_stamp_ns=joints.stamp_ns,
            joint_stamps_ns=joints.stamps_ns if len(set(joints.stamps_ns)) > 1 else (),
            unstamped=frozenset(name for name, image in chosen.items() if not image.header_ns),
            arm_joints=self._robot.arm_joints,
        )

    def look(self, cameras: Sequence[str], now_ns: int) -> Look | NotReady:
        """The newest images of these cameras that are as near in time as they come, or why there are none.

        For those who only look: neither other cameras nor joint states are waited for.
        """
        chosen = self._choose(cameras)
        if isinstance(chosen, NotReady):
            return chosen
        stamp_ns = min(image.stamp_ns for image in chosen.values())
        problem = self._age(chosen, stamp_ns, now_ns)
        return problem or Look(stamp_ns, {name: image.pixels for name, image in chosen.items()})

    def _choose(self, cameras: Iterable[str]) -> dict[str, _Image] | NotReady:
        """One image of each camera, paired by stamp."""
        streams = {name: self._images[name] for name in cameras}
        for name, stream in streams.items():
            if not stream:
                return NotReady(Problem.MISSING, name, f"no image of camera {name!r} has arrived yet")
        # All cameras have something from this moment on: the slowest one's newest image.
        moment_ns = min(stream[-1].stamp_ns for stream in streams.values())
        return {name: _nearest(stream, moment_ns) for name, stream in streams.items()}

    def _skew(self, chosen: dict[str, _Image], stamp_ns: int, joints: _Joints) -> NotReady | None:
        limit_s = self._robot.observation.max_skew_s
        far = max(range(len(joints.stamps_ns)), key=lambda joint: abs(joints.stamps_ns[joint] - stamp_ns))
        stamps = {name: image.stamp_ns for name, image in chosen.items()}
        stamps["joint_states"] = joints.stamps_ns[far]
        name = max(stamps, key=lambda stream: abs(stamps[stream] - stamp_ns))
        skew_s = abs(stamps[name] - stamp_ns) / NS_PER_S
        if skew_s <= limit_s:
            return None
        oldest = min(chosen, key=lambda camera: chosen[camera].stamp_ns)
        parted = name == "joint_states" and len(set(joints.stamps_ns)) > 1
        what = f"{name} of {self._joint_names[far]!r}" if parted else name
        message = (
            f"{what} is {skew_s * 1e3:.1f} ms from camera {oldest!r}, expected at most {limit_s * 1e3:.1f} ms"
        )
        return NotReady(Problem.SKEW, name, message)

    def _age(self, chosen: dict[str, _Image], stamp_ns: int, now_ns: int) -> NotReady | None:
        oldest = min(chosen, key=lambda camera: chosen[camera].stamp_ns)
        age_s = (now_ns - stamp_ns) / NS_PER_S
        limit_s = self._robot.observation.max_age_s
        if age_s > limit_s:
            message = f"the image of camera {oldest!r} is {age_s:.3f} s old, expected at most {limit_s} s"
            return NotReady(Problem.AGE, oldest, message)
        if age_s < -FUTURE_TOLERANCE_S:
            message = f"camera {oldest!r} is stamped {-age_s:.3f} s in the future: do the clocks agree?"
            return NotReady(Problem.FUTURE, oldest, message)
        return None


def _stamped(stream: deque[_Stamped], stamp_ns: int | None) -> _Stamped | None:
    """The entry of exactly this stamp, None if there is none."""
    return next((entry for entry in stream if entry.stamp_ns == stamp_ns), None)


def _nearest(stream: deque[_Stamped], stamp_ns: int) -> _Stamped:
    """The entry nearest in time to `stamp_ns`; of two equally near ones, the newer."""
    return min(reversed(stream), key=lambda entry: abs(entry.stamp_ns - stamp_ns))


def _apart(part: JointPart, stamp_ns: int) -> int:
    return abs(part.stamp_ns - stamp_ns)
