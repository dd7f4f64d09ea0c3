"""The joint states of an arm on their topics, for a policy: measured, and of a gripper maybe commanded."""

from __future__ import annotations

from functools import partial

from sensor_msgs.msg import JointState

from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.data.frames import RESTART_S, FrameBuilder, FrameError, NotReady
from twinbrain_ros.data.frozen import FrozenCameras
from twinbrain_ros.data.joint_parts import STREAM, JointMerger, part_of_message
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.camera_topics import Why
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.robot.robot_file import RobotFile

REPEATED = "joint_states_repeated"


class JointTopics:
    """Subscribes to them and feeds a frame builder.

    Args:
        node: owns the subscriptions and tells of what is wrong.
        robot: its joints.
        frames, frozen: get the joints.
    """

    def __init__(
        self, node: TwinBrainNode, robot: RobotFile, frames: FrameBuilder, frozen: FrozenCameras
    ) -> None:
        self._node, self._robot, self._frames, self._frozen = node, robot, frames, frozen
        self._merger = JointMerger(robot, to_ns(RESTART_S))
        self._refused: Why | None = None  # why the newest ones were
        node.health.count(REPEATED, 0)
        for topic in robot.topics.all_joint_states:
            commanded = topic == robot.topics.commanded_joint_states
            node.subscribe(JointState, topic, partial(self._on_joints, commanded=commanded), qos.JOINTS_IN)

    def refused(self, result: NotReady) -> Why | None:
        """Why an observation lacks joint states that do come; None: it does not, or none come."""
        return self._refused if result.stream == STREAM else None

    def _on_joints(self, message: JointState, commanded: bool) -> None:
        try:
            part = part_of_message(message, self._robot, commanded, self._node.now_ns())
        except FrameError as error:
            self._refused = Why(f"{STREAM}/{error.field}", str(error), Level.ERROR)
            self._node.report(self._refused.cause, self._refused.message)
            return
        if part is None:
            return  # of others
        self._refused = None
        self._node.health.clear(STREAM)
        if not self._frames.add_part(part):
            self._node.health.count(REPEATED)
        elif (whole := self._merger.add(part)) is not None:
            self._frozen.add_arm(whole[0], whole[1][:-1])
