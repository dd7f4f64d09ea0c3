"""Who is evaluated: a checkpoint with a profile, or the scripted expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.actions import Codec, JointGroups, codec_for, policy_state
from twinbrain_ros.benchmarks.expert import PutOnExpert
from twinbrain_ros.benchmarks.profile import ActionRule, Profile, ViewRule
from twinbrain_ros.benchmarks.trial import Ask
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.robot.robot_file import STATE_NAMES

if TYPE_CHECKING:
    from twinbrain_ros.brain.config import TwinBrainConfig
    from twinbrain_ros.brain.policy import TwinBrainPolicy

Array = NDArray[np.float64]
_RESIZE = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
TOOL_AXIS_ANGLE_NUMBERS = 8  # position, rotation vector, two fingers
TOOL_RULE = ActionRule((), "euler", 1.0, 1.0)


class SuiteMismatch(ValueError):
    """A policy that cannot be played on a suite; names every difference with both values."""


def check_config(config: TwinBrainConfig, profile: Profile) -> None:
    """Refuses a checkpoint that was never trained, or with a state under a profile without one, and the other
    way round.

    Raises SuiteMismatch naming what both have.
    """
    if config.action_statistics is None:
        raise SuiteMismatch("checkpoint: it has no statistics, it was never trained")
    wanted = config.robot_state_names if config.takes_state else ()
    given = STATE_NAMES if profile.state == "tool" else ()
    fits = not wanted if profile.state == "none" else bool(wanted)
    if profile.state == "tool":
        fits = fits and set(wanted) <= set(given)
    if profile.state == "tool_axis_angle":
        fits = fits and len(wanted) == TOOL_AXIS_ANGLE_NUMBERS
    if profile.state == "joint_sin_cos":  # how many joints a group has is the suite's to say
        fits = fits and bool(profile.action.groups)
    if not fits:
        parts = {"tool": list(given), "tool_axis_angle": f"of {TOOL_AXIS_ANGLE_NUMBERS} numbers"}
        of = parts.get(profile.state, f"of joint groups {list(profile.action.groups)}")
        gives = "none" if profile.state == "none" else f"{profile.state!r} {of}"
        wants = list(wanted) if wanted else "none"
        raise SuiteMismatch(
            f"state: checkpoint wants {wants}, profile {profile.name!r} gives {gives}; --state gives another"
        )


class Player(Protocol):
    """Answers observations with chunks [horizon, D]."""

    name: str
    horizon: int
    codec: Codec

    def check(self, described: Mapping[str, Any]) -> None:
        """Raises SuiteMismatch where the suite, as `Adapter.describe` has it, does not fit."""

    def answer(self, asks: Sequence[Ask]) -> list[Array]:
        """A chunk for each."""


class ExpertPlayer:
    """The scripted expert, one step per chunk."""

    name = "expert"
    horizon = 1

    def __init__(self) -> None:
        self.codec = codec_for(TOOL_RULE, "observation")
        self._expert = PutOnExpert()

    def check(self, described: Mapping[str, Any]) -> None:
        kind = described["action"]["kind"]
        if kind != "ee_delta":
            raise SuiteMismatch(f"policy expert: the suite takes {kind}, expected ee_delta")

    def answer(self, asks: Sequence[Ask]) -> list[Array]:
        if any(not ask.observation["truth"] for ask in asks):
            raise SuiteMismatch(
                "policy expert: the suite tells no poses of objects, which the expert goes by"
            )
        return [self._expert.act(ask.observation["state"], ask.observation["truth"]) for ask in asks]


class TwinPlayer:
    """A checkpoint, run as a profile says. A batch is answered at once; guided chunks one by one."""

    def __init__(self, policy: TwinBrainPolicy, profile: Profile) -> None:
        self._policy, self._profile = policy, profile
        config = policy.config
        check_config(config, profile)
        self.name = policy.name
        self.horizon = config.action.horizon
        self.codec = codec_for(profile.action, config.action.composition)
        self._views: tuple[ViewRule | str, ...] = profile.views

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        profile: Profile,
        device: str = "cpu",
        dtype: str | None = None,
        robot: str | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> TwinPlayer:
        """Reads a checkpoint. robot: which of those that it knows it acts as; None: the first of them; tell:
        as of `TwinBrainPolicy.from_pretrained`.

        Raises SuiteMismatch or CheckpointMismatch before the weights are read where the profile does not fit.
        """
        from twinbrain_ros.brain.config import TwinBrainConfig
        from twinbrain_ros.brain.policy import TwinBrainPolicy

        config = TwinBrainConfig.load(checkpoint)
        check_config(config if robot is None else config.as_robot(robot), profile)
        policy = TwinBrainPolicy.from_pretrained(checkpoint, device, dtype, tell=tell)
        if robot is not None:
            policy.act_as(robot)
            policy.name += f" as {robot}"
        return cls(policy, profile)

    def check(self, described: Mapping[str, Any]) -> None:
        config, profile, wrong = self._policy.config, self._profile, []
        given = described["cameras"]
        self._views = profile.views or tuple(given)[: len(config.cameras)]
        names = [view.camera if isinstance(view, ViewRule) else view for view in self._views]
        if len(names) != len(config.cameras):
            mine = [camera.name for camera in config.cameras]
            wrong.append(f"cameras: checkpoint {mine}, profile {profile.name!r} and suite give {names}")
        wrong += [
            f"camera {name!r} of the profile: the suite has {sorted(given)}"
            for name in names
            if name not in given
        ]
        action = described["action"]
        kind = "joint_groups" if isinstance(self.codec, JointGroups) else "ee_delta"
        if action["kind"] != kind or (kind == "ee_delta" and config.action.space != "ee_delta"):
            wrong.append(f"action space: checkpoint {config.action.space!r}, suite {action['kind']!r}")
        width = sum(action.get("groups", {"tool": 7}).values())
        if len(config.action.names) != width:
            wrong.append(f"action numbers: checkpoint {len(config.action.names)}, suite {width}")
        period_s = 1.0 / described["control_hz"]
        if abs(config.action.period_s - period_s) > 1e-6:
            wrong.append(f"seconds per step: checkpoint {config.action.period_s:g}, suite {period_s:g}")
        if wrong:
            raise SuiteMismatch("checkpoint does not fit the suite: " + "; ".join(wrong))

    def answer(self, asks: Sequence[Ask]) -> list[Array]:
        guided = [ask for ask in asks if ask.guide is not None]
        free = [ask for ask in asks if ask.guide is None]
        answers = {id(ask): self._batch([ask])[0] for ask in guided}
        if free:
            answers |= {id(ask): chunk for ask, chunk in zip(free, self._batch(free), strict=True)}
        return [answers[id(ask)] for ask in asks]

    def _batch(self, asks: Sequence[Ask]) -> Array:
        config, profile = self._policy.config, self._profile
        views = [[self._view(ask, view) for ask in asks] for view in self._views]
        images = {camera.name: np.stack(seen) for camera, seen in zip(config.cameras, views, strict=True)}
        words = [profile.instruction.replace("{instruction}", ask.observation["instruction"]) for ask in asks]
        states = [self._state(ask) for ask in asks]
        shape = (config.action.horizon, len(config.action.names))
        noise = np.stack([noise_for(ask.seed, *shape) for ask in asks])
        given = (
            np.concatenate([state for state in states if state is not None])
            if states[0] is not None
            else None
        )
        return self._policy.act_batch(images, words, given, noise, guide=asks[0].guide)

    def _state(self, ask: Ask) -> Array | None:
        """[1, S]; None where the profile gives none."""
        profile = self._profile
        found = policy_state(profile.state, ask.observation["state"], profile.action.groups)
        if found is not None and profile.state == "tool":  # the one kind whose numbers have names
            found = found[[STATE_NAMES.index(name) for name in self._policy.state_names]]
        return None if found is None else self._policy.state_row(found)

    @staticmethod
    def _view(ask: Ask, view: ViewRule | str) -> NDArray[np.uint8]:
        images = ask.observation["images"]
        if isinstance(view, str):
            return np.asarray(images[view])
        size, how = (view.width, view.height), _RESIZE[view.resize]
        return np.asarray(
            cv2.resize(np.asarray(images[view.camera]), size, interpolation=how), dtype=np.uint8
        )
