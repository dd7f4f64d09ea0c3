"""The state that a policy is given is what it asks for by name, of what its robot file lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bag_fixtures import make_bag, swing
from brain_fixtures import tiny_config, tiny_policy, views
from robot_files import changed_robot

from twinbrain_ros.brain.config import CameraInput, CheckpointMismatch, Normalizer
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.data.bag_frames import ConversionOptions
from twinbrain_ros.data.conversion import convert
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFileError, load_robot
from twinbrain_ros.robot.state import pick_state
from twinbrain_ros.sim.rollout import Rollout, acting
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

NAMES = ("elbow", "gripper", "z")


def listing(directory: Path, names: Any) -> Any:
    directory.mkdir(exist_ok=True)
    return changed_robot(
        directory, "wx250s", lambda document: document["observation"].update(state_names=names)
    )


def policy_of(names: tuple[str, ...]) -> TwinBrainPolicy:
    changes: dict[str, Any] = {"right_prompt": "{instruction}"} if not names else {}
    units = Normalizer((0.0,) * len(names), (1.0,) * len(names)) if names else None
    config = dataclasses.replace(tiny_config(), state_names=names, state_statistics=units, **changes)
    policy = tiny_policy()
    return TwinBrainPolicy(type(policy.model)(config), policy.tokenizer)


@pytest.mark.parametrize("names", [list(NAMES), [], ["waist"], list(STATE_NAMES)])
def test_a_robot_file_lists_any_names_of_tool_and_joints(tmp_path: Path, names: list[str]) -> None:
    assert listing(tmp_path, names).observation.state_names == tuple(names)


@pytest.mark.parametrize("names", [["x", "knee"], ["x", "x"], "x", [1]])
def test_names_that_nothing_is_known_of_are_refused(tmp_path: Path, names: Any) -> None:
    with pytest.raises(RobotFileError, match=r"observation\.state_names"):
        listing(tmp_path, names)


def test_what_is_named_is_picked_in_its_order() -> None:
    tool, joints = np.arange(7.0), np.array([10.0, 11.0])
    picked = pick_state(("b", "gripper", "x"), tool, joints, ("a", "b"))
    np.testing.assert_array_equal(picked, [11.0, 6.0, 0.0])
    assert pick_state(STATE_NAMES, tool, joints, ("a", "b")) is tool


@pytest.mark.parametrize("names", [NAMES, ()])
def test_a_policy_in_the_simulator_is_given_what_it_asks_for(names: tuple[str, ...]) -> None:
    policy, robot = policy_of(names), load_robot("wx250s")
    seen: list[Any] = []
    act = policy.act

    def watched(images: Any, words: str, state: Any, **rest: Any) -> np.ndarray:
        seen.append(state)
        return act(images, words, state, normalized=True, **rest)

    policy.act = watched  # type: ignore[method-assign]
    rollout = Rollout(robot, max_time_s=0.5)
    rollout.run(acting(policy), 500_000, "pick")
    elbow = robot.arm_joints.index("elbow")
    _, z = Kinematics(robot).forward(robot.home)[0][1:]
    if not names:
        assert seen[0] is None
    else:
        np.testing.assert_allclose(seen[0], [robot.home[elbow], 1.0, z], atol=0.02)


def test_a_robot_that_lists_less_than_a_checkpoint_needs_is_refused(tmp_path: Path) -> None:
    policy = policy_of(NAMES)
    policy.take_robot(listing(tmp_path / "all", [*STATE_NAMES, "elbow"]), to_act=False)
    with pytest.raises(CheckpointMismatch, match=r"state names: checkpoint needs \['elbow', .* has \['x'\]"):
        policy.take_robot(listing(tmp_path / "few", ["x"]), to_act=False)


@pytest.mark.parametrize("name", ["google_robot", "libero_panda"])
def test_robots_of_the_papers_data_ship(name: str) -> None:
    robot = load_robot(name)
    position, rotation = Kinematics(robot).forward(robot.home)
    assert robot.workspace.lower[2] < position[2] < robot.workspace.upper[2]
    assert rotation[2, 0] < -0.9, "the tool points down where an episode starts"
    assert robot.cameras[0].name == "front"


def test_the_google_robots_joints_are_where_its_description_has_them() -> None:
    """At 0 its joints are in a column: heights and offsets add up."""
    position, rotation = Kinematics(load_robot("google_robot")).forward(np.zeros(7))
    heights = 0.5945 + 0.113 + 0.21502852885 + 0.1849715 + 0.0915 + 0.2735 + 0.10911 + 0.15
    sideways = -0.16728852885 + 0.002289 - 0.064 - 0.101 - 0.00604 + 0.0060384
    np.testing.assert_allclose(position, [0.0, sideways, heights], atol=1e-9)
    np.testing.assert_allclose(rotation[:, 0], [0.0, 0.0, 1.0], atol=1e-9)


def test_a_gripper_that_closes_upwards_opens_downwards() -> None:
    gripper = load_robot("google_robot").gripper
    assert gripper.opening(1.3) == 0.0 and gripper.opening(0.0) == 1.0
    assert gripper.finger(0.25) == pytest.approx(0.975)
    assert [gripper.clipped(value) for value in (-1.0, 0.5, 2.0)] == [0.0, 0.5, 1.3]


def test_recordings_are_trained_on_with_the_joints_that_a_policy_asks_for(tmp_path: Path) -> None:
    robot = listing(tmp_path / "robot", [*STATE_NAMES, "waist", "elbow"])
    bag = make_bag(tmp_path / "bag", robot, 3.0, joints=swing(robot)).path
    convert([bag], tmp_path / "set", ConversionOptions())
    cameras = (CameraInput("front", 0, 0),)
    entries = [MixtureEntry(str(tmp_path / "set"))]
    names = ("waist", "x", "elbow")
    batch = MixtureSource(entries, robot, cameras, 4, state_names=names).batch(0, 0, 64)
    waist, x, elbow = batch.state.numpy().T
    assert np.ptp(waist) > 0.05, "it swings"
    whole = MixtureSource(entries, robot, cameras, 4, state_names=STATE_NAMES).batch(0, 0, 64)
    np.testing.assert_array_equal(x, whole.state.numpy()[:, 0])
    units = MixtureSource(entries, robot, cameras, 4, state_names=names).statistics()[1]
    assert len(units.mean) == 3 and abs(units.mean[2] - elbow.mean()) < 0.1
    with pytest.raises(DatasetError, match=r"state \['wrist_angle'\]: the policy's is"):
        MixtureSource(entries, robot, cameras, 4, state_names=("wrist_angle",))


def test_a_policy_without_a_state_is_trained_without_one(tmp_path: Path) -> None:
    policy = policy_of(())
    state, actions = policy.standardize(torch.zeros(2, 0), torch.zeros(2, 8, 7))
    assert state is None and actions.shape == (2, 8, 7)
    chunk = policy.act(views(), "pick up the block", None, normalized=True)
    assert chunk.shape == (8, 7)
