"""Puts the questions of a file to the brains of a checkpoint, and to the VLM that they were made from."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from twinbrain_ros.brain.checkpoint import load_tokenizer
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.fingerprint import checkpoint_name
from twinbrain_ros.brain.generalist import Answer, Generalist
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.pretrained import BaseVlm, load_base, weights_folder
from twinbrain_ros.brain.query import Query, QueryBuilder
from twinbrain_ros.brain.stock import StockVlm, check_same_vlm, equal_weights
from twinbrain_ros.evaluation.question_results import LEFT, RIGHT, STOCK, AnswerLog, Protocol, Said, report
from twinbrain_ros.evaluation.questions import SUFFIXES, Question, QuestionError, QuestionFile

MAX_CHARACTERS = 20_000  # of a question: some come with a page of text
Ask = Callable[[Sequence[Query], int], list[Answer]]


@dataclass(frozen=True)
class Options:
    """How questions are asked.

    vlm: folder or hub id of the stock VLM, None for none; limit: only so many questions, the first ones;
    batch: so many at once; pixel_limits: None for the VLM's own, or without one the checkpoint's rule;
    suffix: None for the layout's own.
    """

    device: str = "cpu"
    dtype: str = "float32"
    vlm: str | None = None
    limit: int | None = None
    batch: int = 8
    max_tokens: int = 32
    pixel_limits: tuple[int, int] | None = None
    suffix: str | None = None


class QuestionRun:
    """Everything about a run but its weights: made, and refused, before they are loaded.

    Raises:
        QuestionError: a question that these brains cannot read or see, by its line.
        CheckpointError: the checkpoint or the VLM cannot be used, or does not belong to the other.
    """

    def __init__(
        self,
        file: QuestionFile,
        checkpoint: Path,
        options: Options,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tell = tell
        self.file, self.checkpoint, self.options = file, checkpoint, options
        self.questions = file.questions[: options.limit]
        self.config = TwinBrainConfig.load(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        self.base: BaseVlm | None = None
        limits = options.pixel_limits
        if options.vlm is not None:
            self.base = load_base(options.vlm)
            check_same_vlm(self.config, self.base, f"--vlm {options.vlm}")
            limits = limits or self.base.images.pixel_limits
        self._suffix = SUFFIXES[file.layout] if options.suffix is None else options.suffix
        self._builder = QueryBuilder(self.config, tokenizer, options.device, limits, MAX_CHARACTERS)
        self.pixel_limits = limits
        self.protocol = Protocol(
            file.layout, file.digest, self._suffix, self._pixels(), options.max_tokens, options.dtype
        )
        self._batches = self._grouped()
        self.names: dict[str, str | None] = {  # last: a VLM from the hub is fetched for it
            "checkpoint": checkpoint_name(checkpoint),
            "stock": None if options.vlm is None else checkpoint_name(weights_folder(options.vlm)),
        }

    @property
    def brains(self) -> tuple[str, ...]:
        """Those of the checkpoint, then the stock one."""
        own = (RIGHT,) if self.config.left_brain == "none" else (LEFT, RIGHT)
        return own if self.base is None else (*own, STOCK)

    def _pixels(self) -> str:
        if self.pixel_limits or self.config.pixel_limits:
            return "{}-{}".format(*(self.pixel_limits or self.config.pixel_limits or ()))
        cameras = {camera.name: camera for camera in self.config.cameras}
        return ", ".join(f"{cameras[n].width}x{cameras[n].height}" for n in self._builder.cameras)

    def _grouped(self) -> list[list[Question]]:
        """Questions whose pictures are seen at one size, by length: the same batches at every call."""
        groups: dict[Any, list[tuple[int, int, Question]]] = defaultdict(list)
        for i, question in enumerate(self.questions):
            try:
                sizes = self._builder.sizes(self.file.sizes[question.id])
                words = self._words(self._builder.check(self._text(question)))
            except ValueError as error:
                raise QuestionError(f"{self.file.path}:{question.line}: {error}") from error
            groups[sizes].append((words, i, question))
        size = self.options.batch
        return [
            [question for *_, question in group[start : start + size]]
            for group in map(sorted, groups.values())
            for start in range(0, len(group), size)
        ]

    def _words(self, text: str) -> int:
        """How many tokens a text has. Raises ValueError where the stock tokenizer makes others of it."""
        mine = self._builder.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.base is not None:
            theirs = self.base.tokenizer(text, add_special_tokens=False)["input_ids"]
            if mine != theirs:
                raise ValueError(
                    f"question: found the tokens {theirs[:5]}.. by --vlm's tokenizer, expected those of the "
                    f"checkpoint's, {mine[:5]}.."
                )
        return len(mine)

    def _text(self, question: Question) -> str:
        return question.text + self._suffix

    def run(self, log: AnswerLog) -> dict[str, Any]:
        """Asks whatever the log does not hold yet; returns the results.

        The twin is let go of before the stock VLM is loaded: they need not fit beside each other.
        """
        options, weights = self.options, None
        if options.vlm is not None and LEFT in self.brains:
            differing, count = equal_weights(self.checkpoint, self.config, options.vlm)
            weights = {"tensors": count, "equal": count - len(differing), "differing": differing}
        own = [brain for brain in self.brains if brain != STOCK]
        if any(self._missing(brain, log) for brain in own):
            policy = TwinBrainPolicy.from_pretrained(
                self.checkpoint, options.device, options.dtype, tell=self._tell
            )
            for brain in own:
                self._ask(brain, Generalist(policy, brain).ask_batch, log)
            del policy
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.base is not None and self._missing(STOCK, log):
            assert options.vlm is not None
            stock = StockVlm(options.vlm, self.base, options.device, options.dtype)
            self._ask(STOCK, stock.ask_batch, log)
        return {
            **self.names,
            "protocol": asdict(self.protocol),
            "batch": options.batch,
            "weights": weights,
            **report(self.file, self.questions, log, self.brains),
        }

    def _missing(self, brain: str, log: AnswerLog) -> int:
        return sum((brain, question.id) not in log.answers for question in self.questions)

    def _ask(self, brain: str, ask: Ask, log: AnswerLog) -> None:
        done = len(self.questions) - self._missing(brain, log)
        with tqdm(desc=brain, total=len(self.questions), initial=done, unit="question") as bar:
            for batch in self._batches:
                left = [question for question in batch if (brain, question.id) not in log.answers]
                if not left:
                    continue
                queries = [self._builder.build([p.load() for p in q.pictures], self._text(q)) for q in left]
                answers = ask(queries, self.options.max_tokens)
                log.add([Said.of(brain, q, a) for q, a in zip(left, answers, strict=True)])
                bar.update(len(left))
