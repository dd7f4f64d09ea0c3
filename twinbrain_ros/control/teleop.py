"""A person's hands on the arm: what the inputs say, which one counts, and where that leads the arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.clock import MotionClock
from twinbrain_ros.control.governor import BOX_TOLERANCE_M, Governor
from twinbrain_ros.control.input_rest import AT_POSE_RAD, REST_SHARE, RestGate
from twinbrain_ros.control.jog import JointJog
from twinbrain_ros.control.motion import Array, State
from twinbrain_ros.control.room import Border
from twinbrain_ros.control.servo import ToolServo
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JogInput, JoyInput, LeaderInput, TeleopInput, TwistInput

# How far a velocity reference runs ahead of an arm that is held back by limits or by the box.
LAG_RAD = 0.15
# A twist is reached from rest in this time: else the arm would hurry to make up for its own acceleration.
RAMP_S = 0.15
# A leader's speed is taken over this time: long enough to smooth its encoders, too short to be felt.
LEADER_SPEED_S = 0.04
# A leader whose joints stand for positions this far beyond the arm's limits [rad] is not described as it is.
LEADER_BEYOND_RAD = 1.0


class TeleopError(ValueError):
    """A message of an input that cannot be used; names what was found and what was expected."""


@dataclass(frozen=True, eq=False)
class Wish:
    """What an input asks for.

    Attributes:
        active: whether it asks for anything now; a joystick without its dead-man button does not.
        twist: [6] m/s and rad/s about the tool point, base axes; None for joints.
        joints: [J] rad, of a leader; NaN for those that it does not have.
        finger_m: gripper position, None: as it is.
        jog: [J] rad/s, where single joints are moved.
        turn: how often the input has begun to count; another one is followed as after a takeover.
    """

    stamp_ns: int
    active: bool
    twist: Array | None = None
    joints: Array | None = None
    finger_m: float | None = None
    jog: Array | None = None
    turn: int = 0


class Inputs:
    """The newest wish of every input of a robot file, each as its own kind of message.

    Args:
        robot: its inputs.
        pose: gives where the arm is [J], None if that is not known: a leader that is there may lead at once.
        clock: of motion. `wish`, `strongest` and `problem` are asked by it; messages come on the ROS clock.
    """

    def __init__(
        self,
        robot: RobotFile,
        pose: Callable[[], Array | None] = lambda: None,
        clock: MotionClock | None = None,
    ) -> None:
        self._robot, self._pose = robot, pose
        self._clock = clock or MotionClock()
        self._rest = RestGate()
        self._velocity = np.array([robot.limits[joint].velocity for joint in robot.arm_joints])
        self._inputs = {entry.name: entry for entry in robot.teleop}
        self._wishes: dict[str, Wish] = {}
        self._estop_was_down: dict[str, bool] = {}

    def on_joy(self, name: str, axes: Sequence[float], buttons: Sequence[int], now_ns: int) -> bool:
        """A joystick's state; True if its emergency stop has just been pressed.

        Raises:
            TeleopError: it has too few axes or buttons, or an axis is no number. The stop is looked at first.
        """
        joy = self._inputs[name]
        assert isinstance(joy, JoyInput)
        down = joy.estop_button is not None and _button(buttons, joy.estop_button)
        pressed, self._estop_was_down[name] = down and not self._estop_was_down.get(name), down
        if pressed:
            return True
        used = [joy.deadman_button, joy.open_button, joy.close_button]
        if len(buttons) <= max(used):
            raise TeleopError(f"{name}: found {len(buttons)} buttons, expected more than {max(used)}")
        twist = np.array([self._deflection(joy, axes, axis) for axis in joy.axes])
        held = _button(buttons, joy.deadman_button)
        now_ns = self._clock.motion(now_ns)
        self._rest.hear(joy, now_ns)
        busy = f"its dead-man button {joy.deadman_button} is held" if held else ""
        for axis in (*joy.axes, *(joy.jog.axes if joy.jog is not None else ())):
            if self._deflection(joy, axes, axis) and axis is not None:
                busy = f"axes[{axis[0]}] is {axes[axis[0]]:.2f}, expected within {joy.deadzone:g} of 0"
        counts = self._rest.counts(joy, not busy, busy)
        twist[:3] *= joy.linear_speed
        twist[3:] *= joy.angular_speed
        gripper = self._robot.gripper
        finger_m = gripper.open_m if _button(buttons, joy.open_button) else None
        finger_m = gripper.closed_m if _button(buttons, joy.close_button) else finger_m
        finger_m = finger_m if held else None
        if joy.jog is not None and _button(buttons, joy.jog.button):
            jog = joy.jog.speed * np.array([self._deflection(joy, axes, axis) for axis in joy.jog.axes])
            self._wishes[name] = Wish(now_ns, held and counts, jog=jog, finger_m=finger_m)
        else:
            self._wishes[name] = Wish(now_ns, held and counts, twist=twist, finger_m=finger_m)
        return False

    @staticmethod
    def _deflection(joy: JoyInput, axes: Sequence[float], axis: tuple[int, int] | None) -> float:
        if axis is None:
            return 0.0
        index, sign = axis
        if index >= len(axes) or not np.isfinite(axes[index]):
            found = f"{len(axes)} axes" if index >= len(axes) else f"axes[{index}] {axes[index]}"
            raise TeleopError(f"{joy.name}: found {found}, expected a finite axes[{index}]")
        value = float(np.clip(axes[index], -1.0, 1.0))
        # From 0 at the edge of the dead zone, without a step.
        size = max(abs(value) - joy.deadzone, 0.0) / (1.0 - joy.deadzone)
        return sign * float(np.copysign(size, value))

    def on_twist(
        self,
        name: str,
        linear: Sequence[float],
        angular: Sequence[float],
        rotation: Array | None,
        now_ns: int,
    ) -> None:
        """A velocity [m/s], [rad/s]; rotation [3, 3] of the frame it is in, in the base; None: the base.

        Raises:
            TeleopError: it is not finite.
        """
        entry = self._inputs[name]
        assert isinstance(entry, TwistInput)
        twist = np.array([*linear, *angular], dtype=np.float64)
        if not np.all(np.isfinite(twist)):
            raise TeleopError(f"{name}: found the twist {twist.tolist()}, expected six finite numbers")
        for part, most in ((slice(0, 3), entry.linear_speed), (slice(3, 6), entry.angular_speed)):
            vector = twist[part] if rotation is None else rotation @ twist[part]
            twist[part] = vector / max(float(np.linalg.norm(vector)) / most, 1.0)
        now_ns = self._clock.motion(now_ns)
        self._rest.hear(entry, now_ns)
        share = max(
            float(np.linalg.norm(twist[:3])) / entry.linear_speed,
            float(np.linalg.norm(twist[3:])) / entry.angular_speed,
        )
        busy = f"it is {np.round(twist, 3).tolist()}, expected six zeros once" if share > REST_SHARE else ""
        counts = self._rest.counts(entry, not busy, busy)
        self._wishes[name] = Wish(now_ns, counts and bool(np.any(twist != 0.0)), twist=twist)

    def on_jog(self, name: str, velocities: Mapping[str, float], now_ns: int) -> None:
        """Velocities of joints by name [rad/s]; joints that are not named stand still.

        Raises:
            TeleopError: it names a joint that the arm does not have, or one is not finite.
        """
        entry, joints = self._inputs[name], self._robot.arm_joints
        assert isinstance(entry, JogInput)
        for joint, velocity in velocities.items():
            if joint not in joints:
                raise TeleopError(f"{name}: found {joint!r}, expected joints of {', '.join(joints)}")
            if not np.isfinite(velocity):
                raise TeleopError(f"{name}: found {joint!r} at {velocity} rad/s, expected a finite velocity")
        jog = np.array([velocities.get(joint, 0.0) for joint in joints])
        jog = np.clip(jog, -entry.joint_speed, entry.joint_speed)
        now_ns = self._clock.motion(now_ns)
        self._rest.hear(entry, now_ns)
        busy = f"it is {np.round(jog, 3).tolist()}, expected zeros once" if np.any(jog) else ""
        counts = self._rest.counts(entry, not busy, busy)
        self._wishes[name] = Wish(now_ns, counts and bool(np.any(jog != 0.0)), jog=jog)

    def on_leader(self, name: str, joints: Mapping[str, float], now_ns: int) -> None:
        """A leader arm's joints by name, rad or its own units.

        Raises:
            TeleopError: a joint is missing, not finite, where this arm's could never be, or has leapt. Then
                the leader asks for nothing until it is at rest again, which is told once.
        """
        entry = self._inputs[name]
        assert isinstance(entry, LeaderInput)
        for joint in entry.map.names:
            if not np.isfinite(joints.get(joint, np.nan)):
                found = f"{joint!r} at {joints[joint]}" if joint in joints else f"the joints {sorted(joints)}"
                raise TeleopError(f"{name}: found {found}, expected a finite position of {joint!r}")
        q, opening = entry.map.arm(joints), entry.map.opened(joints)
        self._check_leader(entry, q, joints)
        finger_m = None if opening is None else self._robot.gripper.finger(opening)
        now_ns = self._clock.motion(now_ns)
        self._rest.hear(entry, now_ns)
        leapt = self._leapt(entry, q, joints, now_ns)
        counts = not leapt and self._leader_counts(entry, q, now_ns)
        if name in self._rest.leapt:  # in doubt, which is not letting go: as if it were silent
            self._wishes.pop(name, None)
            return
        self._wishes[name] = Wish(now_ns, counts, None, q, finger_m, turn=self._rest.turn(entry))

    def _leapt(self, entry: LeaderInput, q: Array, joints: Mapping[str, float], now_ns: int) -> bool:
        """Whether this message is left out as a misread; raises TeleopError at the first."""
        known = entry.name in self._rest.leapt
        leap = self._rest.leap(entry, q, self._velocity, now_ns)
        if leap is None or known:
            return leap is not None
        self._wishes.pop(entry.name, None)
        worst, moved, most = leap
        joint = entry.map.joints[worst]
        assert joint is not None
        self._rest.counts(entry, False, f"{joint.name!r} leapt")
        raise TeleopError(
            f"{entry.name}: found {joint.name!r} at {joints[joint.name]:.4g}, {moved:.2f} rad of the arm "
            f"away from the message before, expected at most {most:.2f}: it has to be at rest again"
        )

    def _check_leader(self, entry: LeaderInput, q: Array, joints: Mapping[str, float]) -> None:
        lower, upper = self._robot.lower, self._robot.upper
        beyond = np.nan_to_num(np.maximum(lower - q, q - upper), nan=-np.inf, posinf=np.inf)
        worst = int(np.argmax(beyond))
        if beyond[worst] > LEADER_BEYOND_RAD:
            joint = entry.map.joints[worst]
            assert joint is not None
            ours = repr(self._robot.arm_joints[worst])
            raise TeleopError(
                f"{entry.name}: found {joint.name!r} at {joints[joint.name]:.4g}, which is {q[worst]:.4g} "
                f"rad of {ours}, expected within [{lower[worst]:.3f}, {upper[worst]:.3f}] or at most "
                f"{LEADER_BEYOND_RAD:g} rad beyond: see unit, sign and offset in the robot file"
            )

    def _leader_counts(self, entry: LeaderInput, q: Array, now_ns: int) -> bool:
        still, moved = self._rest.leader_still(entry, q, now_ns)
        pose = self._pose()
        at_pose = pose is not None and bool(np.nanmax(np.abs(q - pose)) <= AT_POSE_RAD)
        joint = entry.map.joints[moved] if moved is not None else None
        busy = f"{joint.name!r} moves, and it is not at the arm's pose" if joint else ""
        busy = busy or ("it leapt" if entry.name in self._rest.leapt else "")
        return self._rest.counts(entry, still or at_pose, busy)

    def problem(self, now_ns: int) -> str:
        """Which inputs speak and do not count, as they were never seen at rest; empty if none does."""
        return self._rest.problem(now_ns, self._inputs)

    def wish(self, name: str, now_ns: int) -> Wish | None:
        """What an input asks for, None if it has been silent for too long."""
        wish = self._wishes.get(name)
        timeout_ns = to_ns(self._inputs[name].timeout_s)
        return wish if wish is not None and -timeout_ns <= now_ns - wish.stamp_ns <= timeout_ns else None

    def strongest(self, now_ns: int, unasked: bool) -> TeleopInput | None:
        """The active input of the highest priority; unasked: of those that take over by themselves."""
        active = [
            entry
            for entry in self._inputs.values()
            if (entry.takes_over or not unasked)
            and (wish := self.wish(entry.name, now_ns)) is not None
            and wish.active
        ]
        return max(active, key=lambda entry: entry.priority, default=None)


class TeleopDrive:
    """Where one input leads the arm, from the moment it takes the wheel; a `Reference`.

    It begins where the arm comes to rest if nothing more is asked for.

    Args:
        entry: the input.
        now_ns: the time it starts.
    """

    def __init__(
        self, entry: TeleopInput, kinematics: Kinematics, robot: RobotFile, governor: Governor, now_ns: int
    ) -> None:
        self.name = entry.name
        self._align = entry.align_speed if isinstance(entry, LeaderInput) else 0.0
        speeds = (
            (entry.linear_speed, entry.angular_speed) if isinstance(entry, JoyInput | TwistInput) else (0, 0)
        )
        self._ramp = np.repeat(speeds, 3) / RAMP_S
        self._governor = governor
        self._servo = ToolServo(kinematics, governor.room, governor.limits)
        page = entry.jog if isinstance(entry, JoyInput) else None
        jog_speed = entry.joint_speed if isinstance(entry, JogInput) else page.speed if page else 0.0
        self._jog = JointJog(kinematics, governor, jog_speed)
        self._kinematics, self._jogs = kinematics, False
        # To slide along the border takes all joints, and those that a leader lacks are not to move.
        lacks = isinstance(entry, LeaderInput) and None in entry.map.joints
        self.border = self._rule = Border.STOP if lacks else Border.SLIDE
        self._at_ns = now_ns + governor.lead_ns
        self._leader: list[tuple[int, Array]] = []
        self._offset: Array | None = None
        self._turn = 0
        self._still: Array = np.zeros(0)  # where the joints stay that the leader does not have
        self.problem = ""  # why the arm does not go where it is asked to
        self._rest()

    def _rest(self) -> None:
        """The reference is where the arm comes to rest by itself: stopping there swings back by nothing."""
        self._q = self._governor.resting_place()
        self._v = np.zeros_like(self._q)
        self._twist = np.zeros(6)
        self._servo.place(self._q)
        self._jog.place(self._q)

    def at(self, time_ns: int) -> State:
        """The reference: goes on as it went last."""
        ahead_s = (time_ns - self._at_ns) / NS_PER_S
        return State(self._q + self._v * ahead_s, self._v.copy(), np.zeros_like(self._v))

    def follow(self, wish: Wish | None, now_ns: int) -> None:
        """Moves the reference on to the time that a command given now is for."""
        until_ns = now_ns + self._governor.lead_ns
        elapsed_s = min(max(until_ns - self._at_ns, 0), 2 * self._governor.period_ns) / NS_PER_S
        self._at_ns = until_ns
        self.problem = ""
        jogs = wish is not None and wish.jog is not None
        if jogs is not self._jogs:  # the other page: it begins at rest
            self._jogs, self.border = jogs, Border.STOP if jogs else self._rule
            self._rest()
        if wish is not None and wish.jog is not None and np.any(wish.jog) and elapsed_s > 0:
            self._follow_jog(wish.jog, elapsed_s)
        elif wish is not None and wish.joints is not None and elapsed_s > 0:
            self._follow_leader(wish, wish.joints, elapsed_s)
        elif wish is not None and wish.twist is not None and np.any(wish.twist) and elapsed_s > 0:
            self._follow_twist(wish.twist, elapsed_s)
        else:
            self._rest()

    def _waits(self) -> bool:
        """Whether the reference stands still, as the arm is too far behind."""
        self._v = np.zeros_like(self._q)
        lag = float(np.max(np.abs(self._q - self._governor.at(self._at_ns).q)))
        if lag > LAG_RAD:
            self.problem = f"the arm is {lag:.2f} rad behind: waiting for it"
        return lag > LAG_RAD

    def _follow_twist(self, wanted: Array, elapsed_s: float) -> None:
        if self._waits():
            return
        step = self._ramp * elapsed_s
        self._twist = self._twist + np.clip(wanted - self._twist, -step, step)
        if not self._servo.step(self._twist, elapsed_s):
            self._twist = np.zeros(6)
            self.problem = "the arm cannot go any further in this direction"
        self._move(self._servo.q, self._servo.v)

    def _follow_jog(self, wanted: Array, elapsed_s: float) -> None:
        if self._waits():
            return
        if not self._jog.step(wanted, elapsed_s):
            self.problem = "the tool is at the border of the workspace box: no joint moves it out of it"
        self._move(self._jog.q, self._jog.v)

    def _follow_leader(self, wish: Wish, joints: Array, elapsed_s: float) -> None:
        if wish.turn != self._turn:
            self._turn = wish.turn
            self._start_leader()
        if self._offset is None:
            self._still = self._q
        joints = np.where(np.isnan(joints), self._still, joints)
        if self._offset is None:
            self._offset = self._q - joints
        step = np.clip(self._offset, -self._align * elapsed_s, self._align * elapsed_s)
        self._offset = self._offset - step
        if not self._leader or wish.stamp_ns > self._leader[-1][0]:
            self._leader.append((wish.stamp_ns, joints))
        while len(self._leader) > 2 and self._leader[1][0] <= wish.stamp_ns - to_ns(LEADER_SPEED_S):
            self._leader.pop(0)
        (t0, q0), (t1, q1) = self._leader[0], self._leader[-1]
        v = (q1 - q0) * (NS_PER_S / (t1 - t0)) if t1 > t0 else np.zeros_like(q0)
        self._move(joints + self._offset, v - step / elapsed_s)
        if self.border is Border.STOP and self._leaves_room():
            self.problem = f"the tool is at the border of the workspace box, and {self.name} lacks joints"
            self._start_leader()

    def _start_leader(self) -> None:
        """The arm stands where it comes to rest, and follows from there by the leader's motion."""
        self._rest()
        self._leader, self._offset = [], None

    def _leaves_room(self) -> bool:
        beyond = lambda q: self._governor.room.outside_m(self._kinematics.forward(q)[0])  # noqa: E731
        return beyond(self._q) > max(BOX_TOLERANCE_M / 4, beyond(self._governor.resting_place()))

    def _move(self, q: Array, v: Array) -> None:
        limits = self._governor.limits
        self._q = np.clip(q, limits.lower, limits.upper)
        self._v = np.where((q >= limits.upper) & (v > 0) | (q <= limits.lower) & (v < 0), 0.0, v)


def _button(buttons: Sequence[int], index: int) -> bool:
    return index < len(buttons) and bool(buttons[index])
