"""A TwinBrain checkpoint as a policy: pixels, words and state in, an action chunk in robot units out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from twinbrain_ros.brain.config import (
    CheckpointError,
    CheckpointMismatch,
    Standardizer,
    TwinBrainConfig,
)
from twinbrain_ros.brain.preprocess import resize
from twinbrain_ros.brain.prompt import (
    InstructionError,
    Prompt,
    PromptBatch,
    PromptBuilder,
    check_instruction,
    collate,
)
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.brain.twin import TwinBrain

if TYPE_CHECKING:
    from twinbrain_ros.robot.robot_file import RobotFile

WEIGHTS_FILE = "model.safetensors"


class TwinBrainPolicy:
    """Weights, tokenizer and statistics together. Not thread-safe: one caller at a time."""

    def __init__(self, model: TwinBrain, tokenizer: Any, device: str = "cpu") -> None:
        config = model.config
        if config.action_statistics is None or config.state_statistics is None:
            raise CheckpointError("config: action_statistics and state_statistics are missing")
        self.config = config
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self._action_mean, self._action_std = self._tensors(config.action_statistics)
        self._state_mean, self._state_std = self._tensors(config.state_statistics)
        grids = {c.name: self._merged_grid(c.height, c.width) for c in config.cameras}
        first = config.images_first
        self._left = PromptBuilder(tokenizer, [grids[n] for n in config.left_cameras], first)
        self._right = PromptBuilder(tokenizer, [grids[c.name] for c in config.cameras], first)
        # An instruction stands for many chunks: tokenise it once.
        self._prompts = lru_cache(maxsize=64)(self._build_prompts)

    def _tensors(self, statistics: Standardizer) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(statistics.mean, dtype=torch.float32, device=self.device)
        return mean, torch.tensor(statistics.std, dtype=torch.float32, device=self.device)

    def _merged_grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.model.layout.grid(height, width)
        return rows // self.model.layout.merge_size, columns // self.model.layout.merge_size

    # -- prompts

    def prompts(self, instruction: str) -> tuple[Prompt, Prompt]:
        """Left and right prompt of an instruction. Raises InstructionError for what it cannot read."""
        return self._prompts(check_instruction(instruction))

    def _build_prompts(self, text: str) -> tuple[Prompt, Prompt]:
        roles = [t for t in self.tokenizer.all_special_tokens if t in text]
        if roles:
            raise InstructionError(f"instruction: the role tokens {roles} are not for instructions")
        unknown = self._left.unknown_words(text)
        if unknown:
            raise InstructionError(
                f"instruction: the words {unknown[:5]} are not in this checkpoint's vocabulary; "
                f"found {text[:80]!r}"
            )
        left = self.config.left_prompt.replace("{instruction}", text)
        right = self.config.right_prompt.replace("{instruction}", text)
        return self._left.build(left), self._right.build(right)

    def collate(self, prompts: list[Prompt]) -> PromptBatch:
        return collate(prompts, self.tokenizer.pad_token_id).to(self.device)

    def standardize(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, S] and actions [B, T, A] in robot units, as the model's own units."""
        return (state - self._state_mean) / self._state_std, (actions - self._action_mean) / self._action_std

    # -- acting

    def check_robot(self, robot: RobotFile) -> None:
        """Refuses a robot file that this checkpoint was not made for, naming every difference."""
        own, theirs = self.config, robot.action
        cameras = {c.name for c in robot.cameras}
        pairs: list[tuple[str, Any, Any]] = [
            ("robot", own.robot, robot.name),
            ("action space", own.action.space, theirs.space),
            ("action composition", own.action.composition, theirs.composition),
            ("action names", list(own.action.names), list(theirs.names)),
            ("action horizon", own.action.horizon, theirs.horizon),
            ("action period_s", own.action.period_s, theirs.period_s),
            ("state names", list(own.state_names), list(robot.observation.state_names)),
        ]
        wrong = [f"{what}: checkpoint {a!r}, robot file {b!r}" for what, a, b in pairs if a != b]
        missing = [c.name for c in own.cameras if c.name not in cameras]
        if missing:
            wrong.append(f"cameras: checkpoint needs {missing}, robot file has {sorted(cameras)}")
        if wrong:
            raise CheckpointMismatch(
                f"checkpoint does not fit robot file {robot.name!r}: " + "; ".join(wrong)
            )

    def act(
        self,
        images: Mapping[str, np.ndarray],
        instruction: str,
        state: np.ndarray,
        noise: np.ndarray | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """One action chunk [horizon, dims], float64, robot units.

        images: per camera uint8 [H, W, 3] RGB of any size; state [dims] in robot units; noise: float32
        [horizon, dims], the flow's start (default: `noise_for(seed, ...)`). Raises InstructionError for
        the text and ValueError for images, state or noise of the wrong shape or kind.
        """
        state = np.asarray(state, dtype=np.float32)
        if state.shape != (len(self.config.state_names),) or not np.isfinite(state).all():
            raise ValueError(
                f"state: found {state!r}, expected {len(self.config.state_names)} finite values "
                f"{list(self.config.state_names)}"
            )
        shape = (self.config.action.horizon, len(self.config.action.names))
        noise = noise_for(seed, *shape) if noise is None else np.asarray(noise, dtype=np.float32)
        if noise.shape != shape:
            raise ValueError(f"noise: found shape {noise.shape}, expected {shape}")
        out = self.act_batch(
            {c.name: self._image(images, c.name)[None] for c in self.config.cameras},
            [instruction],
            state[None],
            noise[None],
        )[0]
        if not np.isfinite(out).all():
            raise ValueError("the policy produced non-finite actions; nothing is published")
        return out

    def _image(self, images: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        if name not in images:
            raise ValueError(f"images: camera {name!r} is missing, found {sorted(images)}")
        image = images[name]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images[{name!r}]: found {image.dtype} {image.shape}, expected uint8 [H, W, 3]")
        return image

    @torch.inference_mode()
    def act_batch(
        self,
        images: Mapping[str, np.ndarray],
        instructions: list[str],
        states: np.ndarray,
        noise: np.ndarray,
    ) -> np.ndarray:
        """As `act` for a batch: images uint8 [B, H, W, 3], states [B, S], noise [B, T, A] -> [B, T, A]."""
        pixels = {
            c.name: resize(torch.from_numpy(images[c.name]).to(self.device), c.height, c.width)
            for c in self.config.cameras
        }
        pairs = [self.prompts(text) for text in instructions]
        left, right = self.collate([p[0] for p in pairs]), self.collate([p[1] for p in pairs])
        state = (
            torch.from_numpy(states.astype(np.float32)).to(self.device) - self._state_mean
        ) / self._state_std
        context = self.model.context(pixels, state, left, right)
        chunk = self.model.expert.integrate(context, torch.from_numpy(noise).to(self.device))
        return (chunk * self._action_std + self._action_mean).double().cpu().numpy()

    def warm_up(self) -> None:
        """One chunk on blank input, so that the first real one is not the slow one."""
        images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in self.config.cameras}
        batch = {name: image[None] for name, image in images.items()}
        blank = (
            self.collate([self._left.build("")]),
            self.collate([self._right.build(self.config.right_prompt)]),
        )
        with torch.inference_mode():
            pixels = {n: torch.from_numpy(i).to(self.device) for n, i in batch.items()}
            state = torch.zeros((1, len(self.config.state_names)), device=self.device)
            context = self.model.context(pixels, state, *blank)
            noise = torch.zeros((1, self.model.expert.horizon, self.model.expert.dims), device=self.device)
            self.model.expert.integrate(context, noise)

    # -- files

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer into a directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save(directory)
        self.tokenizer.save_pretrained(directory)
        save_file(model_tensors(self.model), directory / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "cpu") -> TwinBrainPolicy:
        """Loads a checkpoint; raises CheckpointError naming what is missing, extra or misshapen."""
        directory = Path(directory)
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: not a directory, expected a TwinBrain checkpoint")
        config = TwinBrainConfig.load(directory)
        model = TwinBrain(config)
        load_tensors(model, directory / WEIGHTS_FILE)
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{directory}: its tokenizer cannot be loaded: {error}") from error
        return cls(model, tokenizer, device)


def model_tensors(model: TwinBrain) -> dict[str, Tensor]:
    """The weights to store; tied output heads are left out, they are the input embeddings again."""
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if "lm_head" not in k}


def load_tensors(model: TwinBrain, path: Path) -> None:
    """Strict loading: every tensor of the model, in its shape, and no other."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: no {path.name} here, expected the weights of the policy")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
    expected = model_tensors(model)
    problems = [f"missing tensor {k}" for k in expected if k not in found]
    problems += [f"unexpected tensor {k}" for k in found if k not in expected]
    problems += [
        f"tensor {k}: found shape {tuple(found[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in found and found[k].shape != v.shape
    ]
    problems += [
        f"tensor {k}: has non-finite values" for k, v in found.items() if not torch.isfinite(v).all()
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: " + "; ".join(problems[:5]) + more)
    model.load_state_dict(found, strict=False)
