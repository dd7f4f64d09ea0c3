"""The controller node's parameters, and the settings they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from twinbrain_ros.control.settings import VELOCITY_MARGIN, ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy, Weighting
from twinbrain_ros.control.watchdogs import WatchdogSettings
from twinbrain_ros.nodes.parameters import Declared

_STRATEGIES = ", ".join(strategy.value for strategy in Strategy)
_WEIGHTINGS = ", ".join(weighting.value for weighting in Weighting)
_DEFAULTS = WatchdogSettings()


def _watchdog(name: str, description: str, upper: float, unit: str = "s") -> Declared:
    return Declared(name, getattr(_DEFAULTS, name), description, unit=unit, lower=0.01, upper=upper)


FIXED = (
    Declared(
        "velocity_margin",
        VELOCITY_MARGIN,
        "Share of the joint velocity limits that commands may use.",
        unit="1",
        lower=0.01,
        upper=1.0,
    ),
    Declared(
        "command_hz",
        0.0,
        "Rate of commands; 0 takes the robot file's.",
        unit="Hz",
        lower=0.0,
        upper=1000.0,
    ),
    Declared(
        "dry_run",
        False,
        "Compute and publish everything, but the commands on dry_run/<topic>, where no arm listens.",
    ),
    Declared(
        "check_driver",
        True,
        "Ask the arm's driver for its modes or controllers, and move only if none of them is wrong.",
    ),
    Declared(
        "set_driver_modes",
        False,
        "Call what Interbotix' driver lacks; the arm must lie in its sleep pose, as torque goes off then.",
    ),
    Declared("controller_manager", "controller_manager", "Name of ros2_control's controller manager."),
)
LIVE = (
    Declared("strategy", "receding_horizon", f"How chunks follow one another: {_STRATEGIES}."),
    Declared(
        "execution_steps",
        0,
        "Steps of each chunk that are executed without a newer one; 0 takes the robot file's.",
        unit="steps",
        lower=0,
        upper=1000,
    ),
    Declared(
        "go_to_speed",
        0.25,
        "Share of the limits at which go_to moves the arm, where the goal says nothing of it.",
        unit="1",
        lower=0.01,
        upper=1.0,
    ),
    Declared("ensemble_weights", "adaptive_cosine", f"Weights of temporal_ensemble: {_WEIGHTINGS}."),
    Declared(
        "ensemble_decay",
        0.1,
        "How fast these weights fall: CogACT takes 0.1 of the cosine, ACT 0.01 per chunk.",
        unit="1",
        lower=0.0,
        upper=100.0,
    ),
    _watchdog("policy_timeout_s", "In autonomy the policy may be silent for so long.", 60.0),
    _watchdog(
        "observation_timeout_s", "In autonomy the policy may be without an observation for so long.", 60.0
    ),
    _watchdog("chunk_timeout_s", "In autonomy an acceptable chunk has to come so often.", 600.0),
    _watchdog("joints_timeout_s", "While the arm is driven, joint states may be this old.", 10.0),
    _watchdog("following_error_rad", "How far a joint may be from where it was commanded.", 6.3, "rad"),
    _watchdog(
        "following_timeout_s", "For how long it may be further than that, or its readings frozen.", 10.0
    ),
    _watchdog("overrun_s", "While the arm is driven, the controller may be held up for so long.", 10.0),
    _watchdog(
        "clock_jump_s", "The ROS clock may be so much faster than a steady one between two ticks.", 60.0
    ),
)


def settings_of(value: Callable[[str], Any]) -> ControlSettings:
    """The settings that parameters make.

    Args:
        value: gives a parameter's value by name.
    Raises:
        ValueError: one of them is not among its choices; names it and the choices.
    """
    chunks = ChunkSettings(
        strategy=Strategy(_choice("strategy", value, [s.value for s in Strategy])),
        execution_steps=int(value("execution_steps")) or None,
        weighting=Weighting(_choice("ensemble_weights", value, [w.value for w in Weighting])),
        decay=float(value("ensemble_decay")),
    )
    watchdogs = WatchdogSettings(**{f.name: float(value(f.name)) for f in fields(WatchdogSettings)})
    return ControlSettings(chunks, float(value("velocity_margin")), watchdogs, not value("dry_run"))


def _choice(name: str, value: Callable[[str], Any], choices: list[str]) -> str:
    found = str(value(name))
    if found not in choices:
        raise ValueError(f"{name} is {found!r}, expected one of {', '.join(choices)}")
    return found
