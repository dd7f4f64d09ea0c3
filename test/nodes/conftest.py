"""A bench for nodes: real topics in a ROS domain of this run, waits with deadlines instead of sleeping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinbrain_ros.demo.environment import local_ros_environment

# A domain of this run's own, also if the shell has one: another loop's messages would spoil the counts.
os.environ.pop("ROS_DOMAIN_ID", None)
os.environ.update(local_ros_environment(os.environ))

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

# Long enough to start a process that loads PyTorch while every core is busy; only failures take so long.
DEADLINE_S = 60.0
EXIT_WITHIN_S = 5.0
SILENT = "has been measured for"
ASK_AGAIN_S = 10.0
ERROR, WARN, OK = 2, 1, 0
SUPPORT = Path(__file__).resolve().parents[1] / "support"
STAND_INS = ("expert_policy_node", "slow_policy_node")  # nodes that live there


class Bench:
    """A node of the test's own, and the nodes under test, on one executor in the test's thread.

    Args:
        namespace: of all these nodes.
        beside: a bench in another namespace, which has the same executor.
    """

    def __init__(self, namespace: str = "", beside: Bench | None = None) -> None:
        self.namespace, self._beside = namespace, beside
        self.executor = beside.executor if beside is not None else SingleThreadedExecutor()
        self.node = rclpy.create_node("bench", namespace=namespace)
        self.executor.add_node(self.node)
        self._nodes: list[TwinBrainNode] = []
        self.status: dict[str, Any] = {}
        self.said: dict[str, list[str]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DIAGNOSTICS)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name] = status
            self.said.setdefault(status.name, []).append(status.message)

    def add(self, make: Callable[..., TwinBrainNode], **parameters: Any) -> TwinBrainNode:
        """A node under test, not yet configured."""
        overrides = [rclpy.Parameter(name, value=value) for name, value in parameters.items()]
        where = {"namespace": self.namespace} if self.namespace else {}
        node = make(parameter_overrides=overrides, **where)
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def until(self, condition: Callable[[], Any], what: str | Callable[[], str] = "") -> Any:
        """Takes in messages until the condition holds; fails after the deadline, saying `what`."""
        end = time.monotonic() + DEADLINE_S
        while not (result := condition()):
            if time.monotonic() > end:
                said = {name: messages[-3:] for name, messages in self.said.items()}
                text = what if isinstance(what, str) else what()
                pytest.fail(f"never came true within {DEADLINE_S} s: {text}; on /diagnostics: {said}")
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def publisher(self, kind: type, topic: str, profile: Any = qos.SENSOR_OUT) -> Any:
        """A publisher that somebody listens to."""
        publisher = self.node.create_publisher(kind, topic, profile)
        self.until(lambda: publisher.get_subscription_count() > 0, f"nobody subscribes to {topic}")
        return publisher

    def record(self, kind: type, topic: str, profile: Any = qos.STATUS) -> list[Any]:
        """A list that fills with what somebody publishes."""
        messages: list[Any] = []
        subscription = self.node.create_subscription(kind, topic, messages.append, profile)
        self.until(lambda: subscription.get_publisher_count() > 0, f"nobody publishes {topic}")
        return messages

    def call(self, kind: type, name: str, request: Any) -> Any:
        """A service's answer. Asked again where the machine was silent, and an arm may not move yet."""
        while SILENT in getattr(answer := self._call(kind, name, request), "message", ""):
            self.executor.spin_once(timeout_sec=0.02)
        return answer

    def _call(self, kind: type, name: str, request: Any) -> Any:
        """A service's answer. Asked again if none comes: a server that has not discovered the client's reader
        yet (which the client cannot know) drops its first answer."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"no service {name}")
        futures = []

        def answered() -> Any:
            if time.monotonic() > len(futures) * ASK_AGAIN_S + asked_s:
                futures.append(client.call_async(request))
            return next((future for future in futures if future.done()), None)

        asked_s = time.monotonic()
        answer = self.until(answered, f"no answer from {name}").result()
        self.node.destroy_client(client)
        return answer

    def says(self, node: str, level: int, words: str) -> bool:
        """Whether the node's newest diagnostics have this level and contain these words."""
        status = self.status.get(node)
        return status is not None and status.level[0] == level and words in status.message

    def value(self, node: str, key: str) -> str:
        """A value of the node's newest diagnostics, empty if there is none."""
        status = self.status.get(node)
        return next((pair.value for pair in status.values if pair.key == key), "") if status else ""

    def remove(self, node: TwinBrainNode) -> None:
        """Brings a node under test to its end."""
        self._nodes.remove(node)
        node.close()
        node.destroy_node()

    def close(self) -> None:
        while self._nodes:
            self.remove(self._nodes[-1])
        self.node.destroy_node()
        if self._beside is None:
            self.executor.shutdown()


@pytest.fixture
def bench() -> Iterator[Bench]:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    bench = Bench()
    yield bench
    bench.close()
    rclpy.shutdown()


@pytest.fixture
def beside(bench: Bench) -> Iterator[Callable[[str], Bench]]:
    """Makes benches in namespaces, on the bench's executor."""
    made: list[Bench] = []

    def make(namespace: str) -> Bench:
        made.append(Bench(namespace, bench))
        return made[-1]

    yield make
    for other in made:
        other.close()


@pytest.fixture(scope="session")
def robot() -> RobotFile:
    return load_robot("wx250s")


class NodeProcess:
    """A node module as a process of its own."""

    def __init__(self, module: str, log: Path, **parameters: Any) -> None:
        full = module if module in STAND_INS else f"twinbrain_ros.nodes.{module}"
        command = [sys.executable, "-m", full, "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        self.log = log
        with log.open("wb") as output:
            environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
            self.popen = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, float]:
        """Sends a signal; gives the exit code and how long the end took [s]."""
        start = time.monotonic()
        self.popen.send_signal(number)
        code = self.popen.wait(timeout=2 * EXIT_WITHIN_S)
        return code, time.monotonic() - start

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts node processes; whatever is left of them at the end is killed."""
    started: list[NodeProcess] = []

    def start(module: str, **parameters: Any) -> NodeProcess:
        process = NodeProcess(module, tmp_path / f"{module}_{len(started)}.log", **parameters)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGCONT)
            process.popen.kill()
            process.popen.wait()
