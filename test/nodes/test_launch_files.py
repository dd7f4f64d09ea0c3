"""The launch files, walked by the real `launch` where it is installed: it does not come as a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launch_rig import FILES, Started, arguments_of, by_executable, launch_file, load, started, walk

from twinbrain_ros.resources import TRANSPORT_CHOICES, demo_checkpoint, transport_environment

# Those that start a policy.
LOOPS = tuple(name for name in FILES if name != "teleop.launch.py")
EVERYWHERE = {
    "namespace", "robot", "autostart", "dry_run", "use_sim_time", "record", "bag_dir", "params_file",
    "log_level",
}  # fmt: skip
OF_LOOPS = {"checkpoint", "device", "dtype", "left_period_s", "strategy", "execution_steps"}
SWITCHES = {"autostart", "dry_run", "use_sim_time", "record", "controller"}


@pytest.mark.parametrize("name", FILES)
def test_a_launch_file_is_valid_python(name: str) -> None:
    path = launch_file(name)
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert "generate_launch_description" in code.co_names


def test_every_launch_file_is_tested() -> None:
    assert {path.name for path in launch_file(".").glob("*.launch.py")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(name: str) -> None:
    arguments = arguments_of(name)
    assert set(arguments) >= EVERYWHERE | (OF_LOOPS if name in LOOPS else set())
    assert all(len(argument.description) > 10 for argument in arguments.values())
    for switch in SWITCHES & set(arguments):
        assert arguments[switch].choices == ["true", "false"], switch
    assert "info" in arguments["log_level"].choices


def test_the_strategies_are_those_of_the_controller() -> None:
    from twinbrain_ros.control.strategies import Strategy

    assert arguments_of("policy.launch.py")["strategy"].choices == [kind.value for kind in Strategy]


def test_another_strategy_is_refused() -> None:
    with pytest.raises(Exception, match="strategy"):
        started("policy.launch.py", strategy="realtime")


def test_a_real_arm_does_not_start_by_itself() -> None:
    for name in ("policy.launch.py", "widowx.launch.py", "teleop.launch.py"):
        assert arguments_of(name)["autostart"].default_value[0].text == "false"


@pytest.mark.parametrize("name", FILES)
def test_every_node_gets_time_robot_and_start_from_the_arguments(name: str) -> None:
    given = {"use_sim_time": "true", "autostart": "true", "robot": "wx250s", "log_level": "debug"}
    nodes = started(name, **given)
    assert nodes
    for node in nodes:
        assert node.parameters is not None and node.parameters["use_sim_time"] is True
        if node.executable != "joy_node":
            assert (node.parameters["robot"], node.parameters["autostart"]) == ("wx250s", True)


@pytest.mark.parametrize("name", [name for name in FILES if name != "two_arms.launch.py"])
def test_the_namespace_reaches_every_node(name: str) -> None:
    nodes = started(name, namespace="arm/left")
    assert nodes and {node.namespace for node in nodes} == {"/arm/left"}
    # Relative names only: an absolute one would leave the namespace.
    assert not [rule for node in nodes for rule in node.remappings if any(side[0] == "/" for side in rule)]


def test_the_nodes_take_their_arguments_as_parameters() -> None:
    checkpoint = str(demo_checkpoint())
    given = {"checkpoint": checkpoint, "device": "cuda:1", "dtype": "bfloat16", "left_period_s": "0.5"}
    nodes = by_executable(started("policy.launch.py", **given, execution_steps="3", dry_run="true"))
    assert set(nodes) == {"controller_node", "policy_node"}
    policy, controller = nodes["policy_node"].parameters, nodes["controller_node"].parameters
    assert policy == {
        "robot": "wx250s", "autostart": False, "execution_steps": 3, "use_sim_time": False,
        "real_time": False, "checkpoint": checkpoint, "device": "cuda:1", "dtype": "bfloat16",
        "left_period_s": 0.5,
    }  # fmt: skip
    assert controller == {
        "robot": "wx250s", "autostart": False, "execution_steps": 3, "use_sim_time": False,
        "strategy": "receding_horizon", "dry_run": True, "velocity_margin": 0.9,
    }  # fmt: skip


def test_every_parameter_is_one_of_the_nodes() -> None:
    from twinbrain_ros.nodes.controller_node import ControllerNode
    from twinbrain_ros.nodes.parameters import COMMON
    from twinbrain_ros.nodes.policy_node import PolicyNode
    from twinbrain_ros.nodes.sim_node import SimNode

    kinds: dict[str, Any] = {
        "controller_node": ControllerNode,
        "policy_node": PolicyNode,
        "sim_node": SimNode,
    }
    nodes = by_executable(started("sim.launch.py"))
    assert set(nodes) == set(kinds)
    for executable, node in nodes.items():
        declared = {
            parameter.name: parameter.default for parameter in (*COMMON, *kinds[executable].parameters)
        }
        for name, value in (node.parameters or {}).items():
            # rclpy declares this one itself.
            assert name == "use_sim_time" or type(value) is type(declared[name]), name


@pytest.mark.parametrize(("strategy", "real_time"), [("real_time", True), ("temporal_ensemble", False)])
def test_a_strategy_reaches_controller_and_policy(strategy: str, real_time: bool) -> None:
    nodes = by_executable(started("sim.launch.py", strategy=strategy))
    controller, policy = nodes["controller_node"].parameters, nodes["policy_node"].parameters
    assert controller is not None and controller["strategy"] == strategy
    assert policy is not None and policy["real_time"] is real_time


def test_large_images_get_through_unless_the_shell_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen in ("", *TRANSPORT_CHOICES):
        for name in TRANSPORT_CHOICES:
            monkeypatch.delenv(name, raising=False)
        if chosen:
            monkeypatch.setenv(chosen, "mine")
        for node in started("sim.launch.py"):
            assert node.environment is not None
            found = {name: node.environment[name] for name in TRANSPORT_CHOICES if name in node.environment}
            assert found == ({chosen: "mine"} if chosen else transport_environment({})) != {}


# Two arms -------------------------------------------------------------------------------------------


def test_two_arms_share_no_topic() -> None:
    processes = started("two_arms.launch.py", right="wx/right", record="true")
    each = {"controller_node", "policy_node", "sim_node", "recorder_node"}
    assert {(node.namespace, node.executable) for node in processes} == {
        (namespace, executable) for namespace in ("/left", "/wx/right") for executable in each
    }


def test_two_arms_have_scenes_of_their_own_and_share_other_arguments() -> None:
    nodes = started("two_arms.launch.py", right_seed="7", task="put", strategy="open_loop")
    seeds = {
        node.namespace: (node.parameters["seed"], node.parameters["task"])
        for node in nodes
        if node.executable == "sim_node" and node.parameters
    }
    assert seeds == {"/left": (0, "put"), "/right": (7, "put")}
    strategies = [
        node.parameters["strategy"]
        for node in nodes
        if node.executable == "controller_node" and node.parameters
    ]
    assert strategies == ["open_loop", "open_loop"]


# Recording ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_recorded_unless_asked_for(name: str) -> None:
    assert all(process.executable != "recorder_node" for process in started(name))


@pytest.mark.parametrize("name", [name for name in FILES if name != "two_arms.launch.py"])
def test_a_recorder_starts_beside_the_others_and_follows_autonomy(name: str, tmp_path: Path) -> None:
    asked = {"record": "true", "bag_dir": str(tmp_path), "image_compression": "png"}
    processes = started(name, namespace="left", robot="wx250s", **asked)
    (recorder,) = (process for process in processes if process.executable == "recorder_node")
    assert recorder.namespace == "/left" and recorder.parameters is not None
    assert recorder.parameters["directory"] == str(tmp_path)
    assert recorder.parameters["image_compression"] == "png"
    assert recorder.parameters["auto"] is True and recorder.parameters["autostart"] is True
    assert recorder.parameters["robot"] == "wx250s"


def test_a_recorder_follows_the_namespace_that_somebody_has_put_around() -> None:
    description = load("policy.launch.py")
    from launch.actions import GroupAction
    from launch_ros.actions import PushRosNamespace

    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(record="true", namespace="left")
    found: list[Started] = []
    walk(GroupAction([PushRosNamespace("cell"), *description.entities]), context, found)
    assert {process.namespace for process in found} == {"/cell/left"}
    assert "recorder_node" in {process.executable for process in found}
