"""What a TwinBrain policy is made of, as plain data that round-trips through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from twinbrain_ros.brain.config_parts import ActionConfig as ActionConfig
from twinbrain_ros.brain.config_parts import CameraInput as CameraInput
from twinbrain_ros.brain.config_parts import CheckpointError as CheckpointError
from twinbrain_ros.brain.config_parts import CheckpointMismatch as CheckpointMismatch
from twinbrain_ros.brain.config_parts import Embodiment as Embodiment
from twinbrain_ros.brain.config_parts import ExpertConfig as ExpertConfig
from twinbrain_ros.brain.config_parts import Normalizer as Normalizer
from twinbrain_ros.brain.config_parts import at_least, different, one_of, robot_name
from twinbrain_ros.plain_data import PlainDataError, build

CONFIG_FILE = "config.json"
FAMILIES = ("qwen3_vl", "qwen2_5_vl")

# Role tokens of the Qwen chat format; a TwinBrain tokenizer must know them all.
IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
STATE_TOKEN, QUERY_TOKEN = "<|propri|>", "<|action|>"
STATES = ("right", "expert", "none")  # who takes the state: a brain, the expert or nobody
PAD_STATE = "pad"  # a dimension of the model's state that no robot has; always 0 (BridgeData)
QUERIES = "{queries}"  # in a right prompt: where the query tokens stand
ROBOT = "{robot}"  # in a prompt: where the name of the robot stands that acts


def transformers_config(values: dict[str, Any]) -> PretrainedConfig:
    """The transformers configuration object of a VLM given as plain data.

    Raises CheckpointError for a family whose layers are not known to fit AsyMoT, or sizes that contradict
    each other.
    """
    values = dict(values)
    family = values.pop("model_type", None)
    one_of("vlm.model_type", str(family), FAMILIES)
    try:
        return AutoConfig.for_model(family, **values)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"vlm: not a config of {family}: {error}") from error


@dataclass(frozen=True)
class TwinBrainConfig:
    """Everything needed to build a TwinBrain policy, apart from its weights and its tokenizer.

    `vlm` is the transformers config (as a dict) that both brains are built from; the paper's twins
    start from the same checkpoint. `interaction_interval` k makes every (k+1)-th layer a joint one
    (TwinBrainVLA, section on AsyMoT; k = 0: every layer).
    """

    vlm: dict[str, Any]
    robot: str
    cameras: tuple[CameraInput, ...]
    left_cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action: ActionConfig
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    state_hidden: int = 128
    # What the expert attends to: all final "hidden_states" of the right brain (the paper), or those of
    # `query_tokens` tokens in its prompt, "action_queries" (the published code).
    conditioning: str = "hidden_states"
    # "frozen" (the paper). "trained": gradients reach it through what the right brain reads of it, as in the
    # paper's ablation. "none": the right brain is alone; joint layers are layers like the others.
    left_brain: str = "frozen"
    query_tokens: int = 0
    query_separator: str = " "
    # How many layers of the right brain are run; None: all. The last one's states pass the final norm.
    condition_layers: int | None = None
    interaction_interval: int = 0
    # "full": the right brain sees all of the left one's prompt. "index_causal" (the published code): token r
    # sees the left tokens up to index r, and all of them where r is beyond their number.
    left_visibility: str = "full"
    # Whether image features of the vision towers' middle layers are added in the first layers of both brains,
    # as stock Qwen3-VL does; the published twins drop them. `ask` always has them.
    deepstack: bool = True
    # The reference shows the images first. With the words first, image tokens can look for what is named.
    images_first: bool = True
    left_system: str | None = None
    right_system: str | None = None
    left_prompt: str = "{instruction}"
    # Where it has <|propri|>, the state is a token of the right brain (the paper); else of the expert.
    right_prompt: str = "state " + STATE_TOKEN + " {instruction}"
    # Rows of the right brain's embedding where its vocabulary was extended; None: as many as the left's.
    right_vocab_size: int | None = None
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_limits: tuple[int, int] | None = None
    # Published checkpoints take any number of views; a robot's nodes still feed those in `cameras`.
    any_views: bool = False
    # Whether a robot's nodes feed the state; published checkpoints were often trained without.
    send_state: bool = True
    action_statistics: Normalizer | None = None
    state_statistics: Normalizer | None = None
    # All robots that it knows, where they are several. `robot`, `action` and the statistics are those of the
    # one that it acts as.
    embodiments: tuple[Embodiment, ...] = ()

    def __post_init__(self) -> None:
        robot_name("robot", self.robot)
        names = [c.name for c in self.cameras]
        different("cameras", names)
        at_least(1, **{"cameras": len(names), "left_cameras": len(self.left_cameras)})
        different("state_names", self.robot_state_names)
        unknown = [n for n in self.left_cameras if n not in names]
        if unknown:
            raise CheckpointError(f"left_cameras: found {unknown}, expected some of {names}")
        one_of("conditioning", self.conditioning, ("hidden_states", "action_queries"))
        one_of("left_brain", self.left_brain, ("frozen", "trained", "none"))
        one_of("left_visibility", self.left_visibility, ("full", "index_causal"))
        at_least(0, interaction_interval=self.interaction_interval, query_tokens=self.query_tokens)
        if self.condition_layers is not None:
            at_least(1, condition_layers=self.condition_layers)
        if any(not s > 0 for s in self.image_std):
            raise CheckpointError(f"image_std: found {list(self.image_std)}, expected numbers above 0")
        least, most = self.pixel_limits or (1, 1)
        if not 1 <= least <= most:
            raise CheckpointError(f"pixel_limits: found {[least, most]}, expected least and most pixels")
        self._check_prompts()
        self._check_right_prompt()
        if (self.conditioning == "action_queries") != (self.query_tokens > 0):
            raise CheckpointError(
                f"query_tokens: found {self.query_tokens} with conditioning {self.conditioning!r}, "
                "expected at least 1 with 'action_queries' and 0 with 'hidden_states'"
            )
        self._check_units("", self.action_statistics, self.state_statistics)
        self._check_embodiments()

    def _check_units(self, where: str, actions: Normalizer | None, states: Normalizer | None) -> None:
        for key, stats, dims in (
            ("action_statistics", actions, len(self.action.names)),
            ("state_statistics", states, len(self.state_names)),
        ):
            if stats is not None and len(stats.mean) != dims:
                raise CheckpointError(f"{where}{key}: found {len(stats.mean)} entries, expected {dims}")

    def _check_embodiments(self) -> None:
        robots = [embodiment.robot for embodiment in self.embodiments]
        if not robots:
            return
        for robot in robots:
            robot_name("embodiments", robot)
        if len(set(robots)) < len(robots) or self.robot not in robots:
            raise CheckpointError(
                f"embodiments: found {robots}, expected {self.robot!r} and others, once each"
            )
        for embodiment in self.embodiments:
            where, theirs = f"embodiments: {embodiment.robot}: ", embodiment.action
            for key, found, expected in (
                ("names", list(theirs.names), list(self.action.names)),
                ("horizon", theirs.horizon, self.action.horizon),
            ):
                if found != expected:
                    raise CheckpointError(
                        f"{where}action.{key}: found {found}, expected {expected}, as of all"
                    )
            self._check_units(where, embodiment.action_statistics, embodiment.state_statistics)
        for key, known in vars(self.embodiments[robots.index(self.robot)]).items():
            if known != getattr(self, key):
                raise CheckpointError(
                    f"embodiments: {self.robot}: {key}: found {known}, expected the config's own, "
                    f"{getattr(self, key)}"
                )

    def _check_prompts(self) -> None:
        """Tokens that are put in by number, of images, state and queries, stand nowhere else."""
        placed = (IMAGE_TOKEN, VISION_START, VISION_END, QUERY_TOKEN)
        for key, tokens in (
            ("left_prompt", (*placed, STATE_TOKEN, QUERIES)),
            ("right_prompt", placed),
            ("left_system", (*placed, STATE_TOKEN, QUERIES)),
            ("right_system", (*placed, STATE_TOKEN, QUERIES)),
        ):
            text = getattr(self, key) or ""
            found = [token for token in tokens if token in text]
            if found:
                raise CheckpointError(f"{key}: found {found} in {text!r}, expected none of {list(tokens)}")
        if "{instruction}" not in self.left_prompt + self.right_prompt:
            found = [self.left_prompt, self.right_prompt]
            raise CheckpointError(
                f"left_prompt, right_prompt: found {found}, expected {{instruction}} in one"
            )

    def _check_right_prompt(self) -> None:
        queries = self.conditioning == "action_queries"
        for placeholder, allowed in (
            (QUERIES, (1,) if queries else (0,)),
            (STATE_TOKEN, (0, 1) if self.state_names else (0,)),
        ):
            if self.right_prompt.count(placeholder) not in allowed:
                times = "exactly once" if allowed == (1,) else "at most once" if 1 in allowed else "nowhere"
                why = "" if placeholder == QUERIES or self.state_names else ", as there is no state"
                raise CheckpointError(
                    f"right_prompt: found {self.right_prompt!r}, expected {placeholder} {times}{why}"
                )
        if self.state_goes_to == "right" and not self.send_state:
            raise CheckpointError(f"send_state: found false, expected true: {STATE_TOKEN} is in right_prompt")

    @property
    def state_goes_to(self) -> str:
        """Who takes the state: the "right" brain (the paper), the "expert" (the published code) or "none"."""
        if not self.state_names:
            return "none"
        return "right" if STATE_TOKEN in self.right_prompt else "expert"

    @property
    def expert_takes_state(self) -> bool:
        """Whether the state is a token of the expert rather than of the right brain."""
        return self.state_goes_to == "expert"

    @property
    def takes_state(self) -> bool:
        """Whether the policy is to be given a state at all."""
        return bool(self.state_names) and self.send_state

    @property
    def robots(self) -> tuple[str, ...]:
        """The robots that it knows."""
        return tuple(embodiment.robot for embodiment in self.known_embodiments)

    @property
    def known_embodiments(self) -> tuple[Embodiment, ...]:
        """All that it knows, also where it is one."""
        own = Embodiment(self.robot, self.action, self.action_statistics, self.state_statistics)
        return self.embodiments or (own,)

    def as_robot(self, name: str) -> TwinBrainConfig:
        """The same policy, acting as another robot that it knows. Raises CheckpointMismatch naming those."""
        for embodiment in self.known_embodiments:
            if embodiment.robot == name:
                return dataclasses.replace(self, **vars(embodiment))
        raise CheckpointMismatch(f"robot: found {name!r}, the checkpoint knows {list(self.robots)}")

    @property
    def robot_state_names(self) -> tuple[str, ...]:
        """The state that a robot gives: without dimensions that only the model has."""
        return tuple(n for n in self.state_names if n != PAD_STATE)

    def with_views(self, count: int) -> TwinBrainConfig:
        """The same policy for `count` views named view_0, view_1, ..; both brains see them all.

        Raises CheckpointError if the checkpoint is made for its own cameras.
        """
        if not self.any_views:
            names = [c.name for c in self.cameras]
            raise CheckpointError(f"views: found {count}, expected {len(names)}: {names}")
        sizes = self.cameras[0]
        cameras = tuple(dataclasses.replace(sizes, name=f"view_{i}") for i in range(count))
        return dataclasses.replace(self, cameras=cameras, left_cameras=tuple(c.name for c in cameras))

    def right_vlm_config(self) -> PretrainedConfig:
        """As `vlm_config`, with the right brain's vocabulary."""
        config = self.vlm_config()
        if self.right_vocab_size is not None:
            config.get_text_config().vocab_size = self.right_vocab_size
        return config

    def vlm_config(self) -> PretrainedConfig:
        """The transformers configuration object of either brain (of the right one but for its vocabulary)."""
        return transformers_config(self.vlm)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "config") -> TwinBrainConfig:
        """Builds a config from JSON data. Raises CheckpointError naming the key, after `where`."""
        if isinstance(values, dict):
            # Where the state goes stands in the right prompt; earlier files say it a second time.
            values = {key: value for key, value in values.items() if key != "state_goes_to"}
        try:
            return build(cls, values, where)
        except PlainDataError as error:
            raise CheckpointError(str(error)) from error

    def save(self, directory: Path) -> None:
        (directory / CONFIG_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> TwinBrainConfig:
        path = directory / CONFIG_FILE
        if not path.is_file():
            raise CheckpointError(f"{directory}: no {CONFIG_FILE} here, expected a TwinBrain checkpoint")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> TwinBrainConfig:
        """A config from a JSON file; errors name it."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # of JSON or of UTF-8
            raise CheckpointError(f"{path}: not valid JSON: {error}") from error
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
