"""A policy that takes long to load or to answer: the node says so, answers calls, and ends when asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from lifecycle_msgs.srv import GetState
from policy_rig import Rig, StandIn
from rcl_interfaces.srv import GetParameters
from twinbrain_ros.msg import PolicyStatus

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.policy_loading import Loading
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.robot.robot_file import RobotFile

NAME = "policy_node"
EXIT_WITHIN_S = 5.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_while_it_loads_it_answers_and_ends_when_asked(
    bench: Any,
    robot: RobotFile,
    start_process: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    monkeypatch.setenv("SLOW", "load")
    process = start_process("slow_policy_node", autostart=True)
    status = bench.record(PolicyStatus, robot.topics.policy_status, qos.COMMAND)
    bench.until(lambda: "loading" in bench.status[NAME].message if NAME in bench.status else False)
    state = bench.call(GetState, f"{NAME}/get_state", GetState.Request()).current_state
    assert state.label == "configuring"
    values = bench.call(
        GetParameters, f"{NAME}/get_parameters", GetParameters.Request(names=["device"])
    ).values
    assert values[0].string_value == "cpu"
    bench.until(lambda: status and "loading" in status[-1].problem)
    code, taken_s = process.end(number)
    assert code == 0 and taken_s < EXIT_WITHIN_S, process.output()
    assert "Traceback" not in process.output() and "terminate" not in process.output()


def test_while_it_computes_it_ends_when_asked(
    bench: Any, robot: RobotFile, start_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "act")
    process = start_process("slow_policy_node", autostart=True)
    status = bench.record(PolicyStatus, robot.topics.policy_status, qos.COMMAND)
    rig = Rig(bench, robot, node=False)
    rig.say("go")
    bench.until(lambda: rig.send() and status and status[-1].busy_s > 0, process.output)
    code, taken_s = process.end()
    assert code == 0 and taken_s < EXIT_WITHIN_S, process.output()
    assert "left behind" in process.output()
    assert "Traceback" not in process.output() and "terminate" not in process.output()


def test_it_is_configured_once_the_policy_is_there(bench: Any) -> None:
    """A change of state that takes long is one change all the same, for whoever asks and whoever waits."""
    states = []

    def load(*_: Any) -> StandIn:
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            states.append(node._state_machine.current_state[1])
            time.sleep(0.05)
        return StandIn()

    node = bench.add(lambda **arguments: PolicyNode(load, lambda _: None, **arguments))
    assert node.trigger_configure().name == "SUCCESS"
    assert set(states) == {"configuring"} and node.phase == "inactive"
    assert node.executor is bench.executor


@pytest.mark.parametrize("real_time", [False, True])
def test_it_is_warmed_up_for_the_chunks_that_come(bench: Any, real_time: bool) -> None:
    """Also for those with a guide, and what it says of itself later reaches the log."""
    warmed: list[bool] = []

    class Warmed(StandIn):
        def warm_up(self, sizes: Any = None, guided: bool = False) -> None:
            warmed.append(guided)

    def load(*wanted: Any) -> StandIn:
        wanted[-1]("cpu: needs about 18.9 GB")
        return Warmed()

    node = bench.add(lambda **arguments: PolicyNode(load, lambda _: None, **arguments), real_time=real_time)
    said: list[str] = []
    node._say = said.append
    assert node.trigger_configure().name == "SUCCESS"
    assert warmed == [real_time] and "cpu: needs about 18.9 GB" in said


def test_what_cannot_be_loaded_is_told_and_the_node_can_try_again(bench: Any) -> None:
    wrong = [ValueError("checkpoint: found nothing, expected a model")]

    def load(*_: Any) -> StandIn:
        if wrong:
            raise wrong.pop()
        return StandIn()

    node = bench.add(lambda **arguments: PolicyNode(load, lambda _: None, **arguments))
    assert node.trigger_configure().name == "FAILURE"
    bench.until(lambda: bench.says(NAME, 2, "cannot configure: checkpoint: found nothing"))
    assert node.trigger_configure().name == "SUCCESS"


def test_how_far_it_is_is_said(tmp_path: Any, robot: RobotFile, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    (tmp_path / "model.safetensors").write_bytes(bytes(20_000_000))
    shares: list[str] = []

    def load(checkpoint: str, device: str, threads: int, dtype: str, progress: Any, say: Any) -> StandIn:
        for share in (0.25, 0.5):
            progress(share)
            shares.append(str(loading))
        return StandIn()

    loading = Loading(load, (str(tmp_path), "cpu", 1, ""), said.append)
    policy = loading.run(robot, {"left_period_s": 0.5}, {})
    loading.done(policy)
    assert said[0] == f"loading {tmp_path} (0.02 GB) on cpu" and said[-1].startswith("ready: ")
    assert "25% of the weights" in shares[0] and "50% of the weights" in shares[1]
    assert policy.left_period_s == 0.5
