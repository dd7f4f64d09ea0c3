"""The protocol: one YAML that says what is trained, on what, and how it is judged, before anything is run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.brain.config import STATE_TOKEN, TwinBrainConfig
from twinbrain_ros.robot.strict import StrictMapping
from twinbrain_ros.sim.tasks import COLOURS
from twinbrain_ros.training.config import TrainConfig, build_train_config

KEYS = (
    "recipe", "held_out_colour", "demonstrations", "variants", "rates", "sweep", "seeds", "plan",
    "reference", "evaluation", "questions", "latency_chunks",
)  # fmt: skip
SPLITS = ("seen", "held_out", "relation")
MOST = 10_000_000


class ProtocolError(ValueError):
    """A protocol that cannot be used; names the key, what was found and what is expected."""


@dataclass(frozen=True)
class Variant:
    """One way to build the policy: letter of the claim, words for people, changes of a `TwinBrainConfig`."""

    name: str
    letter: str
    says: str
    left_brain: str
    state_goes_to: str
    interaction_interval: int
    expert_reads: str

    def config(self, twin: TwinBrainConfig) -> TwinBrainConfig:
        """This variant of a twin."""
        prompt = twin.right_prompt
        if self.state_goes_to == "expert":
            prompt = prompt.replace(f"state {STATE_TOKEN} ", "").replace(STATE_TOKEN, "")
        return dataclasses.replace(
            twin,
            left_brain=self.left_brain,
            right_prompt=prompt,
            interaction_interval=self.interaction_interval,
            expert=dataclasses.replace(twin.expert, reads=self.expert_reads),
        )


@dataclass(frozen=True)
class Teaching:
    """What policies are taught with: so many frames, and whether they are also told, while training only,
    where the named things are (the recipe's grounding loss)."""

    frames: int
    grounding: bool


@dataclass(frozen=True)
class Run:
    """One policy to be trained."""

    variant: str
    demonstrations: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.demonstrations}/{self.variant}/seed{self.seed}_rate{self.rate:g}"


@dataclass(frozen=True)
class Evaluation:
    """Episodes per run and split (half of them pick, half put; relations: pick), their scenes, and how long
    each may take [simulated s]."""

    episodes: dict[str, int]
    first_seed: int
    max_seconds: float


@dataclass(frozen=True)
class Protocol:
    """See `config/claims.yaml`, where each key is explained."""

    recipe: TrainConfig
    held_out_colour: str
    demonstrations: dict[str, Teaching]
    variants: dict[str, Variant]
    rates: tuple[float, ...]
    sweep_demonstrations: str
    sweep_seed: int
    sweep_batches: int
    seeds: tuple[int, ...]
    plan: tuple[tuple[str, tuple[str, ...]], ...]
    reference: str
    evaluation: Evaluation
    questions: int
    latency_chunks: int

    def sweep(self, variant: str) -> list[Run]:
        """The runs among which a variant's learning rate is chosen."""
        return [Run(variant, self.sweep_demonstrations, self.sweep_seed, rate) for rate in self.rates]

    def only(self, names: list[str]) -> Protocol:
        """The same protocol for some variants. Raises ProtocolError for one that it does not have."""
        unknown = [name for name in names if name not in self.variants]
        if unknown:
            raise ProtocolError(f"variants: found {unknown}, expected some of {list(self.variants)}")
        plan = tuple((data, tuple(v for v in variants if v in names)) for data, variants in self.plan)
        return dataclasses.replace(self, plan=plan)


