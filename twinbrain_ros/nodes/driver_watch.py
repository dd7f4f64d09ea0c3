"""What the controller node tells of its arm's driver: modes and controllers, other drivers, clocks."""

from __future__ import annotations

import time

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.lying import falls
from twinbrain_ros.control.stamps import StampWatch
from twinbrain_ros.data.contract import DRY_RUN
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.driver_check import DriverCheck
from twinbrain_ros.nodes.graph_watch import GraphWatch, publishers_of, several_publishers
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.robot.driver_findings import State
from twinbrain_ros.robot.joint_part import listed
from twinbrain_ros.robot.robot_file import RobotFile

LEVELS = {State.WRONG: Level.ERROR, State.WARN: Level.WARN}


class DriverWatch:
    """Looks at what is on the other side of the commands.

    Args:
        node: a configured one; takes its parameters dry_run, check_driver, set_driver_modes and
            controller_manager.
        controller: of the arm; its measured joints get told who publishes them.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile, controller: ArmController) -> None:
        self._node, self._robot, self._controller = node, robot, controller
        controller.joints.publishers = self._joint_publishers
        dry_run, topics = bool(node.value("dry_run")), robot.topics
        prefix = DRY_RUN if dry_run else ""
        arm, gripper = prefix + topics.arm_trajectory, prefix + topics.gripper_trajectory
        alone = {arm: "the arm's commands", gripper: "the gripper's commands"}
        if topics.commanded_joint_states:
            alone[topics.commanded_joint_states] = "where the gripper was told to be"
        self._graph = GraphWatch(node, alone)
        self._stamps, self._told = StampWatch(), set[str]()
        simulated = bool(node.value("use_sim_time"))
        self._stamped = robot.command_interface == "joint_trajectory" and not simulated
        self._check: DriverCheck | None = None
        if node.value("check_driver") and not dry_run:
            self._check = DriverCheck(node, node.when_done, robot, node.value("controller_manager"))
            node.keep(DriverCheck.close, self._check)

    def add_stamp(self, stamp_ns: int, now_ns: int) -> None:
        """Takes in when joint states were stamped and when they came [ns]."""
        self._stamps.add(stamp_ns, now_ns)

    def _joint_publishers(self) -> str:
        """Who publishes joint states, if there are several on a topic; empty if not."""
        told = []
        for topic in self._robot.topics.measured_joint_states:
            names = sorted(publishers_of(self._node, self._node.resolve_topic_name(topic)))
            if len(names) > 1:
                told.append(f"{topic} is published by {listed(names)}")
        return "; ".join(told)

    def look_round(self) -> tuple[str, str]:
        """What stands against every mode that moves, and what against autonomy; told on /diagnostics too."""
        other = self._graph.problem()
        policy = several_publishers(self._node, self._robot.topics.action_chunk, "chunks")
        self._tell("other_driver", other, Level.ERROR)
        self._tell("other_policy", policy, Level.ERROR)
        clock = self._stamps.too_far_ahead() if self._stamped else ""
        return other or clock or self._of_driver(), policy

    def _of_driver(self) -> str:
        if self._check is None:
            return ""
        driven = self._controller.driven
        self._check.look(driven)
        return self._check.problem() or ("" if driven else self._check.pending())

    def stopped(self) -> None:
        """To be told of faults and emergency stops: the driver's state may be why, or may not be the same."""
        if self._check is not None:
            self._check.doubt_registers()

    def falls(self) -> str:
        """Why the arm would fall if it were let go now; empty if it lies."""
        sleep = self._check.sleep if self._check is not None else None
        now_ns, steady_ns = self._node.now_ns(), time.monotonic_ns()
        return falls(self._controller, dict(self._robot.poses), now_ns, steady_ns, sleep)

    def check(self) -> None:
        """To be called once a second."""
        # A simulated clock goes on in steps: stamps of the newest one are ahead of it.
        simulated = bool(self._node.value("use_sim_time"))
        self._tell("clocks", "" if simulated else self._stamps.problem(), Level.WARN)
        offset_s = self._stamps.offset_s()
        self._node.health.tell(
            "joint_states_least_age_ms", "" if offset_s is None else f"{1e3 * offset_s:.1f}"
        )
        if self._check is None:
            return
        self._check.look(self._controller.driven)
        if self._node.value("set_driver_modes"):
            for call in self._check.set_modes(self.falls):
                self._node.get_logger().info(f"called: {call}")
        self._tell_findings()

    def _tell_findings(self) -> None:
        assert self._check is not None
        told = set()
        for finding in self._check.findings():
            cause, level = f"driver/{finding.about}", LEVELS.get(finding.state)
            self._node.health.tell(cause, f"{finding.state.value}: {finding.found}")
            if finding.state is State.UNKNOWN and self._check.xs:
                level = Level.WARN  # without ros2_control, as in a simulator, nobody is there to be asked
            if level is not None:
                told.add(cause)
                self._node.report(cause, finding.sentence, level)
        for cause in self._told - told:
            self._node.health.clear(cause)
        self._told = told

    def _tell(self, cause: str, problem: str, level: Level) -> None:
        if problem:
            self._node.report(cause, problem, level)
        else:
            self._node.health.clear(cause)
