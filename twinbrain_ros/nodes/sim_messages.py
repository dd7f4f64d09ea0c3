"""The simulator's side of the topics, as messages."""

from __future__ import annotations

from builtin_interfaces.msg import Duration
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.msg import SceneState as SceneStateMessage
from twinbrain_ros.nodes.convert import from_time, pose_message, to_time
from twinbrain_ros.sim.scene import Scene
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower


def joint_states(sim: TabletopSim, stamp_ns: int) -> JointState:
    """Arm, finger and mirrored finger, as the real arm's driver names them."""
    robot, finger = sim.robot, (sim.finger_position, sim.finger_velocity)
    message = JointState(
        name=[*robot.arm_joints, robot.gripper.joint, robot.gripper.mimic],
        position=[*sim.arm_positions.tolist(), finger[0], finger[0]],
        velocity=[*sim.arm_velocities.tolist(), finger[1], finger[1]],
    )
    message.header.stamp = to_time(stamp_ns)
    return message


def scene_state(
    state: SceneState, scene: Scene, episode: int, frame_id: str, stamp_ns: int
) -> SceneStateMessage:
    """The truth about the scene."""
    message = SceneStateMessage(
        episode=episode,
        seed=scene.seed,
        task=scene.task,
        instruction=scene.instruction,
        names=[entry.name for entry in state.objects],
        poses=[pose_message(entry.position, entry.rotation) for entry in state.objects],
        speeds=[float(entry.speed) for entry in state.objects],
        tool_pose=pose_message(state.tool_position, state.tool_rotation),
        gripper_opening=float(state.gripper_opening),
        held=state.held,
        touching=sorted(state.touching),
    )
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = frame_id
    return message


def follow(follower: JointTrajectoryFollower, message: JointTrajectory, now_ns: int) -> None:
    """Hands a trajectory to the follower, as it arrives.

    Raises:
        twinbrain_ros.sim.trajectory.TrajectoryError: it is refused.
    """
    points = message.points
    follower.receive(
        message.joint_names,
        [point.positions for point in points],
        [_seconds(point.time_from_start) for point in points],
        now_ns,
        velocities=[point.velocities for point in points],
        accelerations=[point.accelerations for point in points],
        start_ns=from_time(message.header.stamp),
    )


def _seconds(duration: Duration) -> float:
    return float(duration.sec) + float(duration.nanosec) / NS_PER_S