def load_protocol(path: Path) -> tuple[Protocol, dict[str, Any]]:
    """Reads a protocol; also returns it as plain data. Raises ProtocolError naming file and key."""
    if not path.is_file():
        raise ProtocolError(f"{path}: no such file, expected a protocol such as config/claims.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ProtocolError(f"{path}: not valid YAML: {error}") from error
    return build_protocol(values, str(path)), values


def build_protocol(values: Any, source: str) -> Protocol:
    """A protocol from plain data, strictly."""
    top = StrictMapping(values, source, KEYS, error=ProtocolError)
    recipe = build_train_config(top.raw("recipe"), f"{source}: recipe")
    if recipe.data is None or not recipe.start:
        raise ProtocolError(f"{source}: recipe: expected one with the keys start and data")
    data = _teachings(top, recipe.data.frames)
    variants = {str(name): _variant(top, str(name)) for name in _names(top, "variants")}
    sweep = top.mapping("sweep", ("demonstrations", "seed", "batches"))
    evaluation = top.mapping("evaluation", ("episodes", "first_seed", "max_seconds"))
    episodes = evaluation.mapping("episodes", SPLITS)
    return Protocol(
        recipe,
        top.text("held_out_colour", COLOURS),
        data,
        variants,
        _list(top, "rates", float),
        sweep.text("demonstrations", tuple(data)),
        sweep.integer("seed", 0, MOST),
        sweep.integer("batches", 1, MOST),
        _list(top, "seeds", int),
        _plan(top, data, variants),
        top.text("reference", tuple(variants)),
        Evaluation(
            {split: episodes.integer(split, 0, MOST) for split in SPLITS},
            evaluation.integer("first_seed", 0, 999_999),
            evaluation.number("max_seconds", 1.0, 600.0),
        ),
        top.integer("questions", 100, MOST),
        top.integer("latency_chunks", 1, MOST),
    )


def _names(top: StrictMapping, key: str) -> list[str]:
    found = top.raw(key)
    if not isinstance(found, dict) or not found:
        raise top.fail(key, found, "a mapping with at least one entry")
    return [str(name) for name in found]


def _teachings(top: StrictMapping, most: int) -> dict[str, Teaching]:
    names = _names(top, "demonstrations")
    outer = top.mapping("demonstrations", tuple(names))
    found = {}
    for name in names:
        inner = outer.mapping(name, ("frames", "grounding"))
        grounding = inner.raw("grounding")
        if not isinstance(grounding, bool):
            raise inner.fail("grounding", grounding, "true or false")
        found[name] = Teaching(inner.integer("frames", 1, most), grounding)
    return found


def _variant(top: StrictMapping, name: str) -> Variant:
    outer = top.mapping("variants", tuple(_names(top, "variants")))
    keys = ("letter", "says", "left_brain", "state_goes_to", "interaction_interval", "expert_reads")
    inner = outer.mapping(name, keys)
    return Variant(
        name,
        inner.text("letter"),
        inner.text("says"),
        inner.text("left_brain", ("frozen", "trained", "none")),
        inner.text("state_goes_to", ("right_brain", "expert")),
        inner.integer("interaction_interval", 0, 1_000),
        inner.text("expert_reads", ("last_layer", "layer_wise")),
    )


def _list(top: StrictMapping, key: str, kind: type) -> tuple[Any, ...]:
    found = top.raw(key)
    good = isinstance(found, list) and bool(found) and len(set(found)) == len(found)
    entries: list[Any] = found if good else []
    kinds = (int, float) if kind is float else (int,)
    if not good or any(isinstance(v, bool) or not isinstance(v, kinds) or v < 0 for v in entries):
        raise top.fail(key, found, f"a list of different values of type {kind.__name__}")
    return tuple(entries)


def _plan(
    top: StrictMapping, data: dict[str, Teaching], variants: dict[str, Variant]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = top.raw("plan")
    if not isinstance(found, list) or not found:
        raise top.fail("plan", found, "a list of entries with the keys demonstrations and variants")
    plan = []
    for i, entry in enumerate(found):
        inner = StrictMapping(
            entry, top.source, ("demonstrations", "variants"), f"plan[{i}]", error=ProtocolError
        )
        names = inner.texts("variants")
        unknown = [name for name in names if name not in variants]
        if unknown:
            raise inner.fail("variants", unknown, f"some of {', '.join(variants)}")
        plan.append((inner.text("demonstrations", tuple(data)), names))
    return tuple(plan)
