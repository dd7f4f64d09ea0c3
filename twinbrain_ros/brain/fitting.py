"""Whether a checkpoint was made for what is to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinbrain_ros.brain.config import CheckpointMismatch, TwinBrainConfig

if TYPE_CHECKING:
    from twinbrain_ros.robot.robot_file import RobotFile


def check_fits(config: TwinBrainConfig, robot: RobotFile, to_act: bool = True) -> None:
    """Refuses a robot file that a checkpoint was not made for.

    to_act: also a checkpoint that was never trained. Raises CheckpointMismatch naming every difference.
    """
    wrong, own = [], config
    if robot.name in config.robots:
        own = config.as_robot(robot.name)
    else:
        known = repr(config.robot) if len(config.robots) == 1 else f"knows {list(config.robots)}"
        wrong.append(f"robot: checkpoint {known}, robot file {robot.name!r}")
    theirs, cameras = robot.action, {camera.name for camera in robot.cameras}
    pairs: list[tuple[str, Any, Any]] = [
        ("action space", own.action.space, theirs.space),
        ("action composition", own.action.composition, theirs.composition),
        ("action names", list(own.action.names), list(theirs.names)),
        ("action horizon", own.action.horizon, theirs.horizon),
        ("action period_s", own.action.period_s, theirs.period_s),
    ]
    wrong += [f"{what}: checkpoint {a!r}, robot file {b!r}" for what, a, b in pairs if a != b]
    listed = robot.observation.state_names
    if any(name not in listed for name in own.robot_state_names):
        wrong.append(
            f"state names: checkpoint needs {list(own.robot_state_names)}, robot file has {list(listed)}"
        )
    if to_act and own.action_statistics is None:
        wrong.append("statistics: checkpoint has none, it was never trained")
    missing = [camera.name for camera in own.cameras if camera.name not in cameras]
    if missing:
        wrong.append(f"cameras: checkpoint needs {missing}, robot file has {sorted(cameras)}")
    if wrong:
        raise CheckpointMismatch(f"checkpoint does not fit robot file {robot.name!r}: " + "; ".join(wrong))
