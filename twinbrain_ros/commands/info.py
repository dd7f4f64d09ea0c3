"""`twinbrain info`: what a checkpoint is."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import OK, add_checkpoint, add_json, checkpoint_directory, write_json
from twinbrain_ros.evaluation.results import format_rows

if TYPE_CHECKING:
    from twinbrain_ros.brain.config import TwinBrainConfig

# Of what training left beside the weights, this is too long for a person's eyes; --json has it.
LONG_PROVENANCE = ("config",)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="say what a checkpoint or a config is",
        description="Say what a checkpoint is, or what a config would be: parameters, sizes, robot, cameras "
        "and actions. No weights are loaded.",
    )
    source = parser.add_mutually_exclusive_group()
    add_checkpoint(source)
    source.add_argument(
        "--config",
        "--preset",
        metavar="PRESET_OR_FILE",
        help="name of a preset (qwen3_vl_2b, qwen3_vl_4b, qwen3_vl_8b, qwen2_5_vl_3b, mid, demo), or the "
        "config.json of a checkpoint; its weights need not be there",
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.config is None:
        facts = describe(checkpoint_directory(args.checkpoint))
    else:
        from twinbrain_ros.brain.presets import config_of

        facts = {"config": args.config, **describe_config(config_of(args.config))}
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK


def describe(directory: Path) -> dict[str, Any]:
    """The facts of a checkpoint, whose weights are compared with its config but not read; sizes in bytes."""
    from twinbrain_ros.brain.checkpoint import check_shapes, meta_twin, stored_bytes, weight_files
    from twinbrain_ros.brain.config import TwinBrainConfig
    from twinbrain_ros.training.sources import REPORT_FILE

    config = TwinBrainConfig.load(directory)
    files = weight_files(directory)
    check_shapes(meta_twin(config), files, directory)
    path = directory / REPORT_FILE
    return {
        "checkpoint": str(directory),
        "bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        "stored_bytes": stored_bytes(files),
        **describe_config(config),
        "training": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
    }


def describe_config(config: TwinBrainConfig) -> dict[str, Any]:
    """The facts of a config, counted on the meta device; sizes in bytes, periods in seconds."""
    from twinbrain_ros.brain.checkpoint import meta_twin

    model = meta_twin(config)
    parts = {name: list(part.parameters()) for name, part in model.parts().items()}
    counts = {name: sum(p.numel() for p in part) for name, part in parts.items()}
    frozen = [name for name, part in parts.items() if not any(p.requires_grad for p in part)]
    total, still = sum(counts.values()), sum(counts[name] for name in frozen)
    return {
        "parameters": {
            "total": total,
            "trainable": total - still,
            "frozen": still,
            "parts": counts,
            "frozen_parts": frozen,
            "bytes": {"float32": 4 * total, "bfloat16": 2 * total},
        },
        "robot": config.robot,
        "robots": list(config.robots),
        "cameras": [{k: v for k, v in asdict(c).items() if v is not None} for c in config.cameras],
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
            "left_brain": config.left_brain,
            "conditioning": config.conditioning,
            "expert_reads": config.expert.reads,
            "expert_takes_state": config.expert_takes_state,
            "state_goes_to": config.state_goes_to,
            "query_tokens": config.query_tokens,
            "interaction_interval": config.interaction_interval,
            "left_visibility": config.left_visibility,
            "deepstack": config.deepstack,
            "denoise_steps": config.expert.denoise_steps,
        },
    }


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as lines for a person."""
    parameters, actions, brain = facts["parameters"], facts["actions"], facts["brain"]
    cameras = ", ".join(
        (f"{c['name']} {c['width']}x{c['height']}" if c["width"] else f"{c['name']} as it comes")
        + (f" of its part {list(c['crop'])}" if "crop" in c else "")
        for c in facts["cameras"]
    )
    duration = actions["horizon"] * actions["period_s"]
    asks = brain["conditioning"] == "action_queries"
    condition = (
        f"the states of {brain['query_tokens']} query tokens" if asks else "all states of the right brain"
    )
    if brain["expert_reads"] == "layer_wise":
        condition += ", of another layer in each cross block"
    alone = brain["left_brain"] == "none"
    sees = "no left brain" if alone else f"the left brain sees {', '.join(facts['left_brain_cameras'])}"
    lines: list[tuple[str, str]] = [(key, facts[key]) for key in ("checkpoint", "config") if key in facts]
    if "bytes" in facts:
        stored = ", ".join(f"{size / 1e6:,.1f} MB {dtype}" for dtype, size in facts["stored_bytes"].items())
        lines.append(("size", f"{facts['bytes'] / 1e6:.1f} MB; weights: {stored}"))
    lines += [
        (
            "parameters",
            "{total:,} ({trainable:,} trainable, {frozen:,} frozen)".format(**parameters),
        ),
        *(
            (f"  {name}", f"{count:,} ({'frozen' if name in parameters['frozen_parts'] else 'trainable'})")
            for name, count in parameters["parts"].items()
        ),
        ("memory", ", ".join(f"{size / 1e9:,.2f} GB in {t}" for t, size in parameters["bytes"].items())),
        (
            "brains",
            f"{brain['model_type']}, the right one alone"
            if alone
            else f"{brain['model_type']}, left one {brain['left_brain']}, interaction interval "
            f"{brain['interaction_interval']}, left visibility {brain['left_visibility']}",
        ),
        ("condition", condition),
        (
            "robot",
            facts["robot"]
            if len(facts["robots"]) == 1
            else f"{facts['robot']}; knows {', '.join(facts['robots'])}",
        ),
        ("cameras", f"{cameras}; {sees}"),
        (
            "state",
            (", ".join(facts["state"]) or "none")
            + (" (to the expert)" if facts["state"] and brain["expert_takes_state"] else ""),
        ),
        ("actions", f"{actions['space']} ({actions['composition']}): {', '.join(actions['names'])}"),
        ("chunk", f"{actions['horizon']} steps of {actions['period_s']:g} s ({duration:g} s)"),
        ("denoising", f"{brain['denoise_steps']} Euler steps"),
    ]
    if facts.get("training") is not None:
        provenance = {key: value for key, value in facts["training"].items() if key not in LONG_PROVENANCE}
        lines += [(f"training: {key}", _short(value)) for key, value in provenance.items()]
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
