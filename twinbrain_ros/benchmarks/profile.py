"""How a policy is run on a benchmark: everything of a published protocol that is not the simulator's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from twinbrain_ros.control.strategies import ChunkSettings, Strategy, Weighting
from twinbrain_ros.resources import find_config, shipped_configs
from twinbrain_ros.robot.strict import StrictMapping

STATES = ("none", "tool", "tool_axis_angle", "joint_sin_cos")
SUCCESSES = ("last", "any", "chunk")
RESIZES = ("area", "linear")
# What is taken where nothing else is asked for.
DEFAULTS = {"simpler-ms3": "own", "simpler-ms2": "own", "tabletop": "own"}
DEFAULTS |= {"robocasa-gr1": "gr1_starvla", "libero": "libero_starvla"}


class ProfileError(ValueError):
    """A profile that cannot be used; the message names file, key, what was found and what was expected."""


@dataclass(frozen=True)
class ViewRule:
    """A camera of the suite as the policy is shown it: resized to these pixels, aspect not kept."""

    camera: str
    width: int
    height: int
    resize: str


@dataclass(frozen=True)
class ActionRule:
    """What the policy's numbers are: joint groups in this order, or tool deltas with these units."""

    groups: tuple[str, ...]
    rotation: str
    translation_scale: float
    rotation_scale: float


@dataclass(frozen=True)
class Profile:
    """A named way of running a policy; `config/benchmarks/*.yaml` say what each field is.

    steps 0: whole chunks. limit 0: the task's own.
    """

    name: str
    views: tuple[ViewRule, ...]
    instruction: str
    state: str
    action: ActionRule
    strategy: Strategy
    steps: int
    weighting: Weighting
    decay: float
    votes: int
    limit: int
    success: str
    stop_at_success: bool

    def chunks(self) -> ChunkSettings:
        """For the executor."""
        return ChunkSettings(self.strategy, self.steps or None, self.weighting, self.decay)

    def execution(self) -> str:
        """As a protocol has it, such as ``temporal_ensemble:1:adaptive_cosine7-0.1``."""
        text = f"{self.strategy.value}:{self.steps or 'all'}"
        if self.strategy is Strategy.TEMPORAL_ENSEMBLE:
            text += f":{self.weighting.value}{self.votes}-{self.decay:g}"
        return text


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by its name, or any by its path.

    Raises:
        ProfileError: names file and key, what was found and what was expected.
    """
    path = find_config("benchmarks", name_or_path)
    if path is None:
        shipped = shipped_configs("benchmarks")
        raise ProfileError(f"profile {name_or_path!r}: neither a file nor a shipped profile: {shipped}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not YAML: {error}") from error
    keys = ("views", "instruction", "state", "action", "execution", "limit", "success", "stop_at_success")
    top = StrictMapping(document, str(path), keys, error=ProfileError)
    action = top.mapping("action", ("groups", "rotation", "translation_scale", "rotation_scale"))
    execution = top.mapping("execution", ("strategy", "steps", "weighting", "decay", "votes"))
    instruction = top.text("instruction")
    if instruction.count("{instruction}") != 1:
        raise top.fail("instruction", instruction, "a text with {instruction} in it once")
    stop = top.raw("stop_at_success")
    if not isinstance(stop, bool):
        raise top.fail("stop_at_success", stop, "true or false")
    return Profile(
        name=path.stem,
        views=_views(top, str(path)),
        instruction=instruction,
        state=top.text("state", STATES),
        action=ActionRule(
            action.texts("groups") if action.raw("groups") else (),
            action.text("rotation", ("euler", "rotation_vector")),
            action.number("translation_scale", 1e-6, 1e6),
            action.number("rotation_scale", 1e-6, 1e6),
        ),
        strategy=Strategy(execution.text("strategy", tuple(kind.value for kind in Strategy))),
        steps=execution.integer("steps", 0, 10_000),
        weighting=Weighting(execution.text("weighting", tuple(kind.value for kind in Weighting))),
        decay=execution.number("decay", 0.0, 1e3),
        votes=execution.integer("votes", 1, 10_000),
        limit=top.integer("limit", 0, 1_000_000),
        success=top.text("success", SUCCESSES),
        stop_at_success=stop,
    )


def _views(top: StrictMapping, source: str) -> tuple[ViewRule, ...]:
    found: Any = top.raw("views")
    if not isinstance(found, list):
        raise top.fail("views", found, "a list of views")
    views = []
    for i, entry in enumerate(found):
        keys = ("camera", "width", "height", "resize")
        view = StrictMapping(entry, source, keys, f"views[{i}]", ProfileError)
        sizes = view.integer("width", 1, 10_000), view.integer("height", 1, 10_000)
        views.append(ViewRule(view.text("camera"), *sizes, view.text("resize", RESIZES)))
    return tuple(views)
