"""Who drives: the modes, and the one table of what leads from one to another."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from twinbrain_ros.text import sentence

SOURCE_CHARACTERS = 100


class Mode(enum.IntEnum):
    """Who drives, with the numbers of the ControlMode message."""

    HOLD = 0
    TELEOP = 1
    AUTONOMY = 2
    ESTOP = 3
    GO_TO = 4


class Event(enum.Enum):
    """What can happen to a mode."""

    ASK_HOLD = "hold is asked for"
    ASK_TELEOP = "teleop is asked for"
    ASK_AUTONOMY = "autonomy is asked for"
    ASK_GO_TO = "a pose is asked for"
    ARRIVE = "the way to a pose is over"
    TAKE_OVER = "an input that takes over by itself becomes active"
    LET_GO = "the input that took over lets go on purpose"
    FALL_SILENT = "the input that took over falls silent"
    FAULT = "a watchdog trips"
    ESTOP = "emergency stop"
    RESET = "reset is asked for"


# Everything that is not in here is refused, and changes nothing. LET_GO leads back to where it was taken over
# from, if that is HOLD or AUTONOMY; a way to a pose that was interrupted is not gone on with by itself. The
# policy is not interrupted for a pose, nor a way to a pose for the policy: HOLD has to be asked for between
# them. A fault or an emergency stop stays latched until RESET; see `Modes`.
TRANSITIONS: dict[tuple[Mode, Event], tuple[Mode, ...]] = {
    (Mode.HOLD, Event.ASK_HOLD): (Mode.HOLD,),
    (Mode.HOLD, Event.ASK_TELEOP): (Mode.TELEOP,),
    (Mode.HOLD, Event.ASK_AUTONOMY): (Mode.AUTONOMY,),
    (Mode.HOLD, Event.ASK_GO_TO): (Mode.GO_TO,),
    (Mode.HOLD, Event.TAKE_OVER): (Mode.TELEOP,),
    (Mode.HOLD, Event.RESET): (Mode.HOLD,),
    (Mode.HOLD, Event.ESTOP): (Mode.ESTOP,),
    (Mode.TELEOP, Event.ASK_HOLD): (Mode.HOLD,),
    (Mode.TELEOP, Event.ASK_TELEOP): (Mode.TELEOP,),
    (Mode.TELEOP, Event.ASK_AUTONOMY): (Mode.AUTONOMY,),
    (Mode.TELEOP, Event.ASK_GO_TO): (Mode.GO_TO,),
    (Mode.TELEOP, Event.LET_GO): (Mode.HOLD, Mode.AUTONOMY),
    (Mode.TELEOP, Event.FALL_SILENT): (Mode.HOLD,),
    (Mode.TELEOP, Event.FAULT): (Mode.HOLD,),
    (Mode.TELEOP, Event.ESTOP): (Mode.ESTOP,),
    (Mode.AUTONOMY, Event.ASK_HOLD): (Mode.HOLD,),
    (Mode.AUTONOMY, Event.ASK_TELEOP): (Mode.TELEOP,),
    (Mode.AUTONOMY, Event.ASK_AUTONOMY): (Mode.AUTONOMY,),
    (Mode.AUTONOMY, Event.TAKE_OVER): (Mode.TELEOP,),
    (Mode.AUTONOMY, Event.FAULT): (Mode.HOLD,),
    (Mode.AUTONOMY, Event.ESTOP): (Mode.ESTOP,),
    (Mode.GO_TO, Event.ASK_HOLD): (Mode.HOLD,),
    (Mode.GO_TO, Event.ASK_TELEOP): (Mode.TELEOP,),
    (Mode.GO_TO, Event.ASK_GO_TO): (Mode.GO_TO,),
    (Mode.GO_TO, Event.ARRIVE): (Mode.HOLD,),
    (Mode.GO_TO, Event.TAKE_OVER): (Mode.TELEOP,),
    (Mode.GO_TO, Event.FAULT): (Mode.HOLD,),
    (Mode.GO_TO, Event.ESTOP): (Mode.ESTOP,),
    (Mode.ESTOP, Event.RESET): (Mode.HOLD,),
    (Mode.ESTOP, Event.ESTOP): (Mode.ESTOP,),
}
ASKED = {Mode.HOLD: Event.ASK_HOLD, Mode.TELEOP: Event.ASK_TELEOP, Mode.AUTONOMY: Event.ASK_AUTONOMY}
_NEED_A_RESET = (Event.ASK_TELEOP, Event.ASK_AUTONOMY, Event.ASK_GO_TO, Event.TAKE_OVER)


class ModeError(ValueError):
    """A mode that cannot be taken now."""


@dataclass(frozen=True)
class ModeChange:
    """The mode in force: since when [ns], asked for by whom, and why; latched: until reset, nothing moves."""

    mode: Mode
    since_ns: int
    source: str
    reason: str
    latched: bool = False


@dataclass(frozen=True)
class Intervention:
    """A person at the wheel: who, from when to when [ns] (None: still), and what was interrupted."""

    number: int
    source: str
    interrupted: Mode
    start_ns: int
    end_ns: int | None = None


class Interventions:
    """Numbers what people do with the arm, from its begin to its end."""

    def __init__(self) -> None:
        self._number = 0
        self._running: Intervention | None = None

    def note(self, before: Mode, after: ModeChange) -> list[Intervention]:
        """What a change of the mode ends and begins."""
        if before is after.mode is Mode.TELEOP:
            return []  # it was asked to stay
        noted = []
        if self._running is not None:
            noted.append(replace(self._running, end_ns=after.since_ns))
            self._running = None
        if after.mode is Mode.TELEOP:
            self._number += 1
            self._running = Intervention(self._number, after.source, before, after.since_ns)
            noted.append(self._running)
        return noted


class Modes:
    """The mode in force, and what may follow it."""

    def __init__(self) -> None:
        self.now = ModeChange(Mode.HOLD, 0, "", "start")
        self.taken_over = False  # whether an input drives that was not asked to
        self.interrupted = Mode.HOLD  # what it took over from

    def next(self, event: Event) -> Mode:
        """The mode that an event leads to.

        Raises:
            ModeError: it leads nowhere from here; says why and what would help.
        """
        mode, latched = self.now.mode, self.now.latched
        if latched and (event in _NEED_A_RESET or (mode, event) not in TRANSITIONS):
            what = "the emergency stop" if mode is Mode.ESTOP else f"a fault ({self.now.reason})"
            raise ModeError(f"{event.value}, but {what} is latched: call the service reset first")
        if (mode, event) not in TRANSITIONS:
            hint = ": ask for HOLD first" if event in (Event.ASK_AUTONOMY, Event.ASK_GO_TO) else ""
            raise ModeError(f"{event.value}, which leads nowhere from {mode.name}{hint}")
        targets = TRANSITIONS[mode, event]
        return self.interrupted if self.interrupted in targets else targets[0]

    def enter(self, event: Event, now_ns: int, source: str, reason: str) -> ModeChange:
        """Takes the mode that an event leads to.

        Args:
            source, reason: from outside, perhaps; they are kept as `sentence` shows them.
        Raises:
            ModeError: as `next`.
        """
        before, mode = self.now, self.next(event)
        latched = event in (Event.FAULT, Event.ESTOP) or (before.latched and event is not Event.RESET)
        self.taken_over = event is Event.TAKE_OVER
        self.interrupted = before.mode if self.taken_over else Mode.HOLD
        self.now = ModeChange(mode, now_ns, sentence(source, SOURCE_CHARACTERS), sentence(reason), latched)
        return self.now
