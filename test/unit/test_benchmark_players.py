"""A checkpoint on a suite: profiles, what its numbers become, what does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from brain_fixtures import tiny_config

from twinbrain_ros.benchmarks.actions import JointGroups, codec_for, policy_state
from twinbrain_ros.benchmarks.players import SuiteMismatch, TwinPlayer
from twinbrain_ros.benchmarks.profile import DEFAULTS, ActionRule, Profile, ProfileError, load_profile
from twinbrain_ros.benchmarks.trial import Ask
from twinbrain_ros.brain.config import CheckpointMismatch
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.control.strategies import Strategy, Weighting
from twinbrain_ros.resources import demo_checkpoint, share_dir
from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix, tool_state

RULE = ActionRule((), "euler", 1.0, 1.0)
STATE = {
    "position": np.array([0.3, 0.05, 0.1]),
    "rotation": euler_to_matrix(np.array([0.05, -0.1, 0.4])) @ TOOL_DOWN,
    "gripper": np.array([0.7]),
    "target_position": np.array([0.31, 0.05, 0.09]),
    "target_rotation": euler_to_matrix(np.array([0.0, -0.1, 0.5])) @ TOOL_DOWN,
}


# Profiles -------------------------------------------------------------------------------------------


def test_every_shipped_profile_can_be_read() -> None:
    names = [path.stem for path in (share_dir() / "config" / "benchmarks").glob("*.yaml")]
    assert set(names) == {"own", "simpler_starvla", "gr1_starvla", "libero_starvla", "libero_twin"}
    assert {load_profile(name).name for name in names} == set(names) >= set(DEFAULTS.values())


def test_published_protocols_are_as_published() -> None:
    simpler, gr1, libero = (load_profile(f"{name}_starvla") for name in ("simpler", "gr1", "libero"))
    assert simpler.execution() == "temporal_ensemble:1:adaptive_cosine7-0.1"
    assert (simpler.limit, simpler.state, simpler.success) == (120, "none", "last")
    assert (gr1.strategy, gr1.steps, gr1.limit, gr1.success) == (Strategy.OPEN_LOOP, 12, 720, "chunk")
    assert gr1.action.groups == ("left_arm", "right_arm", "left_hand", "right_hand", "waist")
    assert (libero.steps, libero.limit, libero.stop_at_success) == (8, 0, True)
    assert [view.camera for view in libero.views] == ["agentview", "robot0_eye_in_hand"]
    assert simpler.chunks().weighting is Weighting.ADAPTIVE_COSINE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"succes": 1}, "unknown key 'succes': did you mean 'success'"),
        ({"success": "maybe"}, "'success' is 'maybe', expected one of last, any, chunk"),
        ({"state": "joints"}, "'state' is 'joints'"),
        ({"instruction": "go"}, "expected a text with {instruction} in it once"),
        ({"views": [{"camera": "c", "width": 0, "height": 1, "resize": "area"}]}, r"views\[0\].width' is 0"),
        ({"stop_at_success": "no"}, "'stop_at_success' is 'no', expected true or false"),
        ({"views": {}}, "'views' is {}, expected a list of views"),
    ],
)
def test_a_wrong_profile_is_named_with_its_key(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    values = yaml.safe_load((share_dir() / "config/benchmarks/own.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**values, **change}), encoding="utf-8")
    with pytest.raises(ProfileError, match=named) as error:
        load_profile(str(path))
    assert str(path) in str(error.value)


def test_an_unknown_profile_is_told_which_there_are() -> None:
    with pytest.raises(ProfileError, match="simpler_starvla"):
        load_profile("simpler")


# Numbers --------------------------------------------------------------------------------------------


def test_deltas_on_the_target_are_passed_on_as_they_are() -> None:
    codec = codec_for(RULE, "previous_target")
    chunk = np.random.default_rng(0).normal(0, 0.1, (4, 7))
    rows = codec.rows(chunk, STATE)
    for row, given in zip(rows, chunk, strict=True):
        action = codec.action(row, STATE)
        np.testing.assert_array_equal(action["translation"], given[:3])
        np.testing.assert_allclose(action["rotation"], euler_to_matrix(given[3:6]))
        assert action["gripper"] == float(given[6] > 0.5)
    standing = codec.chunk(rows[1:], STATE, 4)
    np.testing.assert_array_equal(standing[:3], chunk[1:])
    np.testing.assert_array_equal(standing[3], [0, 0, 0, 0, 0, 0, chunk[3, 6]])


def test_deltas_on_the_observation_lead_from_the_target_to_their_poses() -> None:
    codec = codec_for(RULE, "observation")
    chunk = np.random.default_rng(1).normal(0, 0.05, (3, 7))
    rows = codec.rows(chunk, STATE)
    action = codec.action(rows[0], STATE)
    reached = STATE["target_position"] + action["translation"]
    np.testing.assert_allclose(reached, STATE["position"] + chunk[0, :3], atol=1e-12)
    turned = action["rotation"] @ STATE["target_rotation"]
    np.testing.assert_allclose(turned, euler_to_matrix(chunk[0, 3:6]) @ STATE["rotation"], atol=1e-12)
    np.testing.assert_allclose(codec.chunk(rows, STATE, 3), chunk, atol=1e-9)


def test_published_libero_numbers_are_inputs_of_the_simulator() -> None:
    profile = load_profile("libero_starvla")
    codec = codec_for(profile.action, "previous_target")
    action = codec.action(np.array([1.0, 0, 0, 0, 0.5, 0, 0.2]), STATE)
    np.testing.assert_allclose(action["translation"], [0.05, 0, 0])
    np.testing.assert_allclose(action["rotation"], cv2.Rodrigues(np.array([0, 0.25, 0]))[0])
    assert action["gripper"] == 0.0


def test_joint_targets_are_split_into_groups() -> None:
    groups = ("left", "waist")
    codec = JointGroups(groups)
    state = {"left": np.array([0.1, 0.2]), "waist": np.array([0.3])}
    action = codec.action(np.array([1.0, 2.0, 3.0]), state)["groups"]
    assert action["left"].tolist() == [1.0, 2.0] and action["waist"].tolist() == [3.0]
    assert codec.hold(state)["groups"]["waist"].tolist() == [0.3]
    assert codec.chunk(np.array([[1.0, 2, 3]]), state, 2).tolist() == [[1, 2, 3], [1, 2, 3]]


def test_states_are_as_each_kind_has_them() -> None:
    assert policy_state("none", STATE, ()) is None
    tool = policy_state("tool", STATE, ())
    assert tool is not None
    np.testing.assert_allclose(tool, tool_state(STATE["position"], STATE["rotation"], 0.7))
    libero = policy_state("tool_axis_angle", {**STATE, "gripper_qpos": np.array([0.02, -0.02])}, ())
    assert libero is not None and libero.shape == (8,)
    np.testing.assert_allclose(cv2.Rodrigues(libero[3:6])[0], STATE["rotation"], atol=1e-9)
    with pytest.raises(
        ValueError, match=r"'tool_axis_angle' takes \['gripper_qpos'\], the suite gives \['gri"
    ):
        policy_state("tool_axis_angle", STATE, ())
    joints = policy_state("joint_sin_cos", {"a": np.array([0.0, np.pi / 2]), "b": np.zeros(1)}, ("a", "b"))
    assert joints is not None
    np.testing.assert_allclose(joints, [0, 1, 1, 0, 0, 1], atol=1e-12)


# A checkpoint ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> TwinBrainPolicy:
    return TwinBrainPolicy.from_pretrained(demo_checkpoint())


DESCRIBED: dict[str, Any] = {
    "simulator": "s",
    "control_hz": 5.0,
    "action": {"kind": "ee_delta", "relative_to": "target"},
    "cameras": {"front": [96, 96], "wrist": [96, 96]},
}


def seen(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    images = {name: random.integers(0, 255, (96, 96, 3), np.uint8) for name in ("front", "wrist")}
    return {"images": images, "state": STATE, "instruction": "pick up the red block", "truth": {}}


def test_a_batch_is_answered_as_each_would_be_alone(policy: TwinBrainPolicy) -> None:
    player = TwinPlayer(policy, load_profile("own"))
    player.check(DESCRIBED)
    asks = [Ask(seen(i), seed=100 + i) for i in range(3)]
    together = player.answer(asks)
    assert player.horizon == 8 and player.name == policy.name
    for ask, chunk in zip(asks, together, strict=True):
        images, words = ask.observation["images"], ask.observation["instruction"]
        alone = policy.act(images, words, policy_state("tool", STATE, ()), noise_for(ask.seed, 8, 7))
        np.testing.assert_allclose(chunk, alone, atol=1e-5)


def test_a_guided_chunk_agrees_with_its_guide(policy: TwinBrainPolicy) -> None:
    from twinbrain_ros.robot.chunk import Guide

    player = TwinPlayer(policy, load_profile("own"))
    player.check(DESCRIBED)
    free = player.answer([Ask(seen(0), 5)])[0]
    guide = Guide(free + 0.02, np.ones(8), 8)
    guided, other = player.answer([Ask(seen(0), 5, guide), Ask(seen(0), 5)])
    np.testing.assert_allclose(other, free, atol=1e-5)
    assert np.abs(guided - guide.actions).mean() < np.abs(free - guide.actions).mean()


def test_views_are_resized_and_words_wrapped_as_the_profile_says(policy: TwinBrainPolicy) -> None:
    profile = load_profile("own")
    views = tuple(
        dataclasses.replace(load_profile("gr1_starvla").views[0], camera=name, width=48, height=64)
        for name in ("wrist", "front")
    )
    player = TwinPlayer(policy, dataclasses.replace(profile, views=views, instruction="{instruction} left"))
    player.check(DESCRIBED)
    observation = seen(0)
    found = player.answer([Ask(observation, 3)])[0]
    images = {
        camera: cv2.resize(observation["images"][name], (48, 64), interpolation=cv2.INTER_AREA)
        for camera, name in zip(("front", "wrist"), ("wrist", "front"), strict=True)
    }
    words = "pick up the red block left"
    expected = policy.act(images, words, policy_state("tool", STATE, ()), noise_for(3, 8, 7))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "profile", "named"),
    [
        ({"cameras": {"front": [96, 96]}}, {}, r"cameras: checkpoint \['front', 'wrist'\].*\['front'\]"),
        ({"control_hz": 20.0}, {}, "seconds per step: checkpoint 0.2, suite 0.05"),
        (
            {"action": {"kind": "joint_groups", "groups": {"arm": 7, "waist": 3}}},
            {},
            "action space: checkpoint 'ee_delta', suite 'joint_groups'; action numbers: .* 7, suite 10",
        ),
        (
            {},
            {"views": load_profile("libero_starvla").views},
            "camera 'agentview' of the profile: the suite has",
        ),
    ],
)
def test_every_difference_between_checkpoint_and_suite_is_named(
    policy: TwinBrainPolicy, change: dict[str, Any], profile: dict[str, Any], named: str
) -> None:
    chosen: Profile = dataclasses.replace(load_profile("own"), **profile)
    with pytest.raises(SuiteMismatch, match=named):
        TwinPlayer(policy, chosen).check({**DESCRIBED, **change})


def test_a_checkpoint_that_was_never_trained_is_refused(policy: TwinBrainPolicy) -> None:
    import copy

    untrained = copy.copy(policy)
    untrained.config = dataclasses.replace(policy.config, action_statistics=None)
    with pytest.raises(SuiteMismatch, match="never trained"):
        TwinPlayer(untrained, load_profile("own"))


@pytest.mark.parametrize(
    ("takes", "profile", "named"),
    [
        (True, {"state": "none"}, r"checkpoint wants \['x', .*, profile 'own' gives none"),
        (False, {}, r"checkpoint wants none, profile 'own' gives 'tool' \['x', "),
        (False, {"state": "joint_sin_cos"}, "checkpoint wants none, profile 'own' gives 'joint_sin_cos'"),
        (True, {"state": "joint_sin_cos"}, r"wants \['x', .*gives 'joint_sin_cos' of joint groups \[\]"),
        (True, {"state": "tool_axis_angle"}, r"wants \['x', .*gives 'tool_axis_angle' of 8 numbers"),
    ],
)
def test_a_state_that_only_one_of_checkpoint_and_profile_has_is_named_before_weights_are_read(
    tmp_path: Path, takes: bool, profile: dict[str, Any], named: str
) -> None:
    config = tiny_config()
    if not takes:
        config = dataclasses.replace(
            config, state_names=(), state_statistics=None, right_prompt="{instruction}"
        )
    config.save(tmp_path)  # and no weights
    with pytest.raises(SuiteMismatch, match=named):
        TwinPlayer.load(tmp_path, dataclasses.replace(load_profile("own"), **profile))


def test_a_checkpoint_that_was_never_trained_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    dataclasses.replace(tiny_config(), action_statistics=None).save(tmp_path)
    with pytest.raises(SuiteMismatch, match="never trained"):
        TwinPlayer.load(tmp_path, load_profile("own"))


def test_a_robot_that_a_checkpoint_does_not_know_is_named_before_weights_are_read(tmp_path: Path) -> None:
    tiny_config().save(tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"robot: found 'franka', the checkpoint knows \['wx250s'\]"):
        TwinPlayer.load(tmp_path, load_profile("own"), robot="franka")
