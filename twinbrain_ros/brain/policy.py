"""A TwinBrain checkpoint as a policy: pixels, words and state in, an action chunk in robot units out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twinbrain_ros.brain import checkpoint
from twinbrain_ros.brain.asymot import LeftMemory
from twinbrain_ros.brain.config import (
    PAD_STATE,
    CameraInput,
    CheckpointError,
    TwinBrainConfig,
)
from twinbrain_ros.brain.devices import find_device, send, usual_dtype
from twinbrain_ros.brain.engine import Size, TwinEngine, View, view_of
from twinbrain_ros.brain.fingerprint import checkpoint_name
from twinbrain_ros.brain.fitting import check_fits
from twinbrain_ros.brain.memory import memory_told
from twinbrain_ros.brain.preprocess import check_image
from twinbrain_ros.brain.prompt import (
    Prompt,
    PromptBatch,
    check_instruction,
    collate,
)
from twinbrain_ros.brain.realtime import MOST_GUIDANCE, Target
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.brain.twin_prompts import TwinPrompts
from twinbrain_ros.brain.units import RobotUnits, Units
from twinbrain_ros.data.views import TrainedView, load_views, save_views

if TYPE_CHECKING:
    from twinbrain_ros.robot.chunk import Guide
    from twinbrain_ros.robot.robot_file import RobotFile

WARM_UP_WORDS = 32  # on CUDA, graphs are recorded for instructions of up to so many words
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TwinBrainPolicy:
    """Weights, tokenizer and statistics together. Not thread-safe: one caller at a time.

    name: which checkpoint it is (`brain/fingerprint.py`), "" if it came from none.
    views: what it was trained to see of each camera, as far as that is known (`data/views.py`).
    guidance: most that a chunk is drawn to a guide in one step of the flow (`brain/realtime.py`).
    left_period_s: the left brain runs again only when what it remembers is this old [s], or the instruction
    is a new one; 0 runs it for every chunk. The right brain always sees the newest images.
    """

    def __init__(
        self, model: TwinBrain, tokenizer: Any, device: str | None = None, graphs: bool | None = None
    ) -> None:
        self.config = config = model.config
        self.tokenizer = tokenizer
        self.model = (model if device is None else model.to(device)).eval()
        self.device = next(model.parameters()).device
        self.engine = TwinEngine(self.model, graphs)
        self.name = ""
        self.views: dict[str, TrainedView] = {}
        self.left_period_s = 0.0
        self.guidance = MOST_GUIDANCE
        self.left_age_s = 0.0  # how much older the left brain's images were than the last chunk's [s]
        self._left: tuple[Any, float, LeftMemory] | None = None
        self._units = RobotUnits(config, self.device)
        self._prompts = TwinPrompts(config, tokenizer, self.model.layout)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The state that `act` is to be given, in this order; () for none."""
        return self.config.robot_state_names if self.config.takes_state else ()

    # -- views

    def _view(self, camera: CameraInput, height: int, width: int) -> View:
        """How an image of this size gets to where the brains see it."""
        return view_of(camera, height, width, self.model.layout, self.config.pixel_limits)

    def _nominal_sizes(self) -> tuple[Size, ...]:
        """Sizes at which the brains see the cameras; one token where it depends on the image."""
        factor = self.model.layout.factor
        sizes = [(c.height or factor, c.width or factor) for c in self.config.cameras]
        whole = [dataclasses.replace(c, crop=None) for c in self.config.cameras]
        return tuple(self._view(c, *size).steps[-1] for c, size in zip(whole, sizes, strict=True))

    # -- prompts

    def prompts(
        self, instruction: str, sizes: tuple[Size, ...] | None = None, robot: str | None = None
    ) -> tuple[Prompt, Prompt]:
        """Left and right prompt of an instruction. Raises InstructionError for what it cannot read.

        sizes: height and width of each camera's image as the brains see it, where the checkpoint leaves it
        open; robot: that is named in it, None: the one that the policy acts as.
        """
        sizes = sizes or self._nominal_sizes()
        return self._prompts.build(check_instruction(instruction), sizes, robot or self.config.robot)

    def collate(self, prompts: Sequence[Prompt]) -> PromptBatch:
        return collate(prompts, self.tokenizer.pad_token_id or 0, self.engine.bucket).to(self.device)

    def standardize(
        self, state: Tensor, actions: Tensor, robots: Sequence[str] | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """States [N, S] and actions [B, T, A] in robot units, as the model's own; None for no state.

        robots: of each of the B samples, B / N in a row of a state; None: the one that the policy acts as.
        """
        return self._units.standardize(state, actions, robots or self.config.robot)

    def action_units(self, robot: str | None = None) -> Units:
        """Between a robot's actions and the model's; None: of the one that it acts as. Raises CheckpointError
        if there are none, or the robot is not known."""
        return self._units.of(robot or self.config.robot, "action")

    def state_units(self, robot: str | None = None) -> Units:
        """As `action_units`, of its state."""
        return self._units.of(robot or self.config.robot, "state")

    # -- acting

    def act_as(self, robot: str) -> None:
        """Acts as a robot from here on, in its units. Raises CheckpointMismatch naming those it knows."""
        self.config = self.model.config = self.config.as_robot(robot)
        self._left = None
        self.engine.forget_prompts()  # the robot may be named in them

    def take_robot(self, robot: RobotFile, to_act: bool = True) -> None:
        """Acts as the robot of a robot file from here on.

        Refuses one that this checkpoint was not made for, naming every difference; to_act: also a checkpoint
        that was never trained.
        """
        check_fits(self.config, robot, to_act)
        if robot.name != self.config.robot:
            self.act_as(robot.name)

    def act(
        self,
        images: Mapping[str, np.ndarray],
        instruction: str,
        state: np.ndarray | None,
        noise: np.ndarray | None = None,
        seed: int = 0,
        *,
        normalized: bool = False,
        stamp_s: float | None = None,
        guide: Guide | None = None,
    ) -> np.ndarray:
        """One action chunk [horizon, dims], float64, robot units.

        images: per camera uint8 [H, W, 3] RGB of any size; state: `state_names` in robot units, None for a
        policy that goes without; noise: float32 [horizon, dims], the flow's start (default:
        `noise_for(seed, ...)`); normalized: state and actions in the model's own units; stamp_s: time of the
        observation [s], from which `left_period_s` is counted; guide: what the chunk has to agree with
        (real-time chunking), in the same units as the actions. Raises InstructionError for the text and
        ValueError for images, state, noise or a guide of the wrong shape or kind.
        """
        shape = (self.config.action.horizon, len(self.config.action.names))
        noise = noise_for(seed, *shape) if noise is None else np.asarray(noise, dtype=np.float32)
        if noise.shape != shape:
            raise ValueError(f"noise: found shape {noise.shape}, expected {shape}")
        out = self.act_batch(
            {c.name: self._image(images, c.name)[None] for c in self.config.cameras},
            [instruction],
            self.state_row(state),
            noise[None],
            normalized=normalized,
            stamp_s=stamp_s,
            guide=guide,
        )[0]
        if not np.isfinite(out).all():
            raise ValueError("the policy produced non-finite actions; nothing is published")
        return out

    def state_row(self, state: np.ndarray | None) -> np.ndarray | None:
        """A robot's state [dims] as [1, S], with zeros where the model has a dimension more."""
        names, config = self.config.robot_state_names, self.config
        if state is None:
            # An expert that goes without leaves the token out, as the published code does.
            if not names or (config.conditioning == "action_queries" and config.state_goes_to == "expert"):
                return None
            raise ValueError(f"state: found none, expected {len(names)} values {list(names)}")
        if not names:
            raise ValueError(f"state: found {np.shape(state)}, expected none: the checkpoint goes without")
        state = np.asarray(state, dtype=np.float32)
        if state.shape == (len(names),) != (len(config.state_names),):
            padded = np.zeros(len(config.state_names), np.float32)
            padded[[n != PAD_STATE for n in config.state_names]] = state
            state = padded
        if state.shape != (len(config.state_names),) or not np.isfinite(state).all():
            raise ValueError(f"state: found {state!r}, expected {len(names)} finite values {list(names)}")
        return state[None]

    def _image(self, images: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        if name not in images:
            raise ValueError(f"images: camera {name!r} is missing, found {sorted(images)}")
        check_image(images[name], name)
        return images[name]

    @torch.inference_mode()
    def act_batch(
        self,
        images: Mapping[str, np.ndarray],
        instructions: Sequence[str],
        states: np.ndarray | None,
        noise: np.ndarray,
        *,
        normalized: bool = False,
        stamp_s: float | None = None,
        guide: Guide | None = None,
    ) -> np.ndarray:
        """As `act` for a batch, one guide for all of it.

        images uint8 [B, H, W, 3], states [B, S], noise [B, T, A] -> [B, T, A].
        """
        views = [self._view(c, *images[c.name].shape[1:3]) for c in self.config.cameras]
        key = (tuple(instructions), tuple(v.steps[-1] for v in views))
        with memory_told(self.device, "acting"):
            prepared = self.engine.prepare(key, lambda: self._collated(*key))
            pixels = self.engine.see({v.name: send(images[v.name], self.device) for v in views}, views)
            state = None
            if states is not None:
                state = send(states.astype(np.float32), self.device)
                if not normalized:
                    state = self.state_units().to_model(state)
            start = send(noise, self.device)
            target = None if guide is None else self._target(guide, normalized)
            memory = self._remembered(key, stamp_s)
            if memory is None:
                memory = self.engine.remember(pixels, prepared)
                self._left = None if stamp_s is None else (key, stamp_s, memory)
            if target is None:
                chunk = self.engine.chunk(pixels, prepared, memory, state, start)
            else:
                chunk = self.engine.chunk_towards(pixels, prepared, memory, state, start, target)
            if not normalized:
                chunk = self.action_units().to_robot(chunk)
            return chunk.double().cpu().numpy()

    def _target(self, guide: Guide, normalized: bool) -> Target:
        """A guide in model units, on the device."""
        guide.validate(self.config.action.horizon, len(self.config.action.names))
        actions = send(np.asarray(guide.actions, dtype=np.float32), self.device)
        if not normalized:
            actions = self.action_units().to_model(actions)
        weights = send(np.asarray(guide.weights, dtype=np.float32), self.device)
        return Target(actions[None], weights, guide.frozen, self.guidance)

    def _collated(
        self, instructions: Sequence[str], sizes: tuple[Size, ...]
    ) -> tuple[PromptBatch, PromptBatch]:
        pairs = [self.prompts(text, sizes) for text in instructions]
        return self.collate([p[0] for p in pairs]), self.collate([p[1] for p in pairs])

    def _remembered(self, key: Any, stamp_s: float | None) -> LeftMemory | None:
        """What the left brain knows of this instruction, if that is allowed and young enough."""
        self.left_age_s = 0.0
        if self.left_period_s <= 0 or self._left is None or stamp_s is None:
            return None
        known, then_s, memory = self._left
        age_s = stamp_s - then_s
        if known != key or not 0 <= age_s < self.left_period_s:
            return None
        self.left_age_s = age_s
        return memory

    def warm_up(self, sizes: Mapping[str, Size] | None = None, guided: bool = False) -> None:
        """Chunks on blank input, so that the first real one is not the slow one.

        sizes: height and width [pixels] of the cameras' own images, by name; guided: chunks with a guide too.
        On CUDA graphs are recorded for these and for instructions of the usual lengths; `engine.tell` is
        called where a later one needs others.
        """
        from twinbrain_ros.robot.chunk import Guide

        sizes = sizes or {}
        factor = self.model.layout.factor
        images = {
            c.name: np.zeros((1, *sizes.get(c.name, (c.height or factor, c.width or factor)), 3), np.uint8)
            for c in self.config.cameras
        }
        takes, dims = self.config.takes_state, len(self.config.state_names)
        state = np.zeros((1, dims), np.float32) if takes else None
        noise = np.zeros((1, self.model.expert.horizon, self.model.expert.dims), np.float32)
        guide = Guide(noise[0].astype(float), np.eye(1, noise.shape[1])[0], frozen=1)
        views = [self._view(c, *images[c.name].shape[1:3]) for c in self.config.cameras]
        last = tuple(v.steps[-1] for v in views)
        stand_ins: dict[tuple[int, int], tuple[PromptBatch, PromptBatch]] = {}
        for words in range(WARM_UP_WORDS + 1 if self.engine.graphs else 1):
            left, right = self._stand_in(last, " ".join(["go"] * words))
            stand_ins.setdefault((left.ids.shape[1], right.ids.shape[1]), (left, right))
        for shape, prompts in stand_ins.items():
            # Put in where `act_batch` looks; no person gives an instruction that begins with a line break.
            name = f"\n{shape}"
            self.engine.prepare(((name,), last), lambda p=prompts: p)  # type: ignore[misc]
            self.act_batch(images, [name], state, noise, normalized=True)
            if guided:
                self.act_batch(images, [name], state, noise, normalized=True, guide=guide)
        self.engine.warm = True

    def _stand_in(self, sizes: tuple[Size, ...], text: str) -> tuple[PromptBatch, PromptBatch]:
        """Prompts of a text that need not be an instruction."""
        left, right = self._prompts.unchecked(text, sizes, self.config.robot)
        return self.collate([left]), self.collate([right])

    # -- files

    def save_pretrained(
        self, directory: str | Path, tensors: Iterable[tuple[str, Tensor]] | None = None
    ) -> None:
        """Writes config.json, the weights and the tokenizer into a directory; tensors: others in place of the
        model's own, by the names of an untouched model."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save(directory)
        self.tokenizer.save_pretrained(directory)
        save_views(self.views, directory)
        checkpoint.save_weights(self.model, directory, tensors)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str = "cpu",
        dtype: str | None = None,
        views: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> TwinBrainPolicy:
        """Loads a checkpoint; raises CheckpointError naming what is missing, extra or misshapen, or what does
        not fit the memory, and DeviceError for a device that is not there.

        dtype: "float32" or "bfloat16" (default: float32 on a CPU, bfloat16 on a GPU); views: how many images
        it shall take in place of the robot's cameras, where that is open (`TwinBrainConfig.any_views`);
        progress: called now and then with the share of the weights that is there; tell: called with a line
        for a person, before the weights are read with what they need and what the device has, later when a
        chunk comes late because of a CUDA graph.
        """
        place = find_device(device)
        directory = Path(directory)
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: not a directory, expected a TwinBrain checkpoint")
        config = TwinBrainConfig.load(directory)
        if views is not None:
            config = config.with_views(views)
        dtype = dtype or usual_dtype(place)
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype: found {dtype!r}, expected one of {sorted(DTYPES)}")
        with memory_told(place, "loading"):
            model = checkpoint.load_model(directory, config, place, DTYPES[dtype], progress, tell)
        policy = cls(model, checkpoint.load_tokenizer(directory))
        policy.engine.tell = tell
        policy.name = checkpoint_name(directory)
        policy.views = load_views(directory)
        return policy
