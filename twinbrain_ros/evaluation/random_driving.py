"""Whatever comes: random chunks, people, readings, clocks and delays, and what the arm is made to do by them.

The real controller's core is driven tick by tick. Each trajectory reaches a trajectory controller late, and
what that executes, not what was sent, is held against the robot file's limits. All is drawn from a seed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from twinbrain_ros.control.controller import ArmController, ControlSettings
from twinbrain_ros.control.go_to import WayError
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.motion import Array, State
from twinbrain_ros.control.path import hermite
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.teleop import TeleopError
from twinbrain_ros.control.timing import NS_PER_S, TRANSPORT_S, to_ns
from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JoyInput, LeaderInput, TwistInput

# Beyond these shares of the robot file's limits something is wrong.
MOST_POSITION, MOST_VELOCITY, MOST_ACCELERATION = 1.05, 1.05, 1.1
_ROUNDING_RAD = 1e-6


def least_acceleration(before: State, after: State, dt_s: float) -> Array:
    """The least acceleration [J] with which any motion leads from one state to the next in this time.

    That of full acceleration one way and then the other; positions and velocities count.
    """
    change = (after.v - before.v) * dt_s
    way = np.abs(after.q - before.q - before.v * dt_s - change / 2)
    return np.asarray((way + np.sqrt(way**2 + change**2 / 4)) * (2.0 / dt_s**2), dtype=np.float64)


@dataclass
class Worst:
    """Shares of the limits that were reached, the worst of all joints; positions beyond them in rad."""

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
        update_hz: of the controller.
    """

    def __init__(self, robot: RobotFile, q: Array, update_hz: float) -> None:
        limits = [robot.limits[name] for name in robot.arm_joints]
        self._lower, self._upper = robot.lower, robot.upper
        self._velocity = np.array([limit.velocity for limit in limits])
        self._acceleration = np.array([limit.acceleration for limit in limits])
        self._period_ns = to_ns(1.0 / update_hz)
        self._coming: list[tuple[int, int, Motion]] = []  # when it arrives, when it was decided, by real time
        self._running: tuple[int, Motion] | None = None
        self.worst = Worst()
        self.stand(q, 0)

    def stand(self, q: Array, now_ns: int) -> None:
        """The arm is put somewhere by somebody, and stands there."""
        self._running, self._coming = None, []
        self.state, self._now_ns = State.rest(q), now_ns
        self._allowed = max(float(np.max(np.maximum(self._lower - q, q - self._upper))), 0.0)

    def send(self, motion: Motion, decided_ns: int, arrives_ns: int) -> None:
        """A trajectory on its way; none overtakes another."""
        last_ns = self._coming[-1][0] if self._coming else 0
        self._coming.append((max(arrives_ns, last_ns), decided_ns, motion))

    def run(self, until_ns: int) -> None:
        """Updates up to a time."""
        while self._now_ns + self._period_ns <= until_ns:
            self._now_ns += self._period_ns
            while self._coming and self._coming[0][0] <= self._now_ns:
                _, decided_ns, motion = self._coming.pop(0)
                self._running = decided_ns, motion
            before, self.state = self.state, self._sample()
            self._measure(before)

    def _sample(self) -> State:
        if self._running is None:
            return self.state
        decided_ns, motion = self._running
        after_s = (self._now_ns - decided_ns) / NS_PER_S
        k = int(np.searchsorted(motion.times_s, after_s, side="right"))
        if k == len(motion.times_s):
            return State.rest(motion.positions[-1])
        ends = [
            State(motion.positions[i], motion.velocities[i], motion.velocities[i] * 0) for i in (k - 1, k)
        ]
        span_s = float(motion.times_s[k] - motion.times_s[k - 1])
        return hermite(ends[0], ends[1], span_s, (after_s - float(motion.times_s[k - 1])) / span_s)

    def _measure(self, before: State) -> None:
        now, dt_s, worst = self.state, self._period_ns / NS_PER_S, self.worst
        outside = float(np.max(np.maximum(self._lower - now.q, now.q - self._upper)))
        # An arm that was put outside may come back, but not go further.
        worst.outside_rad = max(worst.outside_rad, outside - self._allowed)
        self._allowed = min(self._allowed, max(outside, 0.0))
        speed = np.maximum(np.abs(now.q - before.q) / dt_s, np.abs(now.v))
        worst.velocity = max(worst.velocity, float(np.max(speed / self._velocity)))
        needed = least_acceleration(before, now, dt_s)
        worst.acceleration = max(worst.acceleration, float(np.max(needed / self._acceleration)))


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
        update_hz: of the trajectory controller.

    Attributes:
        arm: what is executed, with the worst of it so far.
        commands: how many were sent.
        broken: what must not be, in words.
        outside_m: how far outside the workspace box it was led, beyond where somebody had put it.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics, seed: int, update_hz: float) -> None:
        self.random = np.random.default_rng(seed)
        self.robot, self.kinematics = robot, kinematics
        strategy = list(Strategy)[seed % len(Strategy)]
        self.controller = ArmController(robot, kinematics, ControlSettings(ChunkSettings(strategy)))
        self.arm = Executed(robot, np.array(robot.home), update_hz)
        self.steady = to_ns(100.0)
        self.ahead = to_ns(1.7e9)  # of the ROS clock
        self.arm.stand(np.array(robot.home), self.steady)
        self.commands = self._sequence = 0
        self.outside_m = 0.0
        self._allowed_m = 0.0
        self._stopped = False
        self.broken: list[str] = []
        self._joints()

    @property
    def now(self) -> int:
        """The ROS clock [ns]."""
        return self.steady + self.ahead

    def sequence(self, chance: Chance) -> None:
        """A few things at once, then some ticks."""
        names, weights = list(chance.events), np.array(list(chance.events.values()))
        for name in self.random.choice(names, int(self.random.integers(1, 4)), p=weights / weights.sum()):
            getattr(self, name)()
        if self.random.random() < 0.5:
            self.mode()
        for _ in range(int(self.random.integers(1, 12))):
            self._tick()
        self.controller.happenings.clear()

    # What can happen --------------------------------------------------------------------------------

    def chunk(self) -> None:
        """A chunk of the policy, some of them nonsense; late by up to 0.3 s."""
        random, action, count = self.random, self.robot.action, len(self.robot.arm_joints)
        self._sequence += 1
        late = int(random.integers(0, to_ns(0.3)))
        q = self.arm.state.q
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
            away = self.robot.home + self.random.normal(0, 0.5, len(self.robot.home))
            for where in (self.arm.state.q, away)[int(self.random.random() < 0.2) :]:
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
        q, count = self.arm.state.q, len(self.arm.state.q)
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
        self._allowed_m = max(self._outside_m(self.arm.state.q), 0.0)
        for _ in range(20):  # it stands there for a while
            self._tick()

    # Ticks ------------------------------------------------------------------------------------------

    def _of(self, kind: type) -> Sequence[str]:
        return [entry.name for entry in self.robot.teleop if isinstance(entry, kind)]

    def _joints(self) -> None:
        """What the arm's driver says, now and then stamped by the clock as it was before a step."""
        self.controller.clock.tell(self.now, self.steady)
        stamp = self.now - int(self.random.integers(0, to_ns(0.3))) * int(self.random.random() < 0.02)
        self.controller.add_joints(stamp, self.arm.state.q.copy(), 0.03, self.steady)

    def _outside_m(self, q: Array) -> float:
        """How far the tool is outside the workspace box, along its worst axis [m]."""
        position, box = self.kinematics.forward(q)[0], self.robot.workspace
        return float(np.max(np.maximum(box.lower - position, position - box.upper)))

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
        led_m = max(self._outside_m(q) for q in (motion.positions[0], motion.positions[-1]))
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
