"""From a bag to an episode's figures, in one pass over its messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import Bag, BagError, Message, open_bag
from twinbrain_ros.data.contract import DRY_RUN, in_namespace
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.episode_info import SUCCESS
from twinbrain_ros.data.instructions import Instructions
from twinbrain_ros.data.joint_parts import JointMerger, part_of_message
from twinbrain_ros.data.messages import NS_PER_S, commands_from_message, from_time
from twinbrain_ros.data.problems import Problems
from twinbrain_ros.data.recorded import camera_topics, namespace_of, robot_of
from twinbrain_ros.evaluation import figures
from twinbrain_ros.evaluation.command_figures import Commands, velocities_of
from twinbrain_ros.evaluation.figures import EpisodeFigures, Event, Motion
from twinbrain_ros.evaluation.film import FilmReader
from twinbrain_ros.evaluation.tally import OUTCOMES
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

MOTION_HZ = 20.0  # the executed trajectory is drawn from so many readings a second
# Stamps and times of receipt that are this far apart are of two clocks; going back this far is a restart.
CLOCKS_APART_S = 1.0
# A latency beyond these is none: the stamps are of two clocks, or of another run.
LATENCY_S = (0.0, 60.0)


def figures_of(
    path: str | Path, details: bool = True, robot: str | None = None, namespace: str | None = None
) -> EpisodeFigures:
    """The figures of one bag.

    Args:
        details: whether the film and the executed trajectory are wanted too.
        robot: a robot file in place of the recorded one.
        namespace: of the arm's topics, in place of the recorded one.
    Raises:
        ValueError, OSError: nothing of it can be used; says why.
    """
    bag = open_bag(path)
    return _Reading(bag, robot_of(bag, robot), namespace).figures(details)


class _Reading:
    """What has been read of a bag. Series are by the time of receipt, the only clock that all share."""

    def __init__(self, bag: Bag, robot: RobotFile, namespace: str | None) -> None:
        self.bag, self.robot = bag, robot
        self.info = bag.episode
        self.problems = Problems()
        self.namespace = namespace_of(bag, robot) if namespace is None else namespace
        self._instructions = Instructions(robot, self.namespace)
        self._merger = JointMerger(robot)
        self.chunks: Counter[str] = Counter(dict.fromkeys(("published", *OUTCOMES), 0))
        self.inference_ms: list[float] = []
        self.latency_ms: list[float] = []
        self.first_ns: list[int] = []
        self.joints: list[tuple[float, NDArray[np.float64]]] = []
        self.commands: list[tuple[float, float, NDArray[np.float64], NDArray[np.float64] | None]] = []
        self.modes: list[tuple[float, Mode]] = []
        self.events: list[Event] = []
        self.interventions = 0
        self.instruction, self.policy = self.info.instruction, self.info.policy
        self.latched = False
        self.offsets: dict[str, list[float]] = {}
        self.newest_stamp: dict[str, int] = {}

    def _time(self, log_ns: int) -> float:
        return (log_ns - self.bag.start_ns) / NS_PER_S

    def _handlers(self) -> dict[str, Callable[[Message, Any], None]]:
        names = self.robot.topics
        # Of two command topics the one that an arm listens to counts.
        arm = in_namespace(self.namespace, names.arm_trajectory)
        dry = in_namespace(self.namespace, DRY_RUN + names.arm_trajectory)
        commands = dry if self.bag.count(dry) and not self.bag.count(arm) else arm
        full: dict[str, Callable[[Message, Any], None]] = {
            names.action_chunk: self._on_chunk,
            names.chunk_status: self._on_status,
            **dict.fromkeys(names.measured_joint_states, self._on_joints),
            names.commanded_joint_states: partial(self._on_joints, commanded=True),
            names.control_mode: self._on_mode,
            names.intervention: self._on_intervention,
            names.policy_status: self._on_policy,
        }
        handlers = {in_namespace(self.namespace, name): handler for name, handler in full.items()}
        return {
            **handlers,
            **dict.fromkeys(self._instructions.topics, self._on_instruction),
            commands: self._on_command,
        }

    def figures(self, details: bool) -> EpisodeFigures:
        handlers = self._handlers()
        film = FilmReader(self.bag, self.robot, self.namespace, self.problems) if details else None
        topics = [*handlers, *(film.cameras if film else ())]
        self._look_for_missing()
        try:
            for message in self.bag.messages(topics):
                if film is not None and message.topic in film.cameras:
                    film.offer(message)
                    continue
                self._take(message, handlers[message.topic])
        except BagError as error:
            self.problems.add("damaged", f"read until it is damaged: {error}")
        return self._result(film)

    def _take(self, message: Message, handler: Callable[[Message, Any], None]) -> None:
        try:
            content = self.bag.decode(message)
            self._check_clock(message, content)
            handler(message, content)
        except FrameError as error:
            self.problems.add(f"{message.topic}/{error.field}", f"{message.topic}: {error}")
        except (BagError, ValueError, AttributeError, IndexError, TypeError) as error:
            self.problems.add(f"{message.topic}/{type(error).__name__}", f"{message.topic}: {error}")

    def _look_for_missing(self) -> None:
        if not self.bag.message_count:
            self.problems.add("empty", "the bag holds no messages")
            return
        names = self.robot.topics
        for topic in camera_topics(self.bag, self.robot, self.namespace):
            if not self.bag.count(topic):
                self.problems.add(topic, f"{topic}: no images in the bag")
        for relative, lacking in (
            *((name, "no executed trajectory, no tracking error") for name in names.all_joint_states),
            (names.action_chunk, "no inference times"),
            (names.chunk_status, "no latency"),
            (names.control_mode, "not known who drove"),
            (names.arm_trajectory, "no figures of commands"),
        ):
            topic = in_namespace(self.namespace, relative)
            if not self.bag.count(topic) and not (relative == names.arm_trajectory and self._dry_run()):
                self.problems.add(topic, f"{topic}: no messages in the bag: {lacking}")

    def _dry_run(self) -> bool:
        return bool(self.bag.count(in_namespace(self.namespace, DRY_RUN + self.robot.topics.arm_trajectory)))

    def _check_clock(self, message: Message, content: Any) -> None:
        header = getattr(content, "header", None)
        if header is None:
            return
        stamp_ns = from_time(header.stamp)
        if not stamp_ns:
            return
        last_ns = self.newest_stamp.get(message.topic, stamp_ns)
        if last_ns - stamp_ns > CLOCKS_APART_S * NS_PER_S:
            back_s = (last_ns - stamp_ns) / NS_PER_S
            self.problems.add(
                f"{message.topic}/back", f"{message.topic}: its stamps go back by {back_s:.1f} s"
            )
        self.newest_stamp[message.topic] = stamp_ns
        apart_s = (message.log_ns - stamp_ns) / NS_PER_S
        # Of a latched message the stamp is old with good reason.
        if abs(apart_s) > CLOCKS_APART_S and not message.topic.endswith(self.robot.topics.control_mode):
            self.problems.add(
                f"{message.topic}/clock",
                f"{message.topic}: stamped {apart_s:.1f} s before it was received: two clocks?",
            )

    # Messages ---------------------------------------------------------------------------------------

    def _on_chunk(self, message: Message, chunk: Any) -> None:
        if chunk.robot != self.robot.name:
            sentence = f"a chunk is for robot {chunk.robot!r}, expected {self.robot.name!r} (robot file)"
            self.problems.add("foreign", f"{message.topic}: {sentence}")
            return
        self.chunks["published"] += 1
        self.inference_ms.append(float(chunk.inference_time_s) * 1e3)

    def _on_status(self, message: Message, status: Any) -> None:
        outcome = OUTCOMES[status.outcome]
        self.chunks[outcome] += 1
        if outcome != "executed":
            return
        sent_ns = from_time(status.first_command_stamp)
        self.first_ns.append(sent_ns)
        latency_s = (sent_ns - from_time(status.observation_stamp)) / NS_PER_S
        if LATENCY_S[0] <= latency_s <= LATENCY_S[1]:
            self.latency_ms.append(latency_s * 1e3)
        else:
            self.problems.add(
                "latency", f"{message.topic}: a latency of {latency_s:.1f} s is left out: two clocks?"
            )

    def _on_joints(self, message: Message, state: Any, commanded: bool = False) -> None:
        whole = self._merger.add(part_of_message(state, self.robot, commanded))
        if whole is not None:
            self.joints.append((self._time(message.log_ns), whole[1]))

    def _on_command(self, message: Message, command: Any) -> None:
        told = commands_from_message(command, self.robot)
        if told.arm is None:
            return
        late_s = (message.log_ns - told.start_ns) / NS_PER_S
        since_s = late_s if told.start_ns and abs(late_s) < CLOCKS_APART_S else 0.0
        k = told.leads_to
        velocities = None if told.velocities is None else told.velocities[k]
        in_s = float(told.times_s[k]) - since_s
        self.commands.append((self._time(message.log_ns), in_s, told.arm[k], velocities))

    def _on_mode(self, message: Message, state: Any) -> None:
        time_s, mode = self._time(message.log_ns), Mode(state.mode)
        if not self.modes or self.modes[-1][1] is not mode:
            self.modes.append((time_s, mode))
        kind = figures.MODE
        if state.latched and not self.latched:
            kind = figures.ESTOP if mode is Mode.ESTOP else figures.WATCHDOG
        self.latched = bool(state.latched)
        self.events.append(Event(time_s, kind, f"{mode.name}: {state.reason}"))

    def _on_intervention(self, message: Message, intervention: Any) -> None:
        end_ns = from_time(intervention.end)
        if not end_ns:
            corrected = Mode(intervention.interrupted) is Mode.AUTONOMY
            self.interventions += corrected
            text = f"{intervention.source}{' takes over from the policy' if corrected else ''}"
            self.events.append(Event(self._time(message.log_ns), figures.INTERVENTION, text))
            return
        for i in range(len(self.events) - 1, -1, -1):
            event = self.events[i]
            if event.kind == figures.INTERVENTION and event.until_s is None:
                until_s = self._time(message.log_ns)
                self.events[i] = Event(event.time_s, event.kind, event.text, until_s)
                return

    def _on_instruction(self, message: Message, content: Any) -> None:
        followed = self._instructions.read(message.topic, content)
        refused = getattr(content, "refused", "")  # by the policy, which alone says what it follows
        if refused:
            text = f"refused: {refused}: {content.reason}"
            self.events.append(Event(self._time(message.log_ns), figures.INSTRUCTION, text))
        elif followed or (followed is not None and hasattr(content, "data")):
            self.instruction = followed
            self.events.append(Event(self._time(message.log_ns), figures.INSTRUCTION, self.instruction))

    def _on_policy(self, message: Message, status: Any) -> None:
        # Bags of earlier versions do not say.
        self.policy = getattr(status, "policy", "") or self.policy

    # Figures ----------------------------------------------------------------------------------------

    def _result(self, film: FilmReader | None) -> EpisodeFigures:
        label, duration_s = self.info.label, self._time(self.bag.end_ns) if self.bag.message_count else 0.0
        spans = _spans(self.modes, duration_s)
        begins = next((start_s for start_s, _, mode in spans if mode is Mode.AUTONOMY), None)
        success_s = None
        if label is not None and label.at_ns:
            at_s = self._time(label.at_ns)
            self.events.append(Event(at_s, figures.LABEL, f"{label.outcome or label.score} ({label.source})"))
            if label.outcome == SUCCESS and begins is not None and at_s >= begins:
                success_s = at_s - begins
        period_s = 1.0 / self.robot.rates.command_hz
        commands, joints = self._commands(), self._joints()
        return EpisodeFigures(
            bag=str(self.bag.path),
            robot=self.robot.name,
            policy=self.policy,
            task=self.info.task,
            seed=self.info.seed,
            instruction=self.instruction,
            started_ns=self.bag.start_ns,
            duration_s=duration_s,
            label=label,
            judged=self.info.judged,
            autonomy_s=sum(end - start for start, end, mode in spans if mode is Mode.AUTONOMY),
            teleop_s=sum(end - start for start, end, mode in spans if mode is Mode.TELEOP),
            time_to_success_s=success_s,
            interventions=self.interventions,
            observation_to_command_ms=tuple(self.latency_ms),
            inference_ms=tuple(self.inference_ms),
            tick_jitter_ms=tuple(commands.jitter_ms(period_s).tolist()),
            seam_steps=tuple(commands.seam_steps(period_s).tolist()),
            seam_limit=max(limit.acceleration for limit in self.robot.limits.values()) * period_s,
            jerk_rms=commands.jerk_rms(period_s),
            tracking_error=tuple(commands.tracking_error(*joints).tolist()),
            chunks=dict(self.chunks),
            lost=self.info.missing,
            events=tuple(sorted(self.events, key=lambda event: event.time_s)),
            film=film.develop() if film is not None else None,
            motion=self._motion(spans) if film is not None else None,
            left_out=self.problems.sentences(),
            truncated=bool(self.bag.truncated),
        )

    def _commands(self) -> Commands:
        count = len(self.robot.arm_joints)
        times = np.array([entry[0] for entry in self.commands])
        positions = np.array([entry[2] for entry in self.commands]).reshape(-1, count)
        stated = [entry[3] for entry in self.commands if entry[3] is not None]
        whole = len(stated) == len(self.commands)
        velocities = np.array(stated).reshape(-1, count) if whole else velocities_of(times, positions)
        first = np.zeros(len(times), dtype=bool)
        for sent_ns in self.first_ns:
            # It is stamped right after it is published, and received within a moment.
            near = int(np.argmin(np.abs(times - self._time(sent_ns)))) if len(times) else -1
            if near >= 0 and abs(times[near] - self._time(sent_ns)) < 0.5 / self.robot.rates.command_hz:
                first[near] = True
        return Commands(times, np.array([entry[1] for entry in self.commands]), positions, velocities, first)

    def _joints(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        times = np.array([time_s for time_s, _ in self.joints])
        arm = np.array([positions[:-1] for _, positions in self.joints])
        return times, arm.reshape(len(times), len(self.robot.arm_joints))

    def _motion(self, spans: list[tuple[float, float, Mode]]) -> Motion | None:
        if not self.joints:
            return None
        chosen, due_s = [], -np.inf
        for time_s, positions in self.joints:
            if time_s >= due_s:
                chosen.append((time_s, positions))
                due_s = time_s + 1.0 / MOTION_HZ
        kinematics = Kinematics(self.robot)
        arm = np.array([positions[:-1] for _, positions in chosen])
        drivers = [
            next((mode for start_s, _, mode in reversed(spans) if start_s <= time_s), Mode.HOLD)
            for time_s, _ in chosen
        ]
        return Motion(
            joints_names=self.robot.arm_joints,
            times_s=np.array([time_s for time_s, _ in chosen]),
            joints=arm,
            tool=np.array([kinematics.forward(q)[0] for q in arm]),
            opening=np.array([self.robot.gripper.opening(positions[-1]) for _, positions in chosen]),
            driver=np.array([int(driver) for driver in drivers]),
        )


def _spans(modes: list[tuple[float, Mode]], duration_s: float) -> list[tuple[float, float, Mode]]:
    """Who drove from when to when [s]."""
    ends = [*(time_s for time_s, _ in modes), duration_s][1:]
    return [(start_s, end_s, mode) for (start_s, mode), end_s in zip(modes, ends, strict=True)]
