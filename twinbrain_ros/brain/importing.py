"""A published run as a checkpoint of ours: `twinbrain import-checkpoint`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from twinbrain_ros.brain import published
from twinbrain_ros.brain.checkpoint import WeightsWriter, is_stored, meta_twin, refuse
from twinbrain_ros.brain.config import (
    PAD_STATE,
    ActionConfig,
    CameraInput,
    CheckpointError,
    ExpertConfig,
    TwinBrainConfig,
)
from twinbrain_ros.brain.presets import QUERY_PROMPT
from twinbrain_ros.brain.pretrained import BaseVlm, load_base
from twinbrain_ros.brain.published import RunConfig, Weights

if TYPE_CHECKING:
    from twinbrain_ros.robot.robot_file import RobotFile

IMPORT_FILE = "import.json"
FAMILY_NAMES = {"qwen3_vl": "Qwen3-VL", "qwen2_5_vl": "Qwen2.5-VL"}  # as in paths of base VLMs
# Heads and their width by the name of a head's size; the run's diffusion_model_cfg may say otherwise.
HEAD_SIZES = {"DiT-B": 12, "DiT-L": 32}
INSTRUCTION = "{instruction}"


@dataclass(frozen=True)
class Imported:
    """What an import made: its config, where it came from, and what its user should know."""

    config: TwinBrainConfig
    weights: Path
    statistics_key: str
    remarks: tuple[str, ...]


def import_checkpoint(
    run: Path,
    base: str,
    robot: RobotFile,
    out: Path,
    *,
    cameras: tuple[str, ...] | None = None,
    statistics_key: str | None = None,
    normalization: str = "q99",
) -> Imported:
    """Reads a run of the published layout and writes a checkpoint of ours for a robot.

    cameras: names of the robot's cameras that the policy shall see, in order (default: those that see the
    scene from outside, else all). Raises CheckpointError that names what cannot be represented or does not
    match; `out` is written only when all does.
    """
    source = RunConfig(run)
    weights = Weights(published.find_weights(run))
    vlm = load_base(base)
    _check_base(source, weights, vlm, base)
    key, statistics = published.load_statistics(run, statistics_key)
    config = _config(source, weights, vlm, robot, _cameras(robot, cameras))
    where = f"{run / published.STATISTICS}: {key}"
    statistics_of = {
        f"{kind}_statistics": published.normalizer(statistics, kind, names, normalization, where)
        for kind, names in (("action", config.action.names), ("state", config.state_names))
        if names
    }
    config = dataclasses.replace(config, **statistics_of)  # type: ignore[arg-type]
    names = _names(weights, config)
    out.mkdir(parents=True, exist_ok=True)
    with WeightsWriter(out) as writer:
        for theirs, ours in names.items():
            tensor = published.our_tensor(ours, weights[theirs], config.action.horizon)
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{weights.path}: tensor {theirs}: has non-finite values")
            writer.add(ours, tensor)
    config.save(out)
    vlm.tokenizer.save_pretrained(out)
    report = Imported(config, weights.path, key, _remarks(config, robot))
    origin = {"run": str(run), "weights": weights.path.name, "base": base, "statistics": key}
    (out / IMPORT_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return report


def _check_base(source: RunConfig, weights: Weights, vlm: BaseVlm, base: str) -> None:
    """The base VLM must be the one the run was made from: family, widths, depth, vocabulary."""
    named = str(source.get("framework.qwenvl.base_vlm", ""))
    family = FAMILY_NAMES[vlm.family]
    if any(n in named for n in FAMILY_NAMES.values()) and family not in named:
        raise source.error("framework.qwenvl.base_vlm", named, f"{family}, the family of {base}")
    text = vlm.vlm["text_config"]
    prefix = "qwen_vl_interface.frozen_vlm.model."
    table = weights.shapes.get(f"{prefix}model.language_model.embed_tokens.weight")
    if table is None:
        raise CheckpointError(
            f"{weights.path}: missing tensor {prefix}model.language_model.embed_tokens.weight"
        )
    layers = {
        n.split(".layers.")[1].split(".")[0]
        for n in weights.shapes
        if n.startswith(prefix) and ".layers." in n
    }
    for key, found, expected in (
        ("text_config.vocab_size", table[0], text["vocab_size"]),
        ("text_config.hidden_size", table[1], text["hidden_size"]),
        ("text_config.num_hidden_layers", len(layers), text["num_hidden_layers"]),
    ):
        if found != expected:
            raise CheckpointError(f"{weights.path}: {key}: found {found}, the base VLM {base} has {expected}")


def _cameras(robot: RobotFile, names: tuple[str, ...] | None) -> tuple[str, ...]:
    known = [c.name for c in robot.cameras]
    unknown = [n for n in names or () if n not in known]
    if unknown:
        raise CheckpointError(f"cameras: found {unknown}, robot {robot.name!r} has {known}")
    return names or tuple(c.name for c in robot.cameras if c.role == "third_person") or tuple(known)


def _config(
    source: RunConfig, weights: Weights, vlm: BaseVlm, robot: RobotFile, cameras: tuple[str, ...]
) -> TwinBrainConfig:
    """The run's config.yaml in our terms, without statistics."""
    head = "framework.action_model"
    source.expect("doublevla.enable_image_bidir_mask", False, default=False)
    horizon = source.integer(
        f"{head}.action_horizon", source.get(f"{head}.future_action_window_size", 15) + 1
    )
    dims = source.integer(f"{head}.action_dim")
    action = robot.action
    if dims != len(action.names):
        raise source.error(
            f"{head}.action_dim", dims, f"{len(action.names)}, as robot {robot.name!r} has {action.names}"
        )
    queries = source.integer("doublevla.action_query_token_num", 8)
    cot = source.get("datasets.vla_data.CoT_prompt", INSTRUCTION)
    if not isinstance(cot, str):
        raise source.error("datasets.vla_data.CoT_prompt", cot, "a text")
    width, height = _image_size(source)
    right = weights.shapes.get(
        "qwen_vl_interface.trainable_vlm.model.model.language_model.embed_tokens.weight"
    )
    return TwinBrainConfig(
        vlm=vlm.vlm,
        robot=robot.name,
        cameras=tuple(CameraInput(n, width, height) for n in cameras),
        left_cameras=cameras,
        state_names=_state_names(source, robot),
        action=dataclasses.replace(ActionConfig.of(robot.action), horizon=horizon),
        expert=_expert(source, weights),
        state_hidden=_rows(weights, "state_encoder.layer1.weight", 1),
        conditioning="action_queries",
        query_tokens=queries,
        condition_layers=_condition_layers(source, vlm.vlm["text_config"]["num_hidden_layers"]),
        left_visibility="index_causal",
        deepstack=False,
        left_system=vlm.system,
        right_system=vlm.system,
        left_prompt=cot,
        right_prompt=cot.replace(INSTRUCTION, QUERY_PROMPT),
        right_vocab_size=right[0] if right else None,
        image_mean=vlm.images.mean,
        image_std=vlm.images.std,
        pixel_limits=vlm.images.pixel_limits,
        any_views=True,
        send_state=source.flag("datasets.vla_data.include_state"),
    )


