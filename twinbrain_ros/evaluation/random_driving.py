"""Whatever comes: random chunks, people, readings, clocks and delays, and what the arm is made to do by them.

The real controller's core is driven tick by tick. Each trajectory reaches a trajectory controller late, and
what that executes, not what was sent, is held against the robot file's limits. All is drawn from a seed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.go_to import WayError
from twinbrain_ros.control.input_rest import JITTER_S, PERSON_SHARE
from twinbrain_ros.control.joints_watch import SETTLE_S
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.teleop import TeleopError
from twinbrain_ros.control.timing import NS_PER_S, TRANSPORT_S, to_ns
from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JoyInput, LeaderInput, TwistInput
from twinbrain_ros.sim.follower_kinds import FollowerKind
from twinbrain_ros.sim.following import Arrival
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower

# Beyond these shares of the robot file's limits something is wrong.
MOST_VELOCITY, MOST_ACCELERATION = 1.05, 1.1
_ROUNDING_RAD = 1e-6


@dataclass
class Worst:
    """Shares of the limits that successive set-points reach, the worst of all joints.

    Positions beyond their limits in rad. Of acceleration the least with which three set-points can be passed.
    """

    outside_rad: float = 0.0
    velocity: float = 0.0
    acceleration: float = 0.0

    def take(self, other: Worst) -> None:
        """The worse of both, each for itself."""
        for name, value in vars(other).items():
            setattr(self, name, max(getattr(self, name), value))


class Executed:
    """A trajectory controller with an ideal servo: what it executes of the trajectories that reach it.

    Args:
        robot: limits and rates.
        q: where the arm stands [J].
        kind: which controller.
    """

    def __init__(self, robot: RobotFile, q: Array, kind: FollowerKind) -> None:
        limits = [robot.limits[name] for name in robot.arm_joints]
        self._lower, self._upper = robot.lower, robot.upper
        self._velocity = np.array([limit.velocity for limit in limits])
        self._acceleration = np.array([limit.acceleration for limit in limits])
        self._joints, self._kind = robot.arm_joints, kind
        self._coming: list[Arrival] = []  # by real time
        self.worst = Worst()
        self.stand(q, 0)

    def stand(self, q: Array, now_ns: int) -> None:
        """The arm is put somewhere by somebody, and stands there."""
        self._follower = JointTrajectoryFollower(self._joints, q, self._kind)
        self._coming = []
        self.q, self._speed, self._now_ns = np.array(q), np.zeros(len(q)), now_ns
        self._allowed = max(float(np.max(np.maximum(self._lower - q, q - self._upper))), 0.0)

    def send(self, motion: Motion, decided_ns: int, arrives_ns: int) -> None:
        """A trajectory on its way, decided at a real time; none overtakes another."""
        last_ns = self._coming[-1].time_ns if self._coming else 0
        self._coming.append(Arrival.of(replace(motion, stamp_ns=decided_ns), max(arrives_ns, last_ns)))

    def run(self, until_ns: int) -> None:
        """Updates up to a time."""
        period_ns = self._kind.period_ns
        while self._now_ns + period_ns <= until_ns:
            self._now_ns += period_ns
            while self._coming and self._coming[0].time_ns <= self._now_ns:
                self._coming.pop(0).hand_to(self._follower)
            self._measure(self._follower.update(self._now_ns, self.q), period_ns / NS_PER_S)

    def _measure(self, q: Array, dt_s: float) -> None:
        worst, speed = self.worst, (q - self.q) / dt_s
        outside = float(np.maximum(self._lower - q, q - self._upper).max())
        # An arm that was put outside may come back, but not go further.
        worst.outside_rad = max(worst.outside_rad, outside - self._allowed)
        self._allowed = min(self._allowed, max(outside, 0.0))
        worst.velocity = max(worst.velocity, float((np.abs(speed) / self._velocity).max()))
        gain = np.abs(speed - self._speed) / dt_s
        worst.acceleration = max(worst.acceleration, float((gain / self._acceleration).max()))
        self.q, self._speed = q.copy(), speed


@dataclass
class Chance:
    """How often what happens, per sequence of some ticks."""

    events: dict[str, float] = field(
        default_factory=lambda: {
            "chunk": 0.40, "joystick": 0.15, "leader": 0.08, "twist": 0.08, "mode": 0.08, "estop": 0.02,
            "reset": 0.06, "go_to": 0.04, "glitch": 0.06, "clock_step": 0.06,
            "stall": 0.04, "somebody_moves_the_arm": 0.03,
        }
    )  # fmt: skip


class RandomDriving:
    """A controller, an arm that follows it, and everything that can happen to them.

    Args:
        robot, kinematics: of the arm.
        seed: of everything.
        kind: the trajectory controller.

    Attributes:
        arm: what is executed, with the worst of it so far.
        commands: how many were sent.
        broken: what must not be, in words.
        outside_m: how far outside the workspace box it was led, beyond where somebody had put it.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics, seed: int, kind: FollowerKind) -> None:
        self.random = np.random.default_rng(seed)
        self.robot, self.kinematics = robot, kinematics
        strategy = list(Strategy)[seed % len(Strategy)]
        self.controller = ArmController(robot, kinematics, ControlSettings(ChunkSettings(strategy)))
        self.arm = Executed(robot, np.array(robot.home), kind)
        self.steady = to_ns(100.0)
        self.ahead = to_ns(1.7e9)  # of the ROS clock
        self.arm.stand(np.array(robot.home), self.steady)
        self.commands = self._sequence = 0
        self.outside_m = 0.0
        self._allowed_m = 0.0
        self._stopped = False
        self._settling = int(1.2 * SETTLE_S * robot.rates.command_hz)
        self.broken: list[str] = []
        self._joints()

    @property
    def now(self) -> int:
        """The ROS clock [ns]."""
        return self.steady + self.ahead

    def sequence(self, chance: Chance) -> None:
        """Mostly somebody begins to drive; then some ticks, and a few things between them."""
        if not self.controller.driven and self.random.random() < 0.7:
            self.begin()
        names, weights = list(chance.events), np.array(list(chance.events.values()))
        ticks = int(self.random.integers(1, 18))
        for name in self.random.choice(names, int(self.random.integers(1, 4)), p=weights / weights.sum()):
            for _ in range(int(self.random.integers(0, ticks))):
                self._tick()
            getattr(self, name)()
        for _ in range(ticks):
            self._tick()
        self.controller.happenings.clear()

    def begin(self) -> None:
        """Somebody lets it go on, and asks for a mode when the joints have been measured for long enough."""
        self.reset()
        for _ in range(self._settling):
            self._tick()
        self.mode()

    # What can happen --------------------------------------------------------------------------------

    def chunk(self) -> None:
        """A chunk of the policy, some of them nonsense; late by up to 0.3 s."""
        random, action, count = self.random, self.robot.action, len(self.robot.arm_joints)
        self._sequence += 1
        late = int(random.integers(0, to_ns(0.3)))
        q = self.arm.q
        if action.space == "ee_delta":
            data = random.normal(0, [0.03, 0.03, 0.03, 0.1, 0.1, 0.3, 1], (action.horizon, 7))
        else:
            steps = random.normal(0, 0.15, (action.horizon, count))
            data = np.column_stack([q + np.cumsum(steps, 0), random.uniform(0, 1, action.horizon)])
        if random.random() < 0.03:
            data[int(random.integers(len(data))), 0] = np.nan
        chunk = ActionChunk(
            self._sequence, self.now - late, self.now - late, action.period_s, "go", self.robot.name,
            action.space, action.composition, action.names, data, q + random.normal(0, 0.01, count),
        )  # fmt: skip
        self.controller.add_chunk(chunk, self.now, self.steady)
        self._send(self.controller.command(self.now, self.steady))

    def joystick(self) -> None:
        """Any deflection, any buttons; mostly it was at rest before."""
        for entry in self._of(JoyInput):
            if self.random.random() < 0.8:
                self.controller.inputs.on_joy(entry, [0.0] * 8, [0] * 11, self.now)
            axes = self.random.uniform(-1.2, 1.2, 8).tolist()
            buttons = [int(self.random.random() < p) for p in (0.1, 0.02, 0.1, 0, 0.7)]
            with contextlib.suppress(TeleopError):
                if self.controller.inputs.on_joy(entry, axes, buttons, self.now):
                    self.estop()

    def leader(self) -> None:
        """A leader arm, anywhere; mostly it was where the arm is before."""
        for entry in self.robot.teleop:
            if not isinstance(entry, LeaderInput):
                continue
            limits = [self.robot.limits[joint].velocity for joint in self.robot.arm_joints]
            # As far as a person may have moved it since, and seldom further.
            reach = PERSON_SHARE * JITTER_S * np.array(limits)
            away = self.arm.q + self.random.uniform(-1.02, 1.02, len(limits)) * reach
            for where in (self.arm.q, away)[int(self.random.random() < 0.2) :]:
                joints = dict.fromkeys(entry.map.names, 0.03)
                for joint, position in zip(entry.map.joints, where.tolist(), strict=True):
                    if joint is not None:
                        joints[joint.name] = position
                with contextlib.suppress(TeleopError):
                    self.controller.inputs.on_leader(entry.name, joints, self.now)

    def twist(self) -> None:
        """Any velocity; mostly none before."""
        for entry in self._of(TwistInput):
            if self.random.random() < 0.8:
                self.controller.inputs.on_twist(entry, [0.0] * 3, [0.0] * 3, None, self.now)
            twist = self.random.normal(0, 0.5, 6).tolist()
            self.controller.inputs.on_twist(entry, twist[:3], twist[3:], None, self.now)

    def mode(self) -> None:
        """Somebody asks for a mode, mostly after letting it go on."""
        if self.controller.state.latched and self.random.random() < 0.8:
            self.reset()
        mode = int(self.random.choice([Mode.HOLD, Mode.TELEOP, Mode.AUTONOMY, Mode.AUTONOMY]))
        with contextlib.suppress(ModeError):
            self.controller.set_mode(mode, self.now, self.steady, "random", "")

    def go_to(self) -> None:
        """Somebody sends it to a pose."""
        pose, speed = str(self.random.choice(list(self.robot.poses))), float(self.random.uniform(0.1, 1.0))
        with contextlib.suppress(ModeError, WayError):
            self.controller.go_to(pose, speed, self.now, self.steady, "random")

    def estop(self) -> None:
        """Somebody stops it."""
        self.controller.estop(self.now, self.steady, "random", "")
        self._stopped = True

    def reset(self) -> None:
        """Somebody lets it go on."""
        with contextlib.suppress(ModeError):
            self.controller.reset(self.now, self.steady, "random", "")
            self._stopped = False

    def glitch(self) -> None:
        """The driver misreads: some or all joints, by little or beyond all bounds, once or a few times."""
        q, count = self.arm.q, len(self.arm.q)
        wrong = [
            np.full(count, -np.pi),
            np.zeros(count),
            np.degrees(q),
            np.full(count, 1e308),
            q + self.random.normal(0, 0.4, count),
            q + 0.12 * np.eye(count)[int(self.random.integers(count))],
        ][int(self.random.integers(6))]
        for _ in range(int(self.random.choice([1, 1, 2, 5]))):
            self.steady += to_ns(0.004)
            self.arm.run(self.steady)
            self.controller.clock.tell(self.now, self.steady)
            self.controller.add_joints(self.now, wrong, 0.03, self.steady)

    def clock_step(self) -> None:
        """The ROS clock is corrected, mostly by little."""
        most_s = 5.0 if self.random.random() < 0.1 else 0.5
        self.ahead += int(self.random.choice([-1, 1])) * to_ns(float(self.random.uniform(0.005, most_s)))

    def stall(self) -> None:
        """The controller does not come to its turn."""
        self.steady += int(self.random.integers(0, to_ns(0.4)))
        self.arm.run(self.steady)

    def somebody_moves_the_arm(self) -> None:
        """By hand, while nothing is commanded."""
        if self.controller.driven or self.controller.governor.moving(self.steady):
            return
        shift = self.random.normal(0, 0.3, len(self.robot.arm_joints))
        self.arm.stand(np.clip(self.robot.home + shift, self.robot.lower, self.robot.upper), self.steady)
        self._allowed_m = max(self.controller.governor.outside_m(self.arm.q), 0.0)
        for _ in range(20):  # it stands there for a while
            self._tick()

    # Ticks ------------------------------------------------------------------------------------------

    def _of(self, kind: type) -> Sequence[str]:
        return [entry.name for entry in self.robot.teleop if isinstance(entry, kind)]

    def _joints(self) -> None:
        """What the arm's driver says, now and then stamped by the clock as it was before a step."""
        self.controller.clock.tell(self.now, self.steady)
        stamp = self.now - int(self.random.integers(0, to_ns(0.3))) * int(self.random.random() < 0.02)
        self.controller.add_joints(stamp, self.arm.q, 0.03, self.steady)

    def _tick(self) -> None:
        jitter = int(self.random.normal(0, to_ns(0.002)))
        self.steady += max(self.controller.governor.period_ns + jitter, to_ns(0.001))
        self.arm.run(self.steady)
        self._joints()
        self.controller.add_beat(PolicyBeat(), self.steady)
        self._send(self.controller.tick(self.now, self.steady))

    def _send(self, command: Command | None) -> None:
        if command is None:
            return
        self.commands += 1
        if self._stopped:
            self.broken.append("a command after an emergency stop")
        motion = command.motion
        if motion.velocities[-1].any() or np.any(np.diff(motion.times_s) <= 0):
            self.broken.append("a trajectory that controllers refuse")
        led_m = max(
            self.controller.governor.outside_m(q) for q in (motion.positions[0], motion.positions[-1])
        )
        if self.controller.mode is Mode.GO_TO:  # between poses it may lead outside
            self._allowed_m = max(self._allowed_m, led_m)
        self.outside_m = max(self.outside_m, led_m - self._allowed_m)
        most_s = TRANSPORT_S if self.random.random() < 0.5 else 0.002
        late_ns = int(self.random.integers(0, to_ns(most_s)))
        self.arm.send(motion, self.steady, self.steady + late_ns)


def verdict(worst: Worst) -> list[str]:
    """What breaks a limit, in words; nothing if none is broken."""
    broken = []
    if worst.outside_rad > _ROUNDING_RAD:
        broken.append(f"a joint is {worst.outside_rad:.2e} rad beyond its limit")
    if worst.velocity > MOST_VELOCITY:
        broken.append(f"velocity is {worst.velocity:.3f} of its limit, expected at most {MOST_VELOCITY}")
    if worst.acceleration > MOST_ACCELERATION:
        broken.append(
            f"acceleration is {worst.acceleration:.3f} of its limit, expected at most {MOST_ACCELERATION}"
        )
    return broken
