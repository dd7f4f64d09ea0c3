"""Every quality of service in use, with its reason (REP 2003 where it says something)."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(
    depth: int,
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability
    )


# Cameras and joint states are offered reliably, so that recorders may ask for every message...
SENSOR_OUT = _profile(5)
# ...and taken best effort: an old image is not worth waiting for, and any driver's offer matches.
SENSOR_IN = _profile(5, ReliabilityPolicy.BEST_EFFORT)
# Some drivers send each joint in a message of its own, all at once: none of them may push out another.
JOINTS_IN = _profile(100, ReliabilityPolicy.BEST_EFFORT)
# What a node that comes late must still get: the instruction, the mode, the robot's description.
LATCHED = _profile(1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Instructions are heard from whoever says them: a default publisher, one that is latched, one of best effort.
SAID = _profile(10)
SAID_LATCHED = _profile(10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SAID_BEST_EFFORT = _profile(10, ReliabilityPolicy.BEST_EFFORT)
# Only the newest command or chunk counts; an older one that waits in a queue must never be executed.
COMMAND = _profile(1)
# Each of them matters: an emergency stop, a button.
EVENTS = _profile(10)
# Events that are counted by those who listen.
STATUS = _profile(10)
DIAGNOSTICS = _profile(10)