def _image_size(source: RunConfig) -> tuple[int, int]:
    """Width and height that images get before the processor; 0, 0 for their own."""
    size = source.get("datasets.vla_data.image_size")
    if size is None:
        return 0, 0
    if not isinstance(size, list) or len(size) != 2 or any(not isinstance(s, int) or s < 1 for s in size):
        raise source.error("datasets.vla_data.image_size", size, "[width, height] in pixels")
    return size[0], size[1]


def _state_names(source: RunConfig, robot: RobotFile) -> tuple[str, ...]:
    """Names of the model's state, which may hold a pad before the gripper that robots lack (BridgeData)."""
    dims = source.get("framework.action_model.state_dim")
    if not dims:
        return ()
    names = tuple(robot.observation.state_names)
    if not names:
        raise source.error(
            "framework.action_model.state_dim", dims, f"0, as robot {robot.name!r} lists no state"
        )
    padded = (*names[:-1], PAD_STATE, names[-1])
    for known in (names, padded):
        if dims == len(known):
            return known
    raise source.error(
        "framework.action_model.state_dim", dims, f"{len(names)} or {len(padded)}, for {padded}"
    )


def _condition_layers(source: RunConfig, layers: int) -> int | None:
    """How many layers are run for the selected hidden state; index 0 is what the first layer gives."""
    selected = source.integer("doublevla.hidden_states_selected_layer", -1)
    index = min(max(selected + layers if selected < 0 else selected, 0), layers - 1)
    return None if index == layers - 1 else index + 1


