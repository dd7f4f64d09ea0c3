"""An episode in lock-step, recorded as the recorder node records a live one: the same topics and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from twinbrain_ros.control.controller import Happening
from twinbrain_ros.control.modes import Intervention, ModeChange
from twinbrain_ros.control.verdict import Command
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import in_namespace, recorded_topics
from twinbrain_ros.data.episode_info import EpisodeInfo
from twinbrain_ros.nodes import convert, sim_messages
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.tabletop import TabletopSim


class EpisodeTape:
    """A bag that is being written.

    Args:
        path: of the bag, which must not exist yet.
        info: of the episode; its `started_ns` is when simulated time began [ns].
    Raises:
        OSError: the disk does not take it.
    """

    def __init__(self, path: Path, robot: RobotFile, info: EpisodeInfo) -> None:
        self._robot, self._info, self._now_ns = robot, info, info.started_ns
        self._topics = {topic.name: topic for topic in recorded_topics(robot)}
        self._finger_m: float | None = None
        self._writer = BagWriter(path, info.to_json())
        self._put(robot.topics.robot_description, String(data=robot.urdf()))
        self._put(robot.topics.instruction, String(data=info.instruction))

    def at(self, sim_ns: int) -> int:
        """What follows is written as of this simulated time [ns]; gives its stamp [ns]."""
        self._now_ns = self._info.started_ns + sim_ns
        return self._now_ns

    def images(self, images: Mapping[str, np.ndarray]) -> None:
        """By camera name, uint8 RGB [height, width, 3]."""
        for camera in self._robot.cameras:
            self._put(camera.image_topic, convert.image_message(images[camera.name], camera, self._now_ns))

    def joints(self, sim: TabletopSim) -> None:
        """The measured ones."""
        self._put(self._robot.topics.joint_states, sim_messages.joint_states(sim, self._now_ns))

    def leader(self, topic: str, joints: Mapping[str, float]) -> None:
        """The person's arm, by joint name."""
        message = JointState(name=list(joints), position=list(joints.values()))
        message.header.stamp = convert.to_time(self._now_ns)
        self._put(topic, message)

    def chunk(self, chunk: ActionChunk) -> None:
        """One whose observation is what was written last."""
        stamped = replace(
            chunk,
            observation_ns=self._now_ns,
            due_ns=self._now_ns,
            image_stamps_ns=(self._now_ns,) * len(self._robot.cameras),
            joint_stamp_ns=self._now_ns,
        )
        message = convert.chunk_message(stamped, self._robot, self._now_ns)
        self._put(self._robot.topics.action_chunk, message)

    def happened(self, happenings: Iterable[Happening]) -> None:
        """Who drives, and since when."""
        topics, zero_ns = self._robot.topics, self._info.started_ns
        for entry in happenings:
            if isinstance(entry, ModeChange):
                stamp_ns = zero_ns + max(entry.since_ns, 0)
                self._put(topics.control_mode, convert.mode_message(entry, stamp_ns))
            elif isinstance(entry, Intervention):
                end_ns = None if entry.end_ns is None else zero_ns + entry.end_ns
                stamped = replace(entry, start_ns=zero_ns + entry.start_ns, end_ns=end_ns)
                self._put(topics.intervention, convert.intervention_message(stamped, self._now_ns))

    def command(self, command: Command) -> None:
        """What the arm was told; the gripper's where it changes, as the controller node does."""
        robot, motion = self._robot, command.motion
        arm = convert.motion_message(robot.arm_joints, replace(motion, stamp_ns=self._now_ns))
        self._put(robot.topics.arm_trajectory, arm)
        if command.finger_m is not None and command.finger_m != self._finger_m:
            fingers = convert.trajectory_message([robot.gripper.joint], [0.0], [[command.finger_m]])
            self._put(robot.topics.gripper_trajectory, fingers)
            self._finger_m = command.finger_m

    def close(self, info: EpisodeInfo) -> None:
        """Ends the bag, with what is known of the episode now."""
        self._writer.close(replace(info, ended_ns=self._now_ns).to_json())

    def abort(self) -> None:
        """Leaves it as a killed recorder would."""
        self._writer.abort()

    def _put(self, topic: str, message: Any) -> None:
        entry = self._topics[in_namespace("", topic)]
        self._writer.write(entry, self._now_ns, serialize_message(message))
