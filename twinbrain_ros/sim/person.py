"""A person beside the arm with a leader arm in hand, played by the scripted expert.

Watches how a policy gets on, takes over where it no longer does, and lets go once the step it was stuck at is
done: what a person does who corrects a policy (HG-DAgger, arXiv 1810.02890).
"""

from __future__ import annotations

import numpy as np

from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.waypoints import WaypointError, WaypointMaker
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import LeaderInput
from twinbrain_ros.sim.expert import Expert
from twinbrain_ros.sim.state import ObjectState, SceneState
from twinbrain_ros.sim.tasks import LIFTED_M, PLATE_HEIGHT_M, Goal

# A policy that has come no nearer for so long is stuck, or on the way to something else.
PATIENCE_S = 2.0
NEARER_M = 0.01
# A block that has been held for so long is held well enough to be let go of.
SECURED_S = 0.6


class Person:
    """One person, with the leader arm of a robot file.

    Raises:
        ValueError: the robot file has no leader arm.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics) -> None:
        leaders = [entry for entry in robot.teleop if isinstance(entry, LeaderInput)]
        if not leaders:
            found = [entry.name for entry in robot.teleop]
            raise ValueError(f"{robot.path}: teleop has {found}, expected a leader arm among them")
        self.entry = leaders[0]
        self._robot, self._expert = robot, Expert(robot)
        self._maker = WaypointMaker(robot, kinematics)
        self._go(0, np.array(robot.home)[None], [0])
        self._goal: Goal | None = None

    def start(self, goal: Goal) -> None:
        """Begins to watch an episode."""
        self._goal, self.drives = goal, False
        self._forget(0)

    def _forget(self, now_ns: int) -> None:
        self._nearest_m, self._nearer_ns = np.inf, now_ns
        self._held_since_ns: int | None = None
        self._plan_ns = now_ns

    def watch(self, scene: SceneState, arm_positions: np.ndarray) -> bool:
        """Whether the person drives from now on; to be shown scene and joints [J] every 0.1 s or oftener."""
        now_ns = scene.time_ns
        held = scene.held == self._block(scene).name
        if held != (self._held_since_ns is not None):
            self._forget(now_ns)  # another step of the task begins
            self._held_since_ns = now_ns if held else None
        gap_m = self._gap_m(scene, held)
        if gap_m < self._nearest_m - NEARER_M:
            self._nearest_m, self._nearer_ns = gap_m, now_ns
        if not self.drives:
            self.drives = now_ns - self._nearer_ns > to_ns(PATIENCE_S)
            if self.drives:
                self._from_held = held
                self._plan_ns = now_ns
                self._go(now_ns, np.array(arm_positions)[None], [0])
                self._opening = scene.gripper_opening
        elif not self._from_held and held and now_ns - (self._held_since_ns or now_ns) > to_ns(SECURED_S):
            self.drives = False
            self._nearest_m, self._nearer_ns = gap_m, now_ns
        return self.drives

    def lead(self, scene: SceneState, arm_positions: np.ndarray) -> dict[str, float]:
        """The leader's joints by name [rad, or its own units] now, while the person drives."""
        if scene.time_ns >= self._plan_ns:
            self._plan(scene, arm_positions)
        return self.entry.map.positions(self._hand(scene.time_ns).tolist(), self._opening)

    def _plan(self, scene: SceneState, arm_positions: np.ndarray) -> None:
        """The hand's way for the next period, from what the scene looks like now."""
        assert self._goal is not None
        robot, now_ns = self._robot, scene.time_ns
        data = self._expert.chunk(scene, self._goal)
        chunk = ActionChunk.for_robot(robot, 0, now_ns, self._goal.instruction(), data, arm_positions)
        period_s = robot.action.period_s
        self._plan_ns = now_ns + to_ns(period_s)
        try:
            waypoints = self._maker.make(chunk, 0, 1, arm_positions, lambda: arm_positions)
        except WaypointError:
            return  # the hand stays where it is and looks again a period later
        way = np.vstack([self._hand(now_ns), waypoints.arm])
        self._go(now_ns, way, [to_ns(period_s * step) for step in range(len(way))])
        self._opening = float(data[0, -1])

    def _go(self, now_ns: int, way: np.ndarray, times_ns: list[int]) -> None:
        """From now on the hand moves straight from point to point of a way [K, J], at times from now."""
        self._way, self._times_ns = way, now_ns + np.array(times_ns)

    def _hand(self, now_ns: int) -> np.ndarray:
        """Where the hand has the leader's joints [J] now."""
        return np.array([np.interp(now_ns, self._times_ns, joint) for joint in self._way.T])

    def _block(self, scene: SceneState) -> ObjectState:
        assert self._goal is not None
        return scene.object(self._goal.block)

    def _gap_m(self, scene: SceneState, held: bool) -> float:
        """How far the step that the task is at is from being done [m]."""
        assert self._goal is not None
        block = self._block(scene).position
        if not held:
            return float(np.linalg.norm(scene.tool_position - block))
        if not self._goal.plate:
            return max(0.0, 2 * LIFTED_M - float(block[2]))
        plate = scene.object(self._goal.plate).position
        return float(np.linalg.norm(block - plate - [0.0, 0.0, PLATE_HEIGHT_M]))