def _rows(weights: Weights, name: str, default: int) -> int:
    return weights.shapes.get(f"action_model.{name}", (default,))[0]


def _expert(source: RunConfig, weights: Weights) -> ExpertConfig:
    """The head's sizes, from its tensors; what they cannot say, from the config."""
    head = "framework.action_model"
    dit = f"{head}.diffusion_model_cfg"
    source.expect(f"{dit}.norm_type", "ada_norm", default="ada_norm")
    source.expect(f"{dit}.interleave_self_attention", True, default=True)
    source.expect(f"{dit}.positional_embeddings", None)
    source.expect(f"{head}.add_pos_embed", True, default=True)
    size = source.get(f"{head}.action_model_type", "DiT-B")
    heads = source.get(f"{dit}.num_attention_heads", HEAD_SIZES.get(size))
    if heads is None:
        raise source.error(f"{head}.action_model_type", size, " or ".join(HEAD_SIZES))
    width = _rows(weights, "action_encoder.layer1.weight", 0)
    blocks = {
        n.split(".")[3] for n in weights.shapes if n.startswith("action_model.model.transformer_blocks.")
    }
    if not width or not blocks:
        raise CheckpointError(f"{weights.path}: missing tensor action_model.action_encoder.layer1.weight")
    for key, found in (("num_layers", len(blocks)), ("input_embedding_dim", width)):
        source.expect(f"{dit}.{key}", found, default=found)
    return ExpertConfig(
        width=width,
        heads=heads,
        layers=len(blocks),
        ff_mult=_rows(weights, "model.transformer_blocks.0.ff.net.0.proj.weight", width) // width,
        future_tokens=_rows(weights, "future_tokens.weight", 0),
        denoise_steps=source.integer(f"{head}.num_inference_timesteps", 4),
        prediction="velocity",
        time_buckets=source.integer(f"{head}.num_timestep_buckets", 1000),
        output_width=_rows(weights, "model.proj_out_2.weight", width),
        decoder_width=_rows(weights, "action_decoder.layer1.weight", width),
        time_frequency_shift=1,
    )


def _names(weights: Weights, config: TwinBrainConfig) -> dict[str, str]:
    """Their names to ours, for exactly the tensors that our model has; shapes are compared."""
    expected = {n: tuple(p.shape) for n, p in meta_twin(config).named_parameters()}
    names: dict[str, str] = {}
    problems = []
    for theirs, shape in weights.shapes.items():
        try:
            ours = published.our_name(theirs)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if ours is None or not is_stored(ours, config):
            continue
        names[theirs] = ours
        if ours not in expected:
            problems.append(f"unexpected tensor {theirs}")
        elif shape != expected[ours] and not (ours == "expert.position" and shape[0] >= expected[ours][0]):
            problems.append(f"tensor {theirs}: found shape {shape}, expected {expected[ours]}")
    have = set(names.values())
    problems += [f"missing tensor for {n}" for n in expected if n not in have and is_stored(n, config)]
    refuse(weights.path, problems)
    return names


def _remarks(config: TwinBrainConfig, robot: RobotFile) -> tuple[str, ...]:
    """What a user has to change before this runs on the robot, or should know."""
    found = []
    if config.action.horizon != robot.action.horizon:
        found.append(
            f"the robot file {robot.name!r} has action.horizon {robot.action.horizon}, this checkpoint "
            f"{config.action.horizon}: set it there before the policy node is configured"
        )
    if config.state_names and not config.send_state:
        found.append("the run was trained without the state (include_state): the policy node sends none")
    if config.state_names and config.state_statistics is None:
        found.append("the statistics have no state: a state can be given in normalised units only")
    return tuple(found)
