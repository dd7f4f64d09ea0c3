"""Episodes in which a policy drives and a person corrects it, in lock-step, each recorded as a bag."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.data.episode_info import FAILURE, SUCCESS, EpisodeInfo, Verdict
from twinbrain_ros.demo.episode_tape import EpisodeTape
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.person import Person
from twinbrain_ros.sim.rollout import Policy, Rollout, SimObservation
from twinbrain_ros.sim.tasks import Judge, parse_instruction

PERSON = "expert as a person"


@dataclass(frozen=True)
class Corrected:
    """What became of an episode: whether the task was done in the end, with whatever help; how often the
    person took over, and for how long [s] of how many."""

    success: bool
    interventions: int
    corrected_s: float
    time_s: float


class CorrectedEpisodes:
    """Runs and records them one after another.

    Args:
        rollout: whose robot, simulator, cameras and pace are used.
        policy: corrected by the person; name: under which it is recorded.
    Raises:
        ValueError: the robot has no leader arm.
    """

    def __init__(self, rollout: Rollout, policy: Policy, name: str) -> None:
        self.robot: RobotFile = rollout.robot
        self._rollout, self._policy, self._name = rollout, policy, name
        self._person = Person(self.robot, Kinematics(self.robot))
        self._image_ns = to_ns(1.0 / min(camera.rate_hz for camera in self.robot.cameras))
        self._ask_ns = to_ns(self.robot.action.execution_steps * self.robot.action.period_s)

    def run(self, seed: int, task: str, path: Path, started_ns: int) -> Corrected:
        """One episode into the bag `path`; started_ns: the time of its beginning [ns].

        Raises:
            OSError: the disk does not take it; what was written before stays.
        """
        scene = self._rollout.sim.reset(seed, task)
        info = EpisodeInfo(
            robot=self.robot.name,
            robot_file=self.robot.path.read_text(encoding="utf-8"),
            urdf=self.robot.urdf(),
            policy=self._name,
            task=task,
            seed=seed,
            instruction=scene.instruction,
            started_ns=started_ns,
        )
        tape = EpisodeTape(path, self.robot, info)
        try:
            found = self._run(tape, scene.instruction)
        except BaseException:
            tape.abort()
            raise
        outcome = SUCCESS if found.success else FAILURE
        text = f"with {found.interventions} corrections" if found.interventions else ""
        verdict = Verdict(outcome, text=text, source="simulator", at_ns=started_ns + to_ns(found.time_s))
        tape.close(replace(info.with_verdict(verdict), ended="done" if found.success else "given up"))
        return found

    def _run(self, tape: EpisodeTape, instruction: str) -> Corrected:
        sim, arm = self._rollout.sim, self._rollout.arm
        goal = parse_instruction(instruction)
        judge = Judge(goal)
        arm.start()
        self._person.start(goal)
        tape.happened([arm.controller.state])
        next_image_ns = next_ask_ns = 0
        sequence = interventions = corrected_ns = 0
        while sim.time_ns < to_ns(self._rollout.max_time_s) and not judge.outcome.success:
            now_ns = sim.time_ns
            tape.at(now_ns)
            if self._switch(tape):
                next_ask_ns = now_ns + 1  # what is seen at the moment of the switch is too old for it
                interventions += self._person.drives
            ask = not self._person.drives and now_ns >= next_ask_ns
            tape.joints(sim)
            if ask or now_ns >= next_image_ns:
                seen = self._rollout.observe()
                tape.images(seen.images)
                next_image_ns = max(next_image_ns + self._image_ns, now_ns)
                if ask:
                    sequence += 1
                    self._ask(tape, seen, instruction, sequence)
                    next_ask_ns = now_ns + self._ask_ns
            if self._person.drives:
                self._lead(tape)
                corrected_ns += to_ns(arm.tick_s)
            command = arm.tick()
            if command is not None:
                tape.command(command)
            judge.update(sim.scene_state())
        self._end(tape)
        return Corrected(
            judge.outcome.success, interventions, corrected_ns / NS_PER_S, sim.time_ns / NS_PER_S
        )

    def _switch(self, tape: EpisodeTape) -> bool:
        """Lets the person take over or let go; whether who drives has changed."""
        sim, controller, before = self._rollout.sim, self._rollout.arm.controller, self._person.drives
        drives = self._person.watch(sim.scene_state(), sim.arm_positions)
        if drives == before:
            return False
        if drives:
            self._lead(tape)
        controller.happenings.clear()
        mode, reason = (Mode.TELEOP, "it is stuck") if drives else (Mode.AUTONOMY, "it can go on")
        controller.set_mode(mode, sim.time_ns, sim.time_ns, PERSON, reason)
        tape.happened(controller.happenings)
        return True

    def _lead(self, tape: EpisodeTape) -> None:
        sim, entry = self._rollout.sim, self._person.entry
        joints = self._person.lead(sim.scene_state(), sim.arm_positions)
        self._rollout.arm.controller.inputs.on_leader(entry.name, joints, sim.time_ns)
        tape.leader(entry.topic, joints)

    def _ask(self, tape: EpisodeTape, seen: SimObservation, instruction: str, sequence: int) -> None:
        data = self._policy(seen, instruction)
        chunk = ActionChunk.for_robot(
            self.robot, sequence, seen.stamp_ns, instruction, data, seen.arm_positions,
            noise_seed=seen.stamp_ns // 1_000_000,
        )  # fmt: skip
        self._rollout.arm.take(chunk)
        tape.chunk(chunk)

    def _end(self, tape: EpisodeTape) -> None:
        """The arm holds; an intervention that lasts until then ends with the episode."""
        sim, controller = self._rollout.sim, self._rollout.arm.controller
        tape.at(sim.time_ns)
        controller.happenings.clear()
        controller.set_mode(Mode.HOLD, sim.time_ns, sim.time_ns, "episode", "the episode is over")
        tape.happened(controller.happenings)
