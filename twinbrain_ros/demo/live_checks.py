"""The doctor's checks of a running graph: nodes, who commands, the driver, clocks, qualities of service."""

from __future__ import annotations

import importlib
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSCompatibility, qos_check_compatible
from sensor_msgs.msg import JointState

from twinbrain_ros.control.rivals import full_name
from twinbrain_ros.control.stamps import StampWatch
from twinbrain_ros.data.contract import Topic, in_namespace, recorded_topics
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.demo.checks import Check
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.driver_check import DriverCheck
from twinbrain_ros.nodes.graph_watch import publishers_of
from twinbrain_ros.robot.driver_findings import State, controller_of
from twinbrain_ros.robot.joint_part import joint_names, never_told
from twinbrain_ros.robot.robot_file import RobotFile

OURS = ("controller_node", "policy_node")
STATUS = {State.OK: "ok", State.WARN: "warn", State.WRONG: "fail", State.UNKNOWN: "warn"}
LEVELS = {0: "ok", 1: "warn", 2: "fail", 3: "warn"}
FOLLOWS_RAD = 0.1  # farther from its set-point, a joint does not follow
LONGEST_S = 15.0


def live_checks(
    robot: RobotFile, namespace: str = "", seconds: float = 4.0, manager: str = "controller_manager"
) -> Iterator[Check]:
    """Looks at and listens to the graph of this shell's ROS domain, moves nothing, and says what there is.

    Args:
        namespace: of the arm's nodes.
        seconds: how long it listens, at the least.
        manager: name of ros2_control's controller manager.
    """
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("twinbrain_doctor", namespace=namespace, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        look = _Look(node, robot, namespace, manager)
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < seconds or (
            not look.driver.settled and passed_s < LONGEST_S
        ):
            executor.spin_once(timeout_sec=0.05)
            look.driver.look()
        yield from look.checks(passed_s)
        look.driver.close()
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


class _Look:
    """What is heard while it listens."""

    def __init__(self, node: Any, robot: RobotFile, namespace: str, manager: str) -> None:
        self.node, self.robot = node, robot
        self.topics = {topic.name: topic for topic in recorded_topics(robot, namespace)}
        self.namespace = namespace
        self.stamps, self.joint_states = StampWatch(), Counter[str]()
        self.joints: set[str] = set()
        self.told = 0  # how often where the gripper was told to be
        self.said: dict[str, tuple[int, str]] = {}
        self.followed: Counter[str] = Counter()
        self.behind: dict[str, float] = {}
        self.driver = DriverCheck(
            node,
            lambda future, callback: future.add_done_callback(lambda done: callback(done.result())),
            robot,
            manager,
        )
        for topic in robot.topics.measured_joint_states:
            node.create_subscription(JointState, topic, partial(self._on_joints, topic), qos.JOINTS_IN)
        if commanded := robot.topics.commanded_joint_states:
            node.create_subscription(JointState, commanded, self._on_told, qos.JOINTS_IN)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS)
        self._follow()

    def _full(self, relative: str) -> str:
        return in_namespace(self.namespace, relative)

    def _on_joints(self, topic: str, message: JointState) -> None:
        self.joint_states[topic] += 1
        self.joints.update(message.name)
        self.stamps.add(from_time(message.header.stamp), self.node.get_clock().now().nanoseconds)

    def _on_told(self, message: JointState) -> None:
        self.told += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.said[status.name] = (status.level[0], status.message)

    def _follow(self) -> None:
        """Listens to the state of the arm's trajectory controller, where its messages are installed."""
        self.controller = controller_of(self.robot.topics.arm_trajectory)
        try:
            kind = importlib.import_module("control_msgs.msg").JointTrajectoryControllerState
        except ImportError:
            self.controller = ""
        if self.robot.command_interface != "joint_trajectory" or not self.controller:
            return
        topic = f"{self.controller}/controller_state"
        self.node.create_subscription(kind, topic, self._on_state, qos.SENSOR_IN)

    def _on_state(self, message: Any) -> None:
        self.followed["messages"] += 1
        wanted, there = np.array(message.reference.positions), np.array(message.feedback.positions)
        if len(wanted) == len(there) == len(message.joint_names):
            for name, away in zip(message.joint_names, np.abs(wanted - there).tolist(), strict=True):
                self.behind[name] = max(self.behind.get(name, 0.0), away) if np.isfinite(away) else away

    # Checks -----------------------------------------------------------------------------------------

    def checks(self, seconds: float) -> Iterator[Check]:
        """Everything, in the order in which one would look."""
        yield self._nodes()
        topics = self.robot.topics
        yield self._commanded(topics.arm_trajectory, "arm's commands")
        yield self._commanded(topics.gripper_trajectory, "gripper's commands")
        yield self._one(topics.action_chunk, "chunks")
        yield self._measured(seconds)
        if topics.commanded_joint_states:
            yield self._told(topics.commanded_joint_states, seconds)
        yield self._clocks()
        yield from self._cameras()
        for finding in self.driver.findings():
            found = f"unknown: {finding.found}" if finding.state is State.UNKNOWN else finding.found
            yield Check(finding.about, STATUS[finding.state], found, finding.mend)
        if self.robot.command_interface == "joint_trajectory":
            yield self._follows(seconds)
        yield self._qos()
        for name, (level, message) in sorted(self.said.items()):
            if name.rpartition("/")[2] in (*OURS, "recorder_node", "sim_node"):
                yield Check(f"/{name} says", LEVELS.get(level, "warn"), message)

    def _nodes(self) -> Check:
        own = self.node.get_fully_qualified_name()
        found = self.node.get_node_names_and_namespaces()
        names = Counter(full_name(space, name) for name, space in found)
        names.pop(own, None)
        shown = ", ".join(sorted(names)) or "none"
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            return Check(
                "nodes", "fail", f"{', '.join(twice)} runs more than once, of {shown}", "end one of them"
            )
        missing = [name for name in OURS if self._full(name) not in names]
        if missing:
            mend = "start it, or give --namespace; the same ROS_DOMAIN_ID in both shells?"
            return Check("nodes", "warn", f"{', '.join(map(self._full, missing))} is not among {shown}", mend)
        return Check("nodes", "ok", shown)

    def _one(self, relative: str, alone: str) -> Check:
        topic = self._full(relative)
        names = sorted(publishers_of(self.node, topic))
        if len(names) == 1:
            return Check(alone, "ok", f"{topic} from {names[0]}")
        if not names:
            return Check(alone, "warn", f"nobody publishes {topic}", "start and configure the node that does")
        mend = "end all but one: with two, neither moves the arm"
        return Check(alone, "fail", f"{topic} from {' and '.join(names)}", mend)

    def _commanded(self, relative: str, alone: str) -> Check:
        """Like `_one`, and somebody listens."""
        check = self._one(relative, alone)
        topic = self._full(relative)
        listeners = self.node.get_subscriptions_info_by_topic(topic)
        wanted = self.topics[topic].type
        drivers = [
            full_name(entry.node_namespace, entry.node_name)
            for entry in listeners
            if entry.topic_type == wanted and entry.node_name != "recorder_node"
        ]
        action = self.robot.gripper_command.interface == "gripper_action"
        if action and relative == self.robot.topics.gripper_trajectory:
            return check
        if check.status != "fail" and not drivers:
            others = sorted({entry.topic_type for entry in listeners} - {wanted})
            found = f"no driver listens to {topic} ({wanted})" + (
                f", only to {', '.join(others)}" if others else ""
            )
            return Check(
                alone, "fail", found, "start the driver, or mend the robot file's topic or interface"
            )
        return Check(alone, check.status, f"{check.found} to {', '.join(drivers)}", check.mend)

    def _measured(self, seconds: float) -> Check:
        """Every joint of the arm, from all topics together: a driver may tell of them in parts."""
        heard = []
        for relative in self.robot.topics.measured_joint_states:
            topic, count = self._full(relative), self.joint_states[relative]
            names = ", ".join(sorted(publishers_of(self.node, topic)))
            if not count:
                found = f"none on {topic}" + (f", though {names} publishes it" if names else "")
                return Check("joint states", "fail", found, "start the driver, or mend topics.joint_states")
            heard.append(f"{topic} at {count / seconds:.0f} Hz from {names}")
        found = "; ".join(heard)
        measured = self.robot.arm_joints if self.robot.gripper.commanded else joint_names(self.robot)
        missing = [joint for joint in measured if joint not in self.joints]
        if missing:
            return Check(
                "joint states", "fail", f"{found}, without {', '.join(missing)}", "mend the joints' names"
            )
        return Check("joint states", "ok", found)

    def _told(self, relative: str, seconds: float) -> Check:
        """Of a gripper that no driver measures."""
        check = self._one(relative, "gripper's position")
        if check.status != "ok":
            return check
        if not self.told:
            return Check(check.name, "warn", never_told(self.robot))
        return Check(check.name, "ok", f"as commanded, {check.found} at {self.told / seconds:.0f} Hz")

    def _clocks(self) -> Check:
        offset_s = self.stamps.offset_s()
        if offset_s is None:
            return Check("clocks", "warn", "unknown: too few stamped joint states")
        problem = self.stamps.problem()
        if problem:
            return Check("clocks", "warn", problem)
        return Check("clocks", "ok", f"joint states are {1e3 * offset_s:.1f} ms old on arrival, at the least")

    def _cameras(self) -> Iterator[Check]:
        for camera in self.robot.cameras:
            topic = self._full(camera.image_topic)
            names = sorted(publishers_of(self.node, topic))
            status = "ok" if names else "warn"
            yield Check(f"camera {camera.name}", status, f"{topic} from {', '.join(names) or 'nobody'}")

    def _follows(self, seconds: float) -> Check:
        about, topic = "arm follows", self._full(f"{self.controller}/controller_state")
        count = self.followed["messages"]
        if not self.controller or not count:
            why = f"nothing on {topic}" if self.controller else "control_msgs is not installed"
            return Check(about, "warn", f"unknown: {why}")
        rate = f"{topic} at {count / seconds:.0f} Hz"
        if not self.behind:
            return Check(about, "warn", f"unknown: {rate} tells no positions")
        joint = max(self.behind, key=lambda name: np.nan_to_num(self.behind[name], nan=np.inf))
        found = f"{rate}; {joint} is at most {self.behind[joint]:.3f} rad from its set-point"
        return Check(about, "ok" if self.behind[joint] <= FOLLOWS_RAD else "warn", found)

    def _qos(self) -> Check:
        """Pairs that never hear each other, of all topics of the arm."""
        deaf = [words for topic in self.topics.values() for words in self._deaf(topic)]
        if deaf:
            return Check("quality of service", "fail", "; ".join(deaf), "let both offer and ask for the same")
        return Check("quality of service", "ok", "every listener hears every publisher of the arm's topics")

    def _deaf(self, topic: Topic) -> Iterator[str]:
        own = self.node.get_name()
        for publisher in self.node.get_publishers_info_by_topic(topic.name):
            for listener in self.node.get_subscriptions_info_by_topic(topic.name):
                if own in (publisher.node_name, listener.node_name):
                    continue
                fits, why = qos_check_compatible(publisher.qos_profile, listener.qos_profile)
                if fits == QoSCompatibility.ERROR:
                    pair = (publisher, listener)
                    names = [full_name(entry.node_namespace, entry.node_name) for entry in pair]
                    yield f"{topic.name}: {names[1]} does not hear {names[0]} ({why.strip()})"
