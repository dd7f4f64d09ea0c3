"""Whatever comes: 10,000 random sequences of chunks, people and faults never make the core break a limit."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from twinbrain_ros.control.controller import ArmController, ControlSettings
from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.motion import State
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.teleop import TeleopError
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Command
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

SEQUENCES = 10_000
WORKERS = 8  # independent runs, so that a failure names a short one
TICK = to_ns(0.02)
EPS = 1e-6


class Chaos:
    """A controller, an arm that follows it, and everything that can happen to them, drawn from a seed."""

    def __init__(self, robot: RobotFile, kinematics: Kinematics, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.robot, self.kinematics = robot, kinematics
        strategy = list(Strategy)[seed % len(Strategy)]
        self.controller = ArmController(robot, kinematics, ControlSettings(ChunkSettings(strategy)))
        self.now = self.steady = to_ns(100.0)
        self.sequence = 0
        self.last: tuple[int, State] | None = None  # horizon and state of the last command
        self.stopped = False  # since an emergency stop, until reset
        self.commands = 0
        self.outside = 0.0  # how far outside the box the arm was put by somebody [m]
        self.where = np.array(robot.home)

    # What can happen

    def joints(self) -> None:
        governor = self.controller.governor
        if governor.placed:
            self.where = governor.at(self.now).q
        self.controller.add_joints(self.now, self.where, 0.03, self.steady)

    def chunk(self) -> None:
        robot, random, action = self.robot, self.random, self.robot.action
        self.sequence += 1
        late = int(random.integers(0, to_ns(0.3)))
        if action.space == "ee_delta":
            data = random.normal(0, [0.03, 0.03, 0.03, 0.1, 0.1, 0.3, 1], (action.horizon, 7))
        else:
            steps = random.normal(0, 0.15, (action.horizon, 6))
            data = np.column_stack([self.where + np.cumsum(steps, 0), random.uniform(0, 1, action.horizon)])
        if random.random() < 0.03:
            data[int(random.integers(len(data))), 0] = np.nan
        observed = self.where + random.normal(0, 0.01, 6)
        chunk = ActionChunk(
            self.sequence, self.now - late, self.now - late, action.period_s, "go", robot.name, action.space,
            action.composition, action.names, data, observed,
        )  # fmt: skip
        self.controller.add_chunk(chunk, self.now, self.steady)
        self.check(self.controller.command(self.now))

    def joystick(self) -> None:
        axes = self.random.uniform(-1.2, 1.2, 8).tolist()
        buttons = [int(self.random.random() < p) for p in (0.1, 0.02, 0.1, 0, 0.7)]
        with contextlib.suppress(TeleopError):
            if self.controller.inputs.on_joy("joystick", axes, buttons, self.now):
                self.estop()

    def leader(self) -> None:
        names = [*self.robot.arm_joints, "left_finger"]
        where = self.robot.home + self.random.normal(0, 0.5, 6)
        self.controller.inputs.on_leader("leader", dict(zip(names, [*where, 0.03], strict=True)), self.now)

    def twist(self) -> None:
        twist = self.random.normal(0, 0.5, 6)
        self.controller.inputs.on_twist("twist", twist[:3], twist[3:], None, self.now)

    def mode(self) -> None:
        mode = int(self.random.choice([Mode.HOLD, Mode.TELEOP, Mode.AUTONOMY, Mode.AUTONOMY]))
        with contextlib.suppress(ModeError):
            self.controller.set_mode(mode, self.now, self.steady, "chaos", "")

    def estop(self) -> None:
        self.controller.estop(self.now, self.steady, "chaos", "")
        self.stopped = True

    def reset(self) -> None:
        with contextlib.suppress(ModeError):
            self.controller.reset(self.now, self.steady, "chaos", "")
            self.stopped = False

    def clock(self) -> None:
        self.now += int(self.random.choice([-to_ns(5.0), to_ns(5.0)]))
        self.last = None
        self.check(self.controller.tick(self.now, self.steady))

    def stall(self) -> None:
        for_ns = int(self.random.integers(0, to_ns(0.4)))
        self.now, self.steady = self.now + for_ns, self.steady + for_ns

    def somebody_moves_the_arm(self) -> None:
        if self.controller.mode in (Mode.HOLD, Mode.ESTOP) and not self.controller.governor.moving(self.now):
            shift = self.random.normal(0, 0.3, 6)
            self.where = np.clip(self.robot.home + shift, self.robot.lower, self.robot.upper)
            self.controller.governor.forget()
            self.last = None

    # Ticks

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            jitter = int(self.random.normal(0, to_ns(0.003)))
            step = max(TICK + jitter, to_ns(0.001))
            self.now, self.steady = self.now + step, self.steady + step
            self.joints()
            self.controller.add_beat(PolicyBeat(), self.steady)
            self.check(self.controller.tick(self.now, self.steady))
        self.controller.happenings.clear()

    def check(self, command: Command | None) -> None:
        if command is None:
            return
        assert not self.stopped, "a command after an emergency stop"
        assert self.controller.mode in (Mode.AUTONOMY, Mode.TELEOP)
        self.commands += 1
        governor, limits = self.controller.governor, self.controller.governor.limits
        motion = command.motion
        start_q = motion.positions[0] if self.last is None else self.last[1].q
        beyond = max(limits.outside(start_q, start_q), limits.outside(*[motion.positions[0]] * 2))
        assert limits.outside(motion.positions.min(0), motion.positions.max(0)) <= beyond + 2e-6
        assert np.all(np.abs(motion.velocities) <= limits.velocity * (1 + 1e-4))
        assert not motion.velocities[-1].any()
        horizon = self.now + governor.lead_ns
        outside = max(governor.outside_m(q) for q in (motion.positions[0], motion.positions[-1]))
        # An arm that was put outside may come back by any way that leads no further out than it began.
        self.outside = max(self.outside, governor.outside_m(start_q)) if self.last is None else self.outside
        assert outside <= self.outside + BOX_TOLERANCE_M + 1e-5
        if max(governor.outside_m(q) for q in motion.positions) <= BOX_TOLERANCE_M:
            self.outside = 0.0  # and all the way to rest it stays inside
        state = governor.at(horizon)
        first_ns = motion.stamp_ns + round(float(motion.times_s[0]) * 1e9)
        np.testing.assert_allclose(governor.at(first_ns).q, motion.positions[0], atol=1e-9)
        assert np.all(np.abs(state.a) <= limits.acceleration * (1 + EPS))
        if self.last is not None:
            before_ns, before = self.last
            dt = (horizon - before_ns) / 1e9
            assert np.all(np.abs(state.q - before.q) <= limits.velocity * dt * (1 + EPS) + EPS)
            assert np.all(np.abs(state.v - before.v) <= limits.acceleration * dt * (1 + EPS) + EPS)
            assert np.all(np.abs(state.a - before.a) <= limits.jerk * dt * (1 + EPS) + 1e-3)
        self.last = horizon, state


EVENTS = {
    "chunk": 0.45, "joystick": 0.15, "leader": 0.08, "twist": 0.08, "mode": 0.08, "estop": 0.02,
    "reset": 0.06, "clock": 0.01, "stall": 0.04, "somebody_moves_the_arm": 0.03,
}  # fmt: skip


@pytest.mark.parametrize("space", ["ee_delta", "joint_position"])
@pytest.mark.parametrize("seed", range(WORKERS))
def test_random_sequences_never_break_a_limit(seed: int, space: str) -> None:
    robot = load_robot("wx250s")
    if space == "joint_position":
        action = dataclasses.replace(robot.action, space=space, names=(*robot.arm_joints, "gripper"))
        robot = dataclasses.replace(robot, action=action)
    chaos = Chaos(robot, Kinematics(robot), seed)
    chaos.joints()
    names, weights = list(EVENTS), np.array(list(EVENTS.values()))
    for number in range(SEQUENCES // (2 * WORKERS)):
        try:
            for name in chaos.random.choice(names, int(chaos.random.integers(1, 4)), p=weights):
                getattr(chaos, name)()
            if chaos.random.random() < 0.5:
                chaos.mode()
            chaos.run(int(chaos.random.integers(1, 12)))
        except AssertionError as error:
            error.add_note(f"in sequence {number} of seed {seed}")
            raise
    assert chaos.commands > 500, "the arm was hardly ever driven"
