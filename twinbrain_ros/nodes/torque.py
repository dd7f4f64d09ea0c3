"""Motors off at the end of the day, and on again: services torque_off and torque_on, where the driver has it.

Never by itself, and off only where the arm lies, see `control.lying`. Also after a fault or an emergency
stop, for a person who does not want to start again today.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from std_srvs.srv import Trigger

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.robot.robot_file import RobotFile

SERVICE = "torque_enable"


class Torque:
    """Asks the Interbotix driver to switch the motors; for another driver, it says that it cannot.

    While they are off, the controller lets nothing move the arm.

    Args:
        node: a configured one; takes its parameter dry_run.
        falls: why the arm would fall if it were let go now; empty if it lies.
    """

    def __init__(
        self, node: TwinBrainNode, robot: RobotFile, controller: ArmController, falls: Callable[[], str]
    ) -> None:
        self._node, self._robot, self._controller, self._falls = node, robot, controller, falls
        self._client: Any = None
        self._kind: Any = None
        self._number = 0  # of the newest request
        if robot.command_interface == "xs_joint_group" and not node.value("dry_run"):
            self._kind = importlib.import_module("interbotix_xs_msgs.srv").TorqueEnable
            self._client = node.create_client(self._kind, SERVICE)
            node.keep(node.destroy_client, self._client)
        node.serve(Trigger, "torque_off", lambda request, response: self._serve(response, False))
        node.serve(Trigger, "torque_on", lambda request, response: self._serve(response, True))

    def _serve(self, response: Trigger.Response, enable: bool) -> None:
        problem = self._problem(enable)
        response.success, response.message = not problem, problem
        if problem:
            self._node.get_logger().warning(f"torque_{'on' if enable else 'off'}: {problem}")
            return
        if not enable:  # from now on, so that nothing moves an arm that is about to let go
            self._controller.still = "the motors are off: call torque_on first"
        self._number += 1
        number = self._number
        future = self._client.call_async(self._kind.Request(cmd_type="group", name="all", enable=enable))
        future.add_done_callback(lambda done: self._switched(done, enable, number))
        response.message = f"the driver is told: motors {'on' if enable else 'off'}"

    def _problem(self, enable: bool) -> str:
        """Why the motors cannot be switched now; empty if they can."""
        if self._client is None:
            return f"the driver of {self._robot.name} has no {SERVICE} here: switch its motors where it runs"
        if self._node.phase != "active":
            return f"the controller is {self._node.phase}, expected active"
        if self._controller.driven:
            return f"the mode is {self._controller.mode.name}: the motors are switched in HOLD only"
        if not self._client.service_is_ready():
            return f"no service {self._client.srv_name}: is the driver running?"
        return "" if enable else self._falls()

    def _switched(self, future: Any, enable: bool, number: int) -> None:
        if number != self._number:
            return
        if future.exception() is not None:
            self._node.report("torque", f"{SERVICE} failed: {future.exception()}")
            return
        if enable:
            self._controller.still = ""
            self._node.health.clear("torque")
            self._node.get_logger().info("the motors are on")
        else:
            self._node.report(
                "torque", "the motors are off: call torque_on before the arm is driven", Level.WARN
            )
