"""A twin with random weights and an observation for it, for measurements that need no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinbrain_ros.brain.checkpoint import meta_twin, with_memory
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.engine import View, view_of
from twinbrain_ros.brain.prompt import Prompt, token_positions
from twinbrain_ros.brain.twin import TwinBrain

RAW_HEIGHT, RAW_WIDTH = 480, 640  # of the cameras' own images, pixels
# Tokens of a prompt beside those of its images and the two around each: as many as the published prompts
# have with an instruction of a dozen words. The chat format's own are among them.
LEFT_WORDS, RIGHT_WORDS = 28, 49
HEAD_WORDS, TAIL_WORDS = 3, 5
# Tables whose rows are added to, or start, a stream of unit scale.
TABLES = ("embed_tokens.weight", "pos_embed.weight", "expert.position", "expert.future")
_TEXT, _IMAGE, _QUERY, _STATE = range(4)


@dataclass(frozen=True)
class Workload:
    """One observation: images uint8 [1, H, W, 3] by camera and how they are seen, state [1, S] in model units
    (None for a twin that goes without), noise [1, T, A], and left and right prompt."""

    images: dict[str, Tensor]
    views: tuple[View, ...]
    state: Tensor | None
    noise: Tensor
    prompts: tuple[Prompt, Prompt]


@torch.no_grad()
def random_twin(
    config: TwinBrainConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> TwinBrain:
    """A twin in eval mode with random weights under which every part matters to the actions.

    With the small weights that training starts from, images and words would hardly change an action. Here
    every product keeps the scale of what it is given (variance 1 / inputs), so that no depth explodes.
    """
    model = meta_twin(config)
    with_memory(model, device, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            spread = 0.5 if name.endswith(TABLES) else parameter[0].numel() ** -0.5
        elif name.endswith("bias"):
            spread = 0.05
        else:
            parameter.fill_(1.0)
            continue
        edge = 3**0.5 * spread  # uniform numbers are drawn faster than normal ones
        parameter.uniform_(-edge, edge, generator=generator)
    return model.eval()


@torch.no_grad()
def twin_as(model: TwinBrain, dtype: torch.dtype) -> TwinBrain:
    """The same twin with weights of this type: itself, or a copy."""
    first = next(model.parameters())
    if first.dtype == dtype:
        return model
    copy = meta_twin(model.config)
    with_memory(copy, first.device, dtype)
    for own, given in zip(copy.parameters(), model.parameters(), strict=True):
        own.copy_(given)
    return copy.eval()


def random_workload(model: TwinBrain, seed: int = 0) -> Workload:
    """A random observation of all the config's cameras.

    Raises ValueError if a camera's images, taken as they come, do not fit the vision tower.
    """
    config, device = model.config, next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    raw = {
        c.name: torch.randint(0, 256, (1, RAW_HEIGHT, RAW_WIDTH, 3), generator=rng, dtype=torch.uint8)
        for c in config.cameras
    }
    views = tuple(
        view_of(c, RAW_HEIGHT, RAW_WIDTH, model.layout, config.pixel_limits) for c in config.cameras
    )
    grids = {view.name: model.layout.merged_grid(*view.steps[-1]) for view in views}
    state = torch.randn(1, len(config.state_names), generator=rng).to(device) if config.takes_state else None
    noise = torch.randn(1, config.action.horizon, len(config.action.names), generator=rng)
    return Workload(
        {name: image.to(device) for name, image in raw.items()},
        views,
        state,
        noise.to(device),
        (
            _prompt(config, [grids[n] for n in config.left_cameras], LEFT_WORDS, rng),
            _prompt(config, list(grids.values()), RIGHT_WORDS, rng, right=True),
        ),
    )


def _prompt(
    config: TwinBrainConfig,
    grids: Sequence[tuple[int, int]],
    words: int,
    rng: torch.Generator,
    right: bool = False,
) -> Prompt:
    """Random words around images of these merged grids, with slots as the config's prompts have them."""
    queries = config.query_tokens if right else 0
    vlm = config.vlm_config()
    image_id, vocabulary = vlm.image_token_id, vlm.get_text_config().vocab_size
    images = [kind for rows, cols in grids for kind in (_TEXT, *[_IMAGE] * (rows * cols), _TEXT)]
    free = max(2, words - HEAD_WORDS - TAIL_WORDS - 2 * queries)
    text = [_TEXT] * free + [_QUERY, _TEXT] * queries
    if right and config.state_goes_to == "right":
        text[1] = _STATE
    content = images + text if config.images_first else text + images
    kinds = torch.tensor([_TEXT] * HEAD_WORDS + content + [_TEXT] * TAIL_WORDS)
    ids = torch.randint(0, vocabulary - 1, kinds.shape, generator=rng)
    ids += ids >= image_id  # any word but the image's
    ids[kinds == _IMAGE] = image_id
    images_at, queries_at, state_at = ((kinds == k).nonzero()[:, 0] for k in (_IMAGE, _QUERY, _STATE))
    state = int(state_at[0]) if len(state_at) else -1
    return Prompt(ids, token_positions(ids, image_id, grids), images_at, queries_at, state)
