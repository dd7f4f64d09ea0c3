"""Asks the arm's driver in what state it is, and calls what is missing if that is allowed.

Interbotix' driver is asked by get_robot_info and get_motor_registers, ros2_control by list_controllers.
Nothing here waits: answers come when they come, and what has not been answered in time is unknown. A driver
that was started again is asked again, and modes and controllers, which others may switch, now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node

from twinbrain_ros.nodes.interfaces import import_interfaces
from twinbrain_ros.robot import driver_findings
from twinbrain_ros.robot.driver_findings import Finding, ModeCall, State
from twinbrain_ros.robot.robot_file import RobotFile

APPEARS_S = 3.0  # a service that is not there by then is reported; it is waited for all the same
ANSWER_S = 3.0
SWITCHED_S = 5.0  # modes and controllers are asked for so often, as others may switch them
MENDED_S = 2.0  # and so often while something is wrong, registers too, whose reading takes the motors' bus
# Registers may be set by others too. Reading them takes the motors' bus: not while the arm is driven, but it
# is not driven either before they were read within this and a little more.
REGISTERS_S, LATE_S = 30.0, 5.0
AGAIN_S = 10.0  # after an answer that did not come
INFO, REGISTERS, LIST, MODES = (
    "get_robot_info",
    "get_motor_registers",
    "list_controllers",
    "set_operating_modes",
)

PENDING = "the driver is being asked for the motors' registers: ask again in a moment"

WhenDone = Callable[[Any, Callable[[Any], None]], None]


@dataclass
class _Question:
    """One service call and how it stands; `answer` is None until there is one."""

    client: Any
    request: Any
    every_s: float = float("inf")
    answer: Any = None
    failure: str = ""
    asked_s: float | None = None  # since when an answer is waited for
    again_s: float = 0.0
    since_s: float = field(default_factory=time.monotonic)  # since when the service is looked for

    @property
    def settled(self) -> bool:
        """Whether there is an answer, or it was waited for long enough."""
        return self.answer is not None or bool(self.failure)


class DriverCheck:
    """What the driver of an arm says of itself.

    Args:
        node: asks.
        when_done: calls back with a future's result, as `TwinBrainNode.when_done`.
        manager: name of the controller manager, for ros2_control.
    """

    def __init__(
        self, node: Node, when_done: WhenDone, robot: RobotFile, manager: str = "controller_manager"
    ) -> None:
        self._node, self._when_done, self._robot = node, when_done, robot
        self._manager = manager
        self._questions: dict[str, _Question] = {}
        self._calls: Any = None  # the client that sets modes
        self._made: list[ModeCall] = []
        self._refused_call = ""
        self._doubted_s = 0.0  # answers of registers from before do not count
        self._missing = ""  # a package
        self.xs = robot.command_interface == "xs_joint_group"
        if self.xs:
            self._ask_xs()
        if not self.xs or not robot.gripper_command.interface.startswith("xs_"):
            self._ask_ros2_control()

    def _ask_xs(self) -> None:
        services = import_interfaces(
            "interbotix_xs_msgs.srv", self._robot, "command.interface", "xs_joint_group", "joint_trajectory"
        )
        info, registers = services.RobotInfo, services.RegisterValues
        arm = {"cmd_type": "group", "name": "arm"}
        self._add("arm", info, INFO, info.Request(**arm), SWITCHED_S)
        velocity = registers.Request(reg="Profile_Velocity", **arm)
        self._add("registers", registers, REGISTERS, velocity, REGISTERS_S)
        if self._robot.gripper_command.interface == "xs_joint_single":
            self._add("gripper", info, INFO, info.Request(cmd_type="single", name="gripper"), SWITCHED_S)
        self._calls = self._node.create_client(services.OperatingModes, MODES)

    def _ask_ros2_control(self) -> None:
        try:
            services = import_interfaces(
                "controller_manager_msgs.srv", self._robot, "command.interface", "joint_trajectory", "none"
            )
        except ValueError:
            self._missing = "controller_manager_msgs"
            return
        kind = services.ListControllers
        self._add("controllers", kind, f"{self._manager}/{LIST}", kind.Request(), SWITCHED_S)

    def _add(self, name: str, kind: Any, service: str, request: Any, every_s: float = float("inf")) -> None:
        self._questions[name] = _Question(self._node.create_client(kind, service), request, every_s)

    def close(self) -> None:
        """Gives its clients up."""
        for question in self._questions.values():
            self._node.destroy_client(question.client)
        self._questions.clear()
        if self._calls is not None:
            self._node.destroy_client(self._calls)
            self._calls = None

    # Asking -----------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether everything is answered, or was waited for long enough."""
        return all(question.settled for question in self._questions.values())

    def look(self, driven: bool = False) -> None:
        """To be called about once a second: asks what is to be asked now.

        Args:
            driven: whether the arm is: then its motors are left in peace.
        """
        now_s, wrong = time.monotonic(), bool(self.problem())
        for name, question in self._questions.items():
            if driven and name == "registers" and question.answer is not None and question.asked_s is None:
                continue
            if wrong and question.answer is not None and question.asked_s is None:
                question.again_s = min(question.again_s, question.since_s + MENDED_S)
            self._look(question, now_s)

    def doubt_registers(self) -> None:
        """What the motors said before now does not count: something has happened to the arm."""
        if "registers" in self._questions:
            self._doubted_s = time.monotonic()
            self._questions["registers"].again_s = 0.0

    def pending(self) -> str:
        """What has to be read from the motors before the arm is driven; empty if nothing."""
        registers = self._questions.get("registers")
        if registers is None or registers.answer is None or registers.failure:
            return ""
        oldest_s = max(self._doubted_s, time.monotonic() - REGISTERS_S - LATE_S)
        return PENDING if registers.since_s < oldest_s else ""

    @property
    def sleep(self) -> NDArray[np.float64] | None:
        """Where the driver says that the arm sleeps [J]; None: not known."""
        info = self._questions["arm"].answer if self.xs else None
        return driver_findings.sleep_pose(self._robot, info) if info is not None else None

    def ask_again(self) -> None:
        """Forgets every answer: something has changed."""
        for question in self._questions.values():
            question.answer = question.asked_s = None
            question.again_s, question.since_s = 0.0, time.monotonic()

    def _look(self, question: _Question, now_s: float) -> None:
        name = self._node.resolve_service_name(question.client.srv_name)
        if not question.client.service_is_ready():
            question.answer = question.asked_s = None  # a driver that comes back may be in any state
            question.again_s = 0.0
            if question is not self._questions.get("controllers"):
                self._made.clear()  # Interbotix' driver
            if now_s - question.since_s > APPEARS_S:
                question.failure = f"there is no service {name}: is the driver running, in this namespace?"
            return
        if question.asked_s is None and now_s >= question.again_s:
            question.asked_s, question.again_s = now_s, float("inf")
            future = question.client.call_async(question.request)
            self._when_done(future, lambda answer: self._answered(question, answer))
        elif question.asked_s is not None and now_s - question.asked_s > ANSWER_S:
            question.asked_s, question.again_s = None, now_s + AGAIN_S
            question.failure = f"{name} has not answered within {ANSWER_S:g} s"

    def _answered(self, question: _Question, answer: Any) -> None:
        if question.answer not in (None, answer) and "registers" in self._questions:
            self._questions["registers"].again_s = 0.0  # somebody has changed the modes
        question.answer, question.failure = answer, ""
        question.asked_s, question.since_s = None, time.monotonic()
        question.again_s = question.since_s + question.every_s

    # Findings ---------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """Everything that is known by now; what is still being asked is left out."""
        found = []
        if self._missing:
            reason = f"not asked: {self._missing} cannot be imported"
            found.append(Finding("controllers", State.UNKNOWN, reason, "install it to have this checked"))
        if self.xs:
            found += self._xs()
        if "controllers" in self._questions:
            found += self._unless_failed("controllers", self._controllers)
        return found

    def _xs(self) -> list[Finding]:
        service = self._node.resolve_service_name(MODES)
        registers = self._questions["registers"]
        values = list(registers.answer.values) if registers.answer is not None else None
        found = []
        if registers.settled:
            found += self._unless_failed(
                "arm", lambda info: driver_findings.judge_xs_arm(self._robot, info, values, service)
            )
        if "gripper" in self._questions:
            found += self._unless_failed(
                "gripper", lambda info: driver_findings.judge_xs_gripper(self._robot, info, service)
            )
        if self._refused_call:
            found.append(Finding("driver's modes are not set", State.WARN, self._refused_call))
        return found

    def _controllers(self, answer: Any) -> list[Finding]:
        service = self._node.resolve_service_name(f"{self._manager}/{LIST}")
        return driver_findings.judge_controllers(self._robot, answer.controller, service.rpartition("/")[0])

    def _unless_failed(self, name: str, judge: Callable[[Any], list[Finding]]) -> list[Finding]:
        question = self._questions[name]
        if question.answer is not None:
            return judge(question.answer)
        about = {"arm": "arm's modes", "gripper": "gripper's modes"}.get(name, name)
        return [Finding(about, State.UNKNOWN, question.failure)] if question.failure else []

    def problem(self) -> str:
        """What keeps the arm from following commands, in one sentence; empty if nothing is known to."""
        wrong = [finding.sentence for finding in self.findings() if finding.state is State.WRONG]
        return wrong[0] if wrong else ""

    # Setting ----------------------------------------------------------------------------------------

    def set_modes(self, falls: Callable[[], str]) -> list[str]:
        """Calls what is missing, each once per answer of the driver; gives what was called, ready to paste.

        Torque goes off while a driver changes modes: the arm must lie.

        Args:
            falls: why the arm would fall if it were let go now; empty if it lies.
        """
        if not self.xs or not self.settled or self._calls is None or not self._calls.service_is_ready():
            return []
        wrong = {finding.mend for finding in self.findings() if finding.state is State.WRONG}
        service = self._node.resolve_service_name(MODES)
        called = []
        for call in driver_findings.needed_calls(self._robot):
            if call.paste(service) not in wrong or call in self._made:
                continue
            if call.name == "arm" and (why := falls()):
                self._refused_call = f"torque goes off meanwhile: {why}"
                continue
            self._refused_call = ""
            self._made.append(call)
            future = self._calls.call_async(self._calls.srv_type.Request(**vars(call)))
            self._when_done(future, lambda _: self.ask_again())
            called.append(call.paste(service))
        return called
