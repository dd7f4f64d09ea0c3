"""`twinbrain info`: what a checkpoint is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import OK, add_json, checkpoint_directory, write_json
from twinbrain_ros.evaluation.results import format_rows

if TYPE_CHECKING:
    from twinbrain_ros.brain.policy import TwinBrainPolicy

# Of what training left beside the weights, this is too long for a person's eyes; --json has it.
LONG_PROVENANCE = ("config",)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="say what a checkpoint is",
        description="Say what a checkpoint is: parameters, size, robot, cameras and actions.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="directory of the checkpoint (default: the one that ships in the package)",
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    directory = checkpoint_directory(args.checkpoint)
    from twinbrain_ros.brain.policy import TwinBrainPolicy

    facts = describe(TwinBrainPolicy.from_pretrained(directory), directory)
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK


def describe(policy: TwinBrainPolicy, directory: Path) -> dict[str, Any]:
    """The facts of a loaded checkpoint; sizes in bytes, periods in seconds."""
    from twinbrain_ros.training.run import REPORT_FILE

    config = policy.config
    parts, total, trainable = {}, 0, 0
    for name, part in policy.model.parts().items():
        count = sum(parameter.numel() for parameter in part.parameters())
        parts[name] = count
        total += count
        trainable += sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
    provenance_path = directory / REPORT_FILE
    provenance = (
        json.loads(provenance_path.read_text(encoding="utf-8")) if provenance_path.is_file() else None
    )
    return {
        "checkpoint": str(directory),
        "bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        "parameters": {"total": total, "trainable": trainable, "frozen": total - trainable, "parts": parts},
        "robot": config.robot,
        "cameras": [{"name": c.name, "width": c.width, "height": c.height} for c in config.cameras],
        "left_brain_cameras": list(config.left_cameras),
        "state": list(config.state_names),
        "actions": {
            "space": config.action.space,
            "composition": config.action.composition,
            "names": list(config.action.names),
            "horizon": config.action.horizon,
            "period_s": config.action.period_s,
        },
        "brain": {
            "model_type": config.vlm["model_type"],
            "interaction_interval": config.interaction_interval,
            "denoise_steps": config.expert.denoise_steps,
        },
        "training": provenance,
    }


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as lines for a person."""
    parameters, actions, brain = facts["parameters"], facts["actions"], facts["brain"]
    cameras = ", ".join(f"{c['name']} {c['width']}x{c['height']}" for c in facts["cameras"])
    duration = actions["horizon"] * actions["period_s"]
    lines = [
        ("checkpoint", facts["checkpoint"]),
        ("size", f"{facts['bytes'] / 1e6:.1f} MB"),
        (
            "parameters",
            "{total:,} ({trainable:,} trainable, {frozen:,} frozen)".format(**parameters),
        ),
        *((f"  {name}", f"{count:,}") for name, count in parameters["parts"].items()),
        ("brains", f"{brain['model_type']}, interaction interval {brain['interaction_interval']}"),
        ("robot", facts["robot"]),
        ("cameras", f"{cameras}; the left brain sees {', '.join(facts['left_brain_cameras'])}"),
        ("state", ", ".join(facts["state"])),
        ("actions", f"{actions['space']} ({actions['composition']}): {', '.join(actions['names'])}"),
        ("chunk", f"{actions['horizon']} steps of {actions['period_s']:g} s ({duration:g} s)"),
        ("denoising", f"{brain['denoise_steps']} Euler steps"),
    ]
    if facts["training"] is not None:
        provenance = {key: value for key, value in facts["training"].items() if key not in LONG_PROVENANCE}
        lines += [(f"training: {key}", _short(value)) for key, value in provenance.items()]
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
