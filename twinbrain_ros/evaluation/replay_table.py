"""What came of running a policy over a recording, as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinbrain_ros.evaluation.replay import Errors, Replay
from twinbrain_ros.evaluation.results import format_fraction, format_rows
from twinbrain_ros.robot.robot_file import RobotFile

WORDS = {
    "commanded": "what was commanded",
    "autonomy": "what the policy did",
    "teleop": "what the person did",
}


def references(result: Replay) -> dict[str, Errors]:
    """What the policy was compared with, by name, without what was never there."""
    everything = {"commanded": result.commanded, **result.done}
    return {name: errors for name, errors in everything.items() if errors.steps.any()}


def units_of(robot: RobotFile) -> list[str]:
    """Of each action."""
    arm = len(robot.action.names) - 1
    return [*(["m"] * 3 + ["rad"] * 3 if robot.action.space == "ee_delta" else ["rad"] * arm), "0..1"]


def replay_table(result: Replay) -> str:
    """The figures: what was compared, errors of each action, and distances over the horizon."""
    parts = [format_rows(_summary(result))]
    found = references(result)
    if found:
        parts += [_actions(result, found), _horizon(result, found)]
    return "\n\n".join(parts)


def _summary(result: Replay) -> list[tuple[str, str]]:
    every = "of recorded chunks" if result.every_s is None else f"one every {result.every_s:g} s"
    rows = [
        ("robot", result.robot.name),
        ("policy", _policies(result)),
        ("observations", f"{result.observations}, {every}"),
    ]
    repeats = result.repeats
    if repeats.compared:
        text = format_fraction(repeats.same, repeats.compared)
        guided = f", {repeats.guided} of them guided" if repeats.guided else ""
        rows.append(("chunks bit for bit", f"{text}{guided}, largest difference {repeats.largest:.3g}"))
    if repeats.unguided:
        rows.append(("  not repeated", f"{repeats.unguided} whose guide is not in the bag (real time)"))
    if repeats.remembered:
        text = f"{repeats.remembered} made with a left brain that remembered older images: they may differ"
        rows.append(("  not repeated", text))
    for name, errors in {"commanded": result.commanded, **result.done}.items():
        rows.append((f"against {WORDS[name]}", _compared(errors)))
    rows += [("steps left out", f"{count}: {reason}") for reason, count in result.left_out.most_common()]
    if result.robot.action.composition == "previous_target" and result.robot.action.space == "ee_delta":
        rows.append(("note", "deltas start at the target before: displacements are compared, not places"))
    return rows


def _policies(result: Replay) -> str:
    name = result.policy or "without a name"
    if not result.recorded_policy:
        return f"{name}; the bag does not say what drove"
    same = name == result.recorded_policy
    return f"{name}, {'as recorded' if same else f'while {result.recorded_policy} was recorded'}"


def _compared(errors: Errors) -> str:
    steps, agreement = int(errors.steps.sum()), errors.gripper_agreement()
    if agreement is None:
        return "no steps"
    return f"{steps} steps, gripper on the same side in {format_fraction(round(agreement * steps), steps)}"


def _actions(result: Replay, found: dict[str, Errors]) -> str:
    action = result.robot.action
    columns = [f"{name} [{unit}]" for name, unit in zip(action.names, units_of(result.robot), strict=True)]
    lines = [["error of an action", *columns]]
    for name, errors in found.items():
        for kind, values in zip(("mean absolute", "root mean square"), errors.overall(), strict=True):
            lines.append([f"{WORDS[name]}, {kind}", *(f"{value:.4f}" for value in values)])
    return _aligned(lines)


def _horizon(result: Replay, found: dict[str, Errors]) -> str:
    lines = [["mean distance after", *(WORDS[name] for name in found)]]
    for step in range(result.robot.action.horizon):
        cells = []
        for errors in found.values():
            far, turned = errors.translation_mm()[step], errors.rotation_deg()[step]
            count = errors.pose_steps[step]
            cells.append(f"{far:.1f} mm {turned:5.1f} deg ({count}x)" if np.isfinite(far) else "-")
        lines.append([f"{(step + 1) * result.robot.action.period_s:.2f} s", *cells])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry: the first one to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
