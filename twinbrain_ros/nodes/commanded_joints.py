"""Where the gripper was told to be, as joint states: for grippers that no driver measures."""

from __future__ import annotations

from sensor_msgs.msg import JointState

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.robot.robot_file import RobotFile


class CommandedJoints:
    """Publishes `commanded_joint_states`, if the robot file says that the gripper is not measured.

    For those who observe: the controller itself does not listen to it. In a dry run too, as all that is no
    command: else a policy would have nothing to act on.

    Args:
        node: a configured one; takes its parameter dry_run.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile) -> None:
        self._node, self._joint = node, robot.gripper.joint
        topic = robot.topics.commanded_joint_states
        self._out = node.advertise(JointState, topic, qos.SENSOR_OUT) if topic else None
        self._told = " in a dry run, which the gripper did not hear" if node.value("dry_run") else ""

    def tell(self, told_m: float | None, now_ns: int) -> None:
        """To be called once a period, also while the arm holds.

        Args:
            told_m: where the gripper joint was told to be last [m]; None: it was told nothing yet.
            now_ns: the ROS clock.
        """
        if self._out is None or told_m is None:
            return
        message = JointState(name=[self._joint], position=[told_m])
        message.header.stamp = convert.to_time(now_ns)
        self._out.publish(message)
        self._node.health.tell("gripper", f"not measured; told to be at {told_m:.4f} m{self._told}")
