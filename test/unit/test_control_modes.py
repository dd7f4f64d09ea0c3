"""Who may take the wheel from whom: every pair of mode and event, latches, and the way back."""

from __future__ import annotations

import itertools

import pytest

from twinbrain_ros.control.modes import TRANSITIONS, Event, Mode, ModeError, Modes

# The whole table once more, in words of its own: where an event leads from a mode. What is not here is
# refused. TELEOP is TELEOP that was asked for; letting go after a takeover has tests of its own.
LEADS = {
    Mode.HOLD: {
        Event.ASK_HOLD: Mode.HOLD,
        Event.ASK_TELEOP: Mode.TELEOP,
        Event.ASK_AUTONOMY: Mode.AUTONOMY,
        Event.ASK_GO_TO: Mode.GO_TO,
        Event.TAKE_OVER: Mode.TELEOP,
        Event.ESTOP: Mode.ESTOP,
        Event.RESET: Mode.HOLD,
    },
    Mode.TELEOP: {
        Event.ASK_HOLD: Mode.HOLD,
        Event.ASK_TELEOP: Mode.TELEOP,
        Event.ASK_AUTONOMY: Mode.AUTONOMY,
        Event.ASK_GO_TO: Mode.GO_TO,
        Event.LET_GO: Mode.HOLD,
        Event.FALL_SILENT: Mode.HOLD,
        Event.FAULT: Mode.HOLD,
        Event.ESTOP: Mode.ESTOP,
    },
    Mode.AUTONOMY: {
        Event.ASK_HOLD: Mode.HOLD,
        Event.ASK_TELEOP: Mode.TELEOP,
        Event.ASK_AUTONOMY: Mode.AUTONOMY,
        Event.TAKE_OVER: Mode.TELEOP,
        Event.FAULT: Mode.HOLD,
        Event.ESTOP: Mode.ESTOP,
    },
    Mode.GO_TO: {
        Event.ASK_HOLD: Mode.HOLD,
        Event.ASK_TELEOP: Mode.TELEOP,
        Event.ASK_GO_TO: Mode.GO_TO,
        Event.ARRIVE: Mode.HOLD,
        Event.TAKE_OVER: Mode.TELEOP,
        Event.FAULT: Mode.HOLD,
        Event.ESTOP: Mode.ESTOP,
    },
    Mode.ESTOP: {Event.RESET: Mode.HOLD, Event.ESTOP: Mode.ESTOP},
}
INTO = {
    Mode.HOLD: (),
    Mode.TELEOP: (Event.ASK_TELEOP,),
    Mode.AUTONOMY: (Event.ASK_AUTONOMY,),
    Mode.ESTOP: (Event.ESTOP,),
    Mode.GO_TO: (Event.ASK_GO_TO,),
}
PAIRS = list(itertools.product(Mode, Event))
ALLOWED = [(mode, event) for mode, event in PAIRS if event in LEADS[mode]]
REFUSED = [(mode, event) for mode, event in PAIRS if event not in LEADS[mode]]


def after(*events: Event) -> Modes:
    modes = Modes()
    for number, event in enumerate(events):
        modes.enter(event, number + 1, f"source {number}", f"reason {number}")
    return modes


def test_every_pair_of_mode_and_event_is_decided_here() -> None:
    assert set(TRANSITIONS) == set(ALLOWED)
    assert len(ALLOWED) + len(REFUSED) == len(Mode) * len(Event)


@pytest.mark.parametrize(("mode", "event"), ALLOWED)
def test_an_allowed_event_leads_where_the_table_says(mode: Mode, event: Event) -> None:
    modes = after(*INTO[mode])
    assert modes.now.mode is mode
    assert modes.next(event) is LEADS[mode][event]
    assert modes.now.mode is mode, "asking must not change anything"
    change = modes.enter(event, 77, "somebody", "because")
    assert (change.mode, change.since_ns, change.source, change.reason) == (
        LEADS[mode][event], 77, "somebody", "because",
    )  # fmt: skip
    assert modes.now is change


