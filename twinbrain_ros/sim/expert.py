"""A scripted expert: what to do next as a function of the scene, without memory.

Because it has no memory and no random numbers, it labels any state: a wild start, a dropped block, a gripper
that holds the wrong one. Its chunk is a kinematic roll-out of itself with ideal tracking. Motion per step is
a smooth saturating function of the error, heights are funnels of the horizontal distance, so that nearby
observations get nearby labels. Plain floats: arrays of three numbers would cost more than the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tasks import BLOCK_EDGE_M, PLATE_HEIGHT_M, PLATE_RADIUS_M, Goal

# Per step of 0.2 s.
_MAX_MOVE_M = 0.04
_MAX_TURN_RAD = 0.3
_GAIN = 0.85
_OPENING_RATE = 0.3  # change of the opening per step, on the slow side of what the servo does

_HALF = 0.5 * BLOCK_EDGE_M
_GRASP_ABOVE_CENTRE_M = 0.005  # tool above block centre: tips 5 mm off the table, pads over most of the block
_LOWEST_TOOL_M = 0.0195  # tips 4.5 mm off the table
_TRAVEL_M = 0.095  # tool height between places: tips 5 cm above the blocks' tops
_CARRY_M = 0.095
_LIFT_M = 0.15
_FUNNEL_SLOPE = 3.0
_FUNNEL_BOTTOM_M = 0.006  # horizontal distance that counts as above
_RELEASE_GAP_M = 0.004  # under a block when it is let go
_RELEASE_DISTANCE_M = 0.016  # from where it should go
_ROOM_M = 0.046  # between the centres of two blocks on a plate: corners and a finger fit
_MOST_OFF_MIDDLE_M = 0.034

_PAD_OFFSET_M = 0.013  # finger position when its pad is at the middle


def block_opening(robot: RobotFile, angle: float) -> float:
    """Return the gripper opening at which the pads touch a block turned by ``angle`` [rad] against them."""
    half = _HALF * (abs(math.cos(angle)) + abs(math.sin(angle)))
    return robot.gripper.opening(half + _PAD_OFFSET_M)


@dataclass
class _Block:
    x: float
    y: float
    z: float
    yaw: float


@dataclass
class _World:
    """The roll-out's state; ``ax``, ``ay`` is the horizontal part of the direction the tool points in."""

    x: float
    y: float
    z: float
    yaw: float
    ax: float
    ay: float
    opening: float
    named: _Block
    others: list[_Block]
    plate: tuple[float, float] | None
    supports: list[tuple[float, float]]


