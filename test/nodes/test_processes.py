"""Nodes as processes of their own: how they start, how they end, and that no frame is lost between them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from stand_in import StandInPolicy

from twinbrain_ros.nodes.policy_node import PolicyNode

EXIT_WITHIN_S = 5.0
ERROR, WARN, OK = 2, 1, 0
SIGNALS = {"sim_node": signal.SIGINT, "controller_node": signal.SIGTERM, "policy_node": signal.SIGINT}


def state(bench: Any, name: str) -> str:
    return bench.value(name, "state")


@pytest.mark.parametrize(("module", "to_send"), SIGNALS.items())
def test_a_node_starts_unconfigured_and_ends_cleanly(
    bench: Any, start_process: Callable[..., Any], module: str, to_send: signal.Signals
) -> None:
    process = start_process(module)
    bench.until(lambda: state(bench, module) == "unconfigured", process.output)
    code, taken_s = process.end(to_send)
    assert code == 0 and taken_s < EXIT_WITHIN_S, process.output()
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("module", ["sim_node", "controller_node"])
def test_an_active_node_ends_cleanly(bench: Any, start_process: Callable[..., Any], module: str) -> None:
    process = start_process(module, autostart=True)
    bench.until(lambda: state(bench, module) == "active", process.output)
    code, taken_s = process.end()
    assert code == 0 and taken_s < EXIT_WITHIN_S, process.output()
    assert "Traceback" not in process.output()


def test_a_checkpoint_that_is_not_there_leaves_the_node_up(
    bench: Any, start_process: Callable[..., Any], tmp_path: Any
) -> None:
    process = start_process("policy_node", autostart=True, checkpoint=tmp_path / "nothing")
    bench.until(lambda: bench.says("policy_node", ERROR, "nothing"), process.output)
    assert state(bench, "policy_node") == "unconfigured"
    assert process.popen.poll() is None
    assert process.end()[0] == 0


def test_a_signal_while_configuring_does_not_wait(bench: Any, start_process: Callable[..., Any]) -> None:
    process = start_process("policy_node")
    bench.until(lambda: state(bench, "policy_node") == "unconfigured", process.output)
    client = bench.node.create_client(ChangeState, "policy_node/change_state")
    bench.until(client.service_is_ready, process.output)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_CONFIGURE
    client.call_async(request)
    code, taken_s = process.end()
    assert code == 0 and taken_s < EXIT_WITHIN_S, process.output()
    assert "Traceback" not in process.output()


def test_a_parameter_out_of_range_ends_the_process_with_a_sentence(start_process: Callable[..., Any]) -> None:
    process = start_process("controller_node", velocity_margin=3.0)
    assert process.popen.wait(timeout=60.0) == 1
    output = process.output()
    assert "velocity_margin" in output and "Traceback" not in output


class Still(StandInPolicy):
    """A policy that leaves the arm where it is."""

    def act(self, images: Any, instruction: str, state: Any, *, noise: Any, stamp_s: float) -> Any:
        return noise * 0.0


def test_no_frame_is_lost_between_two_processes(bench: Any, start_process: Callable[..., Any]) -> None:
    policy = bench.add(lambda **arguments: PolicyNode(lambda *_: Still(), **arguments), autostart=True)
    assert policy.autostart()
    process = start_process("sim_node")
    client = bench.node.create_client(ChangeState, "sim_node/change_state")
    bench.until(client.service_is_ready, process.output)

    def change(transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        assert bench.call(ChangeState, "sim_node/change_state", request).success

    def counts(name: str, what: str) -> list[int]:
        return [int(bench.value(name, f"frames_{what}/{c}") or 0) for c in ("front", "wrist")]

    def sent_from(now: list[int], frames: int) -> list[int]:
        """Lets the cameras run for so many frames at least; how many they have sent when they are still."""
        change(Transition.TRANSITION_ACTIVATE)
        bench.until(lambda: min(counts("sim_node", "sent")) >= now[0] + frames)
        change(Transition.TRANSITION_DEACTIVATE)
        bench.until(lambda: state(bench, "sim_node") == "inactive")
        return counts("sim_node", "sent")

    change(Transition.TRANSITION_CONFIGURE)
    # That the policy knows of the cameras does not say that they know of it: what they send until then
    # reaches nobody, so counting begins when something has arrived and nothing is on its way.
    first = sent_from([0], 10)
    bench.until(lambda: min(counts("policy_node", "received")) > 0)
    heard = len(bench.said["policy_node"])
    bench.until(lambda: len(bench.said["policy_node"]) >= heard + 2)  # one second apart at least
    unheard = [a - b for a, b in zip(first, counts("policy_node", "received"), strict=True)]
    assert all(0 <= missing < 10 for missing in unheard), unheard
    sent = sent_from(first, 40)
    bench.until(
        lambda: [a - b for a, b in zip(sent, counts("policy_node", "received"), strict=True)] == unheard,
        lambda: f"sent {sent}, received {counts('policy_node', 'received')}, before {unheard} unheard",
    )
