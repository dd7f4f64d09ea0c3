"""What of the controller may be set, apart from the robot file."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinbrain_ros.control.strategies import ChunkSettings
from twinbrain_ros.control.watchdogs import WatchdogSettings

VELOCITY_MARGIN = 0.9


@dataclass(frozen=True)
class ControlSettings:
    """Everything about the controller that is not in the robot file.

    Attributes:
        velocity_margin: share of the joint velocity limits that may be used, 0 to 1.
        watchdogs: when each of them trips.
        follows: whether the arm does what it is commanded; not so in a dry run.
    """

    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    velocity_margin: float = VELOCITY_MARGIN
    watchdogs: WatchdogSettings = field(default_factory=WatchdogSettings)
    follows: bool = True