@pytest.mark.parametrize(("mode", "event"), REFUSED)
def test_every_other_event_is_refused_by_name_and_changes_nothing(mode: Mode, event: Event) -> None:
    modes = after(*INTO[mode])
    before = modes.now
    with pytest.raises(ModeError) as refused:
        modes.enter(event, 77, "somebody", "because")
    said = str(refused.value)
    assert event.value in said
    assert ("call the service reset first" if mode is Mode.ESTOP else mode.name) in said
    assert modes.now is before


@pytest.mark.parametrize("event", [event for event in Event if event not in (Event.RESET, Event.ESTOP)])
def test_an_emergency_stop_lets_nothing_on_but_reset(event: Event) -> None:
    modes = after(Event.ASK_AUTONOMY, Event.ESTOP)
    with pytest.raises(ModeError, match=r"emergency stop is latched: call the service reset first"):
        modes.next(event)
    assert modes.enter(Event.RESET, 9, "test", "").mode is Mode.HOLD
    assert not modes.now.latched
    assert modes.next(Event.ASK_AUTONOMY) is Mode.AUTONOMY


@pytest.mark.parametrize("driven", [Event.ASK_AUTONOMY, Event.ASK_TELEOP, Event.ASK_GO_TO, Event.TAKE_OVER])
@pytest.mark.parametrize(
    "event", [event for event in Event if event not in (Event.RESET, Event.ESTOP, Event.ASK_HOLD)]
)
def test_a_fault_lets_nothing_drive_until_reset(driven: Event, event: Event) -> None:
    modes = after(driven, Event.FAULT)
    assert modes.now.mode is Mode.HOLD and modes.now.latched
    with pytest.raises(ModeError, match=r"a fault \(reason 1\) is latched: call the service reset first"):
        modes.next(event)
    assert not modes.enter(Event.RESET, 9, "test", "").latched


def test_asking_for_hold_does_not_unlatch_a_fault() -> None:
    modes = after(Event.ASK_AUTONOMY, Event.FAULT, Event.ASK_HOLD)
    assert modes.now.mode is Mode.HOLD and modes.now.latched
    with pytest.raises(ModeError, match="latched"):
        modes.next(Event.ASK_AUTONOMY)


def test_an_emergency_stop_may_follow_a_fault_and_one_reset_releases_both() -> None:
    modes = after(Event.ASK_AUTONOMY, Event.FAULT, Event.ESTOP)
    assert modes.now.mode is Mode.ESTOP and modes.now.latched
    modes.enter(Event.RESET, 9, "test", "")
    assert modes.now.mode is Mode.HOLD and not modes.now.latched


@pytest.mark.parametrize(
    ("before", "back"),
    [((), Mode.HOLD), ((Event.ASK_AUTONOMY,), Mode.AUTONOMY), ((Event.ASK_GO_TO,), Mode.HOLD)],
    ids=["hold", "autonomy", "go_to"],
)
def test_letting_go_gives_back_what_was_taken(before: tuple[Event, ...], back: Mode) -> None:
    modes = after(*before, Event.TAKE_OVER)
    assert modes.taken_over
    assert modes.enter(Event.LET_GO, 9, "test", "").mode is back
    assert not modes.taken_over


@pytest.mark.parametrize("before", [(), (Event.ASK_AUTONOMY,)], ids=["hold", "autonomy"])
def test_falling_silent_always_ends_in_hold(before: tuple[Event, ...]) -> None:
    assert after(*before, Event.TAKE_OVER, Event.FALL_SILENT).now.mode is Mode.HOLD


def test_asking_for_teleop_during_a_takeover_forgets_what_was_taken() -> None:
    modes = after(Event.ASK_AUTONOMY, Event.TAKE_OVER, Event.ASK_TELEOP)
    assert modes.now.mode is Mode.TELEOP and not modes.taken_over
    assert modes.next(Event.LET_GO) is Mode.HOLD


def test_teleop_that_was_asked_for_gives_nothing_back() -> None:
    assert after(Event.ASK_AUTONOMY, Event.ASK_TELEOP).next(Event.LET_GO) is Mode.HOLD


def test_an_old_takeover_is_not_remembered_by_the_next() -> None:
    modes = after(Event.ASK_AUTONOMY, Event.TAKE_OVER, Event.ASK_HOLD, Event.TAKE_OVER)
    assert modes.next(Event.LET_GO) is Mode.HOLD
