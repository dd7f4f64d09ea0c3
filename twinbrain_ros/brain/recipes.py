"""How twins of a VLM are set up: as the paper has it for each of its benchmarks, and as its code has it.

What neither the paper (arXiv 2601.14133) nor its appendix says is as in the published code; the table in
docs/training.md marks it. Prompts and system texts are those of appendix E.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinbrain_ros.brain.config import (
    ROBOT,
    STATE_TOKEN,
    STATES,
    CameraInput,
    CheckpointError,
    TwinBrainConfig,
)
from twinbrain_ros.brain.presets import EXPERTS, QUERY_PROMPT, STATE_PROMPT
from twinbrain_ros.brain.pretrained import BaseVlm

INSTRUCTION = "{instruction}"
_LEFT_SYSTEM = (
    "You are a helpful robot brain that can understand images and texts.\n"
    "You will be provided with multiple observation images and an instruction. "
    "Take action to execute the instruction."
)
_RIGHT_SYSTEM = (
    "You are a helpful robot brain that can understand images, texts, and robot states.\n"
    "You will be provided with multiple observation images, an instruction, and the robot state. "
    "Take action to execute the instruction."
)
_SEEN = "The images are the robot observation.\nInstruction: " + INSTRUCTION + "\n"
_WITH_STATE = (
    _SEEN + "Predict the next action for the robot based on the observation, instruction and robot state.\n"
    "State: " + STATE_TOKEN
)
_WITHOUT_STATE = (
    _SEEN + f"Robot Type: {ROBOT}\n"
    "Predict the next action for the robot based on the observation, instruction and robot type."
)
# What the published training files wrap every instruction in, for both brains.
_TASK = (
    "Your task is " + INSTRUCTION + ". To identify the key objects for your task. "
    "Locate their bounding boxes in [x1,y1,x2,y2] format."
)


@dataclass(frozen=True)
class Recipe:
    """The choices about a twin that neither VLM nor robot decide; each is a field of `TwinBrainConfig`.

    states: who may take the state, the usual first; horizon: steps of a chunk, None: the robot file's;
    pixels: edge that images are brought to before the VLM's own processing, None: straight to what fits its
    tower; right_prompt None: the shortest that has what it must; systems None: the VLM's chat format's.
    """

    conditioning: str = "hidden_states"
    states: tuple[str, ...] = STATES
    queries: int = 0
    interaction_interval: int = 0
    deepstack: bool = True
    left_visibility: str = "full"
    expert: str = "dit_b"
    horizon: int | None = None
    pixels: int | None = None
    left_system: str | None = None
    right_system: str | None = None
    left_prompt: str = INSTRUCTION
    right_prompt: str | None = None


_PAPER = Recipe(
    states=("none",),
    horizon=16,
    pixels=224,
    left_system=_LEFT_SYSTEM,
    right_system=_RIGHT_SYSTEM,
    right_prompt=_WITHOUT_STATE,
)
RECIPES = {
    "paper_simplerenv": _PAPER,
    "paper_robocasa": _PAPER,
    "paper_libero": dataclasses.replace(_PAPER, horizon=8),
    "paper_real": dataclasses.replace(_PAPER, states=("right",), horizon=None, right_prompt=_WITH_STATE),
    "published": Recipe(
        conditioning="action_queries",
        states=("expert", "none"),
        queries=8,
        deepstack=False,
        left_visibility="index_causal",
        horizon=16,
        pixels=224,
        left_prompt=_TASK,
        right_prompt=_TASK.replace(INSTRUCTION, QUERY_PROMPT),
    ),
}


def right_prompt(conditioning: str, state: str) -> str:
    """The shortest right prompt that has the tokens it must have."""
    if conditioning == "hidden_states":
        return STATE_PROMPT if state == "right" else INSTRUCTION
    return f"state {STATE_TOKEN} {QUERY_PROMPT}" if state == "right" else QUERY_PROMPT


def follow(config: TwinBrainConfig, base: BaseVlm, recipe: Recipe, state: str) -> TwinBrainConfig:
    """A twin of a base VLM, set up by a recipe; state: one of its `states`.

    Raises CheckpointError where the robot's chunks are of another length, or it lists no state to be taken.
    """
    if recipe.horizon not in (None, config.action.horizon):
        raise CheckpointError(
            f"action.horizon: robot {config.robot!r} has {config.action.horizon}, the recipe {recipe.horizon}"
        )
    if state != "none" and not config.state_names:
        raise CheckpointError(
            f"state: found {state!r}, robot {config.robot!r} lists no state: expected 'none'"
        )
    side, cameras = recipe.pixels, config.cameras
    if side is not None:
        cameras = tuple(CameraInput(camera.name, side, side) for camera in cameras)
    return dataclasses.replace(
        config,
        cameras=cameras,
        state_names=() if state == "none" else config.state_names,
        expert=EXPERTS[recipe.expert],
        conditioning=recipe.conditioning,
        query_tokens=recipe.queries,
        interaction_interval=recipe.interaction_interval,
        deepstack=recipe.deepstack,
        left_visibility=recipe.left_visibility,
        left_system=recipe.left_system or base.system,
        right_system=recipe.right_system or base.system,
        left_prompt=recipe.left_prompt,
        right_prompt=recipe.right_prompt or right_prompt(recipe.conditioning, state),
        image_mean=base.images.mean,
        image_std=base.images.std,
        pixel_limits=None if side is None else base.images.pixel_limits,
    )
