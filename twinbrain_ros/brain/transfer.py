"""A checkpoint's brains for another robot, other cameras or more words; what acts is fresh, until it is
trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from twinbrain_ros.brain.config import ActionConfig, CameraInput, CheckpointError, TwinBrainConfig
from twinbrain_ros.brain.initial import EMBEDDING, HEAD
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.twin import TwinBrain

if TYPE_CHECKING:
    from twinbrain_ros.robot.robot_file import RobotFile


def transfer(
    source: Path,
    robot: RobotFile,
    cameras: Sequence[str],
    out: Path,
    *,
    pixels: tuple[int, int] | None = None,
    crop: tuple[float, float, float, float] | None = None,
    words: Sequence[str] = (),
    seed: int = 0,
) -> TwinBrainConfig:
    """Writes the checkpoint; it has no statistics until it is trained.

    Both brains stay as they are, the right one with what it has learnt. The action expert is drawn from the
    seed, and so is the state encoder, unless the state is the same. Who takes the state, or nobody, stays.

    Args:
        cameras: of the robot, in order; the left brain sees the first one.
        pixels: width and height at which the brains see them; None: as the source's first camera.
        crop: the part of the first camera's image that they see (`CameraInput`).
        words: that its word-level tokenizer is to know too.
    Raises:
        CheckpointError: pixels do not make whole image tokens, or there is no room for so many words, or the
            right brain takes a state and the robot file lists none.
    """
    policy = TwinBrainPolicy.from_pretrained(source)
    old = policy.config
    width, height = pixels or (old.cameras[0].width, old.cameras[0].height)
    factor = policy.model.layout.factor
    if width % factor or height % factor:
        raise CheckpointError(f"pixels: found {width}x{height}, expected multiples of {factor}")
    state_names = () if old.state_goes_to == "none" else robot.observation.state_names
    if old.state_goes_to == "right" and not state_names:
        raise CheckpointError(
            f"state: robot {robot.name!r} lists none, expected some: the right brain of {source} takes it"
        )
    config = dataclasses.replace(
        old,
        robot=robot.name,
        cameras=tuple(
            CameraInput(name, width, height, None if i else crop) for i, name in enumerate(cameras)
        ),
        left_cameras=tuple(cameras[:1]),
        state_names=state_names,
        action=ActionConfig.of(robot.action),
        embodiments=(),
        action_statistics=None,
        state_statistics=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TwinBrain(config)
        new_rows = _add_words(policy, words)
        for part in ("left", "right"):
            mine, theirs = getattr(model, part), getattr(policy.model, part)
            if mine is not None:
                mine.load_state_dict(_with_rows(theirs.state_dict(), new_rows))
    if model.state_encoder is not None and old.state_names == config.state_names:
        assert policy.model.state_encoder is not None
        model.state_encoder.load_state_dict(policy.model.state_encoder.state_dict())
    transferred = TwinBrainPolicy(model, policy.tokenizer)
    transferred.views = {name: view for name, view in policy.views.items() if name in cameras}
    transferred.save_pretrained(out)
    return config


def _add_words(policy: TwinBrainPolicy, words: Sequence[str]) -> list[int]:
    """The rows of words that the tokenizer did not know."""
    tokenizer = policy.tokenizer
    if tokenizer.unk_token_id is None or not words:
        return []  # a byte-level tokenizer knows every word
    known = tokenizer.get_vocab()
    new = [word for word in dict.fromkeys(words) if word not in known]
    rows = int(policy.config.vlm["text_config"]["vocab_size"])
    if len(tokenizer) + len(new) > rows:
        raise CheckpointError(
            f"words: {len(new)} new ones {new[:5]}, expected at most {rows - len(tokenizer)}: the vocabulary "
            f"has {rows} rows"
        )
    tokenizer.add_tokens(new)
    return [int(tokenizer.convert_tokens_to_ids(word)) for word in new]


def _with_rows(state: dict[str, torch.Tensor], rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """The tensors of a brain; rows of new words start near the mean of all, each a little different."""
    if not rows:
        return state
    original = state[EMBEDDING]
    table = original.clone()
    mean, spread = table.mean(0), table.std(0)
    table[list(rows)] = mean + 0.5 * spread * torch.randn(len(rows), table.shape[1])
    # A tied output head is the same table under another name.
    tied = [name for name in (EMBEDDING, HEAD) if name in state and torch.equal(state[name], original)]
    return {**state, **dict.fromkeys(tied, table)}