@dataclass
class _Move:
    """What is wanted in one step: errors still to go [m, rad] and the gripper."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    gripper: float = 1.0
    held: list[_Block] = field(default_factory=list)


class Expert:
    """Labels observations of the tabletop with ``ee_delta`` chunks, composed on the observation."""

    def __init__(self, robot: RobotFile) -> None:
        self._robot = robot
        self._horizon = robot.action.horizon
        self._lower = robot.workspace.lower.tolist()
        self._upper = robot.workspace.upper.tolist()
        self._closed_on = [block_opening(robot, 0.01 * i) for i in range(80)]  # 0 to 45 degrees and a little

    def chunk(self, state: SceneState, goal: Goal) -> np.ndarray:
        """Return actions [horizon, 7]: dx, dy, dz [m], droll, dpitch, dyaw [rad], gripper 0 or 1.

        Raises:
            KeyError: the scene lacks an object of the goal.
        """
        world = _world(state, goal)
        rows = [self._act(world) for _ in range(self._horizon)]
        return np.array(rows)

    def _act(self, world: _World) -> list[float]:
        """Decide one step and move the world by it."""
        move = self._decide(world)
        dx, dy, dz = (_saturate(error, _MAX_MOVE_M) for error in (move.x, move.y, move.z))
        dx = min(max(world.x + dx, self._lower[0]), self._upper[0]) - world.x
        dy = min(max(world.y + dy, self._lower[1]), self._upper[1]) - world.y
        dz = min(max(world.z + dz, self._lower[2]), self._upper[2]) - world.z
        droll = _saturate(-math.asin(world.ay), _MAX_TURN_RAD)
        dpitch = _saturate(math.asin(world.ax), _MAX_TURN_RAD)
        dyaw = _saturate(move.yaw, _MAX_TURN_RAD)
        self._advance(world, move, dx, dy, dz, dyaw)
        world.ay = math.sin(math.asin(world.ay) + droll)
        world.ax = math.sin(math.asin(world.ax) - dpitch)
        return [dx, dy, dz, droll, dpitch, dyaw, move.gripper]

    def _advance(self, world: _World, move: _Move, dx: float, dy: float, dz: float, dyaw: float) -> None:
        """Move tool, what it holds, and the fingers, which stop at a block between them."""
        for block in move.held:
            if move.gripper < 0.5:
                block.x += dx
                block.y += dy
                block.z += dz
                block.yaw += dyaw
        if move.gripper > 0.5:
            world.opening = min(world.opening + _OPENING_RATE, 1.0)
        else:
            inside = [block for block in (world.named, *world.others) if _between(world, block)]
            stop = max((self._stop(world, block) for block in inside), default=0.0)
            world.opening = max(world.opening - _OPENING_RATE, min(stop, world.opening))
        world.x += dx
        world.y += dy
        world.z += dz
        world.yaw += dyaw

    def _stop(self, world: _World, block: _Block) -> float:
        """Return the opening at which the fingers are stopped by a block between them."""
        return self._closed_on[min(int(100.0 * abs(_symmetric(block.yaw - world.yaw))), 79)]

    def _holds(self, world: _World, block: _Block, margin: float = 0.06) -> bool:
        return _between(world, block) and world.opening <= self._stop(world, block) + margin

    def _decide(self, world: _World) -> _Move:
        for other in world.others:
            if self._holds(world, other):
                return self._put_down(world, other)
        if world.plate is not None:
            spot = _free_spot(world, world.plate)
            if self._holds(world, world.named):
                return self._carry(world, spot)
            if _rests_on(world.named, world.plate):
                return self._retreat(world)
        elif self._holds(world, world.named):
            return _Move(z=_LIFT_M - world.z, gripper=0.0, held=[world.named])
        return self._grasp(world)

    def _grasp(self, world: _World) -> _Move:
        """Go above the named block, down around it, close."""
        block = world.named
        dx, dy = block.x - world.x, block.y - world.y
        yaw = _grasp_yaw(block.yaw, world.yaw) - world.yaw
        low = max(block.z + _GRASP_ABOVE_CENTRE_M, _LOWEST_TOOL_M)
        tilt = math.hypot(world.ax, world.ay)
        lateral, forward = _in_tool(world, dx, dy)
        aligned = (
            abs(lateral) < 0.008
            and abs(forward) < 0.008
            and abs(yaw) < 0.25
            and tilt < 0.15
            and world.z < low + 0.007
        )
        if aligned:
            return _Move(dx, dy, low - world.z, yaw, gripper=0.0)
        # What is not ready yet keeps the tool up, as distance does.
        away = math.hypot(dx, dy) + 0.1 * tilt
        away += 0.03 * max(abs(yaw) - 0.1, 0.0) + 0.06 * max(0.85 - world.opening, 0.0)
        travel = max(_TRAVEL_M, block.z + 0.06)
        height = _funnel(away, low, travel)
        gate = _gate(world.z, height)
        return _Move(gate * dx, gate * dy, height - world.z, yaw, gripper=1.0)

    def _carry(self, world: _World, spot: tuple[float, float]) -> _Move:
        """Bring the held named block over its plate, down, let go."""
        block = world.named
        dx, dy = spot[0] - block.x, spot[1] - block.y
        away = math.hypot(dx, dy)
        hang = world.z - (block.z - _HALF)  # tool above the block's underside
        low = PLATE_HEIGHT_M + _RELEASE_GAP_M + hang
        tolerance = _RELEASE_DISTANCE_M if spot == world.plate else 0.25 * _RELEASE_DISTANCE_M
        if away < tolerance and world.z < low + 0.004:
            return _Move(gripper=1.0, held=[block])
        height = _funnel(max(away - 0.5 * tolerance, 0.0), low, _CARRY_M - 0.02 + hang)
        gate = _gate(world.z, height)
        yaw = _symmetric(-world.yaw) if abs(world.yaw) > 0.9 else 0.0
        return _Move(gate * dx, gate * dy, height - world.z, yaw, gripper=0.0, held=[block])

    def _put_down(self, world: _World, block: _Block) -> _Move:
        """Set a block that was not asked for on the table, beside what is there."""
        push_x, push_y = _push_away(world, block)
        away = math.hypot(push_x, push_y)
        hang = world.z - (block.z - _HALF)
        low = _RELEASE_GAP_M + hang
        if away < 0.01 and world.z < low + 0.005:
            return _Move(gripper=1.0, held=[block])
        height = _funnel(away, low, _CARRY_M - 0.02 + hang)
        gate = _gate(world.z, height)
        return _Move(gate * push_x, gate * push_y, height - world.z, gripper=0.0, held=[block])

    def _retreat(self, world: _World) -> _Move:
        """The block lies where it should: open, then go up and stay up."""
        if _between(world, world.named) and world.opening < self._stop(world, world.named) + 0.2:
            return _Move(gripper=1.0)
        return _Move(z=_LIFT_M - world.z, gripper=1.0)


def _world(state: SceneState, goal: Goal) -> _World:
    position, rotation = state.tool_position.tolist(), state.tool_rotation.tolist()
    blocks = {entry.name: _block(entry.position, entry.rotation) for entry in state.blocks}
    plates = {entry.name: (float(entry.position[0]), float(entry.position[1])) for entry in state.plates}
    named = state.object(goal.block).name
    plate = plates[state.object(goal.plate).name] if goal.task == "put" else None
    x, y, z = position
    return _World(
        x=x,
        y=y,
        z=z,
        yaw=math.atan2(rotation[1][2], rotation[0][2]),
        ax=min(max(rotation[0][0], -0.95), 0.95),
        ay=min(max(rotation[1][0], -0.95), 0.95),
        opening=state.gripper_opening,
        named=blocks[named],
        others=[block for name, block in blocks.items() if name != named],
        plate=plate,
        supports=list(plates.values()),
    )


def block_yaw(rotation: np.ndarray) -> float:
    """Return how a block of this rotation [3, 3] is turned about the vertical [rad], up to quarter turns."""
    # Whichever edge lies flattest says it: the block may have been tipped onto another face.
    column = int(np.argmin(np.abs(rotation[2])))
    return math.atan2(rotation[1, column], rotation[0, column])


def _block(position: np.ndarray, rotation: np.ndarray) -> _Block:
    x, y, z = position.tolist()
    return _Block(x, y, z, block_yaw(rotation))


def _saturate(error: float, limit: float) -> float:
    return limit * math.tanh(_GAIN * error / limit)


def _funnel(away: float, low: float, high: float) -> float:
    return min(low + _FUNNEL_SLOPE * max(away - _FUNNEL_BOTTOM_M, 0.0), max(high, low))


def _gate(z: float, height: float) -> float:
    """Return how freely to move sideways: not while well under the height the funnel wants."""
    return min(max((z - height + 0.04) / 0.02, 0.0), 1.0)


def _symmetric(angle: float) -> float:
    """Return ``angle`` [rad] modulo a quarter turn, within +-pi/4: a block looks the same after one."""
    return angle - 0.5 * math.pi * round(angle / (0.5 * math.pi))


def _grasp_yaw(block_yaw: float, tool_yaw: float) -> float:
    """Return the quarter-turn copy of the block's yaw nearest to the tool's, drawn towards neutral."""
    centre = 0.6 * tool_yaw
    return centre + _symmetric(block_yaw - centre)


def _in_tool(world: _World, dx: float, dy: float) -> tuple[float, float]:
    """Return a horizontal offset along the closing direction of the fingers and across it [m]."""
    cosine, sine = math.cos(world.yaw), math.sin(world.yaw)
    return -sine * dx + cosine * dy, cosine * dx + sine * dy


def _between(world: _World, block: _Block) -> bool:
    lateral, forward = _in_tool(world, block.x - world.x, block.y - world.y)
    return abs(lateral) < 0.012 and abs(forward) < 0.018 and -0.03 < world.z - block.z < 0.026


def _rests_on(block: _Block, plate: tuple[float, float]) -> bool:
    near = math.hypot(block.x - plate[0], block.y - plate[1]) < PLATE_RADIUS_M - 0.003
    return near and block.z < PLATE_HEIGHT_M + _HALF + 0.008


def _free_spot(world: _World, plate: tuple[float, float]) -> tuple[float, float]:
    """Return where on the plate to put the block: the middle, or opposite to a block that lies there."""
    x, y = plate
    for other in world.others:
        dx, dy = plate[0] - other.x, plate[1] - other.y
        away = math.hypot(dx, dy)
        if away < _ROOM_M and other.z < 0.05:
            # Right in the middle every way is as good; towards the base there is always reach.
            way = (dx / away, dy / away) if away > 1e-3 else (-1.0, 0.0)
            shift = min(_ROOM_M - away, _MOST_OFF_MIDDLE_M)
            x, y = x + way[0] * shift, y + way[1] * shift
    return x, y


def _push_away(world: _World, block: _Block) -> tuple[float, float]:
    """Return the way [m] from a block to where it can be set down: out of what is too close."""
    push_x = push_y = 0.0
    obstacles = [(other.x, other.y, 0.055) for other in (world.named, *world.others) if other is not block]
    obstacles += [(x, y, PLATE_RADIUS_M + 0.025) for x, y in world.supports]
    for x, y, room in obstacles:
        dx, dy = block.x - x, block.y - y
        away = math.hypot(dx, dy)
        if away < room:
            scale = (room + 0.005 - away) / max(away, 1e-3)
            push_x += dx * scale
            push_y += dy * scale
    return push_x, push_y
