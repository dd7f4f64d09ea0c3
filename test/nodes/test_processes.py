"""Nodes as processes of their own: how they start, how they end, and that no frame is lost between them."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from twinbrain_ros.robot.robot_file import RobotFile

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
    assert process.end()[0] == 0, process.output()


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


def test_no_frame_is_lost_between_two_processes(
    bench: Any, robot: RobotFile, start_process: Callable[..., Any]
) -> None:
    # A history that nothing falls out of, however long the machine holds this process up.
    every = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    received = Counter[str]()
    for camera in robot.cameras:
        bench.node.create_subscription(
            Image, camera.topic, lambda _, name=camera.name: received.update([name]), every
        )
    process = start_process("sim_node")
    bench.until(lambda: state(bench, "sim_node") == "unconfigured", process.output)

    def change(transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        assert bench.call(ChangeState, "sim_node/change_state", request).success

    def lost_while_sending(frames: int) -> list[int]:
        """Lets the cameras run for so many frames more; how many are missing when they are still."""
        goal = sum(received.values()) + frames * len(robot.cameras)
        change(Transition.TRANSITION_ACTIVATE)
        bench.until(lambda: sum(received.values()) >= goal, lambda: f"received {received} of {goal}")
        change(Transition.TRANSITION_DEACTIVATE)
        bench.until(lambda: state(bench, "sim_node") == "inactive")
        heard = len(bench.said["sim_node"])
        bench.until(lambda: len(bench.said["sim_node"]) >= heard + 2)  # 1 s apart
        sent = {c.name: int(bench.value("sim_node", f"frames_sent/{c.name}")) for c in robot.cameras}
        return [sent[name] - received[name] for name in sent]

    change(Transition.TRANSITION_CONFIGURE)
    # What cameras send before they know of this process reaches nobody: counting begins after that.
    unheard = lost_while_sending(10)
    assert lost_while_sending(40) == unheard
