"""Teaching a small VLM to see, before it becomes both brains of a twin.

Questions alone teach it, but late: for long it only learns how often each answer is right. So every image
token is also asked what lies in its cell, and whether that is what the question is about. It is asked
half-way up, so that the layers above can pass on what it has found; that head is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twinbrain_ros.brain import backbone, decoder
from twinbrain_ros.brain.asymot import causal_mask
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.preprocess import patchify
from twinbrain_ros.brain.prompt import PromptBuilder, collate
from twinbrain_ros.brain.vision import VisionPlans, vision_features
from twinbrain_ros.sim.tasks import COLOURS
from twinbrain_ros.training.batch import WHOLE, Share
from twinbrain_ros.training.dataset import Demonstrations, cells_and_offsets
from twinbrain_ros.training.loop import LoopConfig, train_loop
from twinbrain_ros.training.losses import GroundingHead
from twinbrain_ros.training.processes import mean_over
from twinbrain_ros.training.questions import KINDS, Question, QuestionMaker

SEEING_WEIGHT = 0.3
THINGS = [f"{colour} {kind}" for kind in ("block", "plate") for colour in COLOURS]
HELD_OUT_FRAMES = 1_000  # the last frames of a data set are never trained on
QUESTIONS_PER_VIEW = 4  # the vision tower looks once for all of them


@dataclass(frozen=True)
class Questions:
    """A share of the questions of a step."""

    questions: list[Question]
    share: Share


class VlmTeacher:
    """Cross-entropy on answers, for one view and one question at a time."""

    def __init__(self, vlm: Any, tokenizer: Any, data: Demonstrations, config: TwinBrainConfig) -> None:
        self.vlm = vlm
        self.tokenizer = tokenizer
        self.data = data
        self.layout = backbone.patch_layout(config.vlm_config())
        self.plans = VisionPlans()
        self.cameras = {c.name: c for c in config.cameras}
        self.maker = QuestionMaker(data, config.cameras)
        self.builders = {
            c.name: PromptBuilder(
                tokenizer, [self.layout.merged_grid(c.height, c.width)], config.images_first
            )
            for c in config.cameras
        }
        hidden = config.vlm_config().get_text_config().hidden_size
        self.head = GroundingHead(hidden, things=len(THINGS) + 1)

    @property
    def device(self) -> torch.device:
        return next(iter(self.vlm.parameters())).device

    def losses_and_hits(
        self, questions: list[Question], per_view: int = 1, share: Share = WHOLE
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses on answers and on what cells show; per question whether its answer was the likeliest.

        `per_view` questions in a row are about the same view. Answers differ in length: each of their tokens
        counts alike in whichever share it is.
        """
        questions = sorted(questions, key=lambda q: q.camera)
        views = questions[::per_view]
        features = torch.cat([self._features(name, views) for name in sorted({q.camera for q in views})])
        features = features.repeat_interleave(per_view, dim=0)
        prompts = [self.builders[q.camera].build(q.text, q.answer) for q in questions]
        batch = collate(prompts, self.tokenizer.pad_token_id).to(self.device)
        side = decoder.prepare_side(self.vlm, batch, causal_mask(batch.valid))
        text = self.vlm.model.language_model
        half, depth = (len(text.layers) + 1) // 2, len(text.layers)
        middle = decoder.run_layers(self.vlm, side, decoder.fill(side, features, None), None, range(half))
        hidden = text.norm(decoder.run_layers(self.vlm, side, middle, None, range(half, depth)))
        # The answer and the end of turn are the last tokens of a prompt.
        lengths = batch.valid.sum(1)
        counts = [len(self.builders[q.camera].ids(q.answer)) + 1 for q in questions]
        index = torch.arange(batch.ids.shape[1], device=self.device)[None]
        starts = lengths - torch.tensor(counts, device=self.device)
        wanted = (index >= starts[:, None]) & (index < lengths[:, None])
        logits = F.linear(hidden[:, :-1][wanted[:, 1:]], self.vlm.get_input_embeddings().weight)
        targets = batch.ids[:, 1:][wanted[:, 1:]]
        owner = wanted[:, 1:].nonzero()[:, 0]
        wrong = (logits.argmax(-1) != targets).float()
        misses = torch.zeros(len(questions), device=self.device).index_add(0, owner, wrong)
        slots = batch.image_slots[..., None].expand(-1, -1, hidden.shape[-1])
        things = (t.to(self.device) for t in self._things_in_view(questions))
        seeing = self.head(middle.gather(1, slots), *things)
        count = mean_over(share, torch.tensor(float(len(targets)), device=self.device))
        answers = F.cross_entropy(logits, targets, reduction="sum") / count
        return {"answers": answers, "seeing": SEEING_WEIGHT * seeing}, misses == 0

    def _things_in_view(self, questions: list[Question]) -> tuple[Tensor, Tensor]:
        """Cells [B, T] and offsets [B, T, 2] of every colour of block and plate, then of what is asked."""
        parts = [self._things(c, [q for q in questions if q.camera == c]) for c in sorted(self.cameras)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _things(self, camera: str, questions: list[Question]) -> tuple[Tensor, Tensor]:
        arrays, rows = self.data.arrays, [q.row for q in questions]
        kinds = np.array([THINGS.index(f"{COLOURS[0]} {kind}") for kind in KINDS])
        classes = arrays["colours"][rows] + kinds
        things = np.full((len(rows), len(THINGS) + 1), -1)
        things[:, -1] = [q.asked for q in questions]
        np.put_along_axis(things, classes, np.arange(len(KINDS))[None].repeat(len(rows), 0), axis=1)
        pixels = arrays[f"pixels_{camera}"][rows]
        return cells_and_offsets(pixels, things, self.cameras[camera], self.layout.factor)

    def _features(self, camera: str, questions: list[Question]) -> Tensor:
        rows = [q.row for q in questions if q.camera == camera]
        images = torch.from_numpy(self.data.arrays[f"image_{camera}"][rows]).to(self.device)
        visual = self.vlm.model.visual
        plan = self.plans(visual, *self.layout.grid(*images.shape[1:3]), len(images), images.device)
        return vision_features(visual, patchify(images, self.layout), plan)[0]

    def questions(self, seed: int, step: int, size: int, share: Share = WHOLE) -> Questions:
        """The `size` questions, a multiple of QUESTIONS_PER_VIEW, of a share of a step's global batch."""
        rng = np.random.default_rng([seed, step])
        views = size // QUESTIONS_PER_VIEW * share.count
        rows = rng.integers(0, self.data.size - HELD_OUT_FRAMES, views)
        return Questions(self.maker.draw(rng, rows, QUESTIONS_PER_VIEW)[share.of(size)], share)

    def losses(self, drawn: Questions) -> dict[str, Tensor]:
        """Of a share; their means over all shares are the global batch's."""
        return self.losses_and_hits(drawn.questions, QUESTIONS_PER_VIEW, drawn.share)[0]

    @torch.no_grad()
    def accuracy(self, seed: int = 1, count: int = 1_000) -> dict[str, float]:
        """Share of held-out questions answered exactly, per kind and in all."""
        rng = np.random.default_rng(seed)
        rows = rng.integers(self.data.size - HELD_OUT_FRAMES, self.data.size, count)
        questions = sorted(self.maker.draw(rng, rows), key=lambda q: q.camera)
        hits = torch.cat([self.losses_and_hits(questions[i : i + 100])[1] for i in range(0, count, 100)])
        kinds = [" ".join(q.text.split()[:2]) for q in questions]
        out = {
            k: float(hits[[i for i, x in enumerate(kinds) if x == k]].float().mean())
            for k in sorted(set(kinds))
        }
        return {**out, "all": float(hits.float().mean())}


def teach_vlm(
    tokenizer: Any,
    data: Demonstrations,
    twin: TwinBrainConfig,
    config: LoopConfig,
    out: Path,
    stoppable: bool = False,
) -> tuple[Any, dict[str, float]]:
    """A fresh VLM, taught on questions; returns it with its held-out accuracies."""
    torch.manual_seed(config.seed)
    vlm = backbone.build_vlm(twin.vlm_config())
    teacher = VlmTeacher(vlm, tokenizer, data, twin)
    train_loop(
        "vlm",
        vlm,
        lambda drawn, step: teacher.losses(drawn),
        lambda step, share: teacher.questions(config.seed, step, config.batch_size, share),
        config,
        out,
        extra=[teacher.head],
        stoppable=stoppable,
    )
    return vlm, teacher.accuracy()
