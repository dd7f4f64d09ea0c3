"""A launch that is given something wrong ends with a sentence before it has started anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launch_rig import FILES, Started, started

from twinbrain_ros.nodes.lifeline import LAUNCHED_BY

FILE_ARGUMENTS = [
    ("sim.launch.py", {"seed": "abc"}, "seed"),
    ("two_arms.launch.py", {"right_seed": "abc"}, "right_seed"),
    ("two_arms.launch.py", {"left": "9x"}, "left"),
    ("teleop.launch.py", {"joy_device": "first"}, "joy_device"),
    ("widowx.launch.py", {"use_arm": "ros_control"}, "use_arm"),
    ("policy.launch.py", {"left_period_s": "off"}, "left_period_s"),
]


def refused(name: str, given: dict[str, str]) -> str:
    """What a launch says that has started nothing."""
    found: list[Started] = []
    with pytest.raises(Exception) as error:  # launch's own, of several kinds
        started(name, found, **given)
    assert not found
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("argument", "value"),
    [("robot", "wx260s"), ("velocity_margin", "2"), ("namespace", "a b"), ("dry_run", "on")],
)
def test_a_wrong_value_of_an_argument_of_all(name: str, argument: str, value: str) -> None:
    assert argument in refused(name, {argument: value})


@pytest.mark.parametrize(("name", "given", "words"), FILE_ARGUMENTS)
def test_a_wrong_value_of_an_argument_of_one(name: str, given: dict[str, str], words: str) -> None:
    assert f"launch argument {words}: found" in refused(name, given)


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "twinbrain_ros", name, "robto:=franka"])
    assert "did you mean robot?" in refused(name, {"robto": "franka"})


def test_names_that_another_launch_file_has_are_its_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "theirs", "cell.launch.py", "colour:=red"])
    assert started("sim.launch.py", colour="red")


# Parameters -----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    velocity_margin: 0.3\n    threads: 4\n    flush_s: 1.0\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_parameter_file_reaches_every_node_after_the_arguments(name: str, file: Path) -> None:
    nodes = started(name, params_file=str(file), record="true")
    assert nodes
    for node in nodes:
        assert node.parameters is not None
        assert (node.parameters["velocity_margin"], node.parameters["threads"]) == (0.3, 4)


def test_a_file_that_contradicts_an_argument_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"velocity_margin": "0.2", "params_file": str(file)}
    words = [f"{name}:={value}" for name, value in given.items()]
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "twinbrain_ros", "policy.launch.py", *words])
    assert "velocity_margin is '0.2'" in refused("policy.launch.py", given)
    assert started("policy.launch.py", **(given | {"velocity_margin": "0.3"}))


def test_a_wrong_file_is_named(file: Path) -> None:
    file.write_text("controller_node:\n  ros__parameters:\n    velocity_margins: 0.3\n", encoding="utf-8")
    assert "did you mean velocity_margin?" in refused("sim.launch.py", {"params_file": str(file)})


def test_a_key_that_reaches_no_node_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(name: str, key: str, **more: str) -> dict[str, str]:
        file.write_text(f"{key}:\n  ros__parameters:\n    velocity_margin: 0.2\n", encoding="utf-8")
        words = [f"{name}:={value}" for name, value in more.items()]
        monkeypatch.setattr(sys, "argv", ["ros2", "launch", "twinbrain_ros", name, *words])
        return {"params_file": str(file), **more}

    words = refused("widowx.launch.py", given("widowx.launch.py", "controller_node"))
    assert "expected /wx250s/controller_node, or /**/controller_node for every namespace" in words
    assert started("widowx.launch.py", **given("widowx.launch.py", "wx250s/controller_node"))
    words = refused("policy.launch.py", given("policy.launch.py", "/wx250s/controller_node"))
    assert "reaches no node: expected /controller_node" in words
    assert started("policy.launch.py", **given("policy.launch.py", "/a/controller_node", namespace="a"))
    assert started("two_arms.launch.py", **given("two_arms.launch.py", "/right/controller_node"))
    assert "reaches no node" in refused("two_arms.launch.py", given("two_arms.launch.py", "controller_node"))


def test_two_arms_of_one_namespace_are_refused() -> None:
    assert "which left is too" in refused("two_arms.launch.py", {"left": "a", "right": "a"})
    assert "which left is too" in refused("two_arms.launch.py", {"left": "right"})


def test_every_node_knows_its_launch() -> None:
    import os

    from launch_rig import load, walk_nodes

    for node in walk_nodes(load("sim.launch.py"), record="true"):
        names = {"".join(part.text for part in name) for name, _ in node.additional_env}
        values = {"".join(part.text for part in value) for _, value in node.additional_env}
        assert names == {LAUNCHED_BY} and values == {str(os.getpid())}
