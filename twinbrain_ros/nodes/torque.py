"""Motors off at the end of the day, and on again: services torque_off and torque_on, where the driver has it.

Never by itself, and off only where the arm lies: in a pose that the robot file marks with `rest: true`. Also
after a fault or an emergency stop, for a person who does not want to start again today.
"""

from __future__ import annotations

import importlib
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
    """

    def __init__(
        self, node: TwinBrainNode, robot: RobotFile, controller: ArmController, dry_run: bool
    ) -> None:
        self._node, self._robot, self._controller = node, robot, controller
        self._client: Any = None
        self._kind: Any = None
        self._number = 0  # of the newest request
        if robot.command_interface == "xs_joint_group" and not dry_run:
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

    def _falls(self) -> str:
        """Why the arm would fall if it were let go now; empty if it lies."""
        now_ns = self._node.now_ns()
        rests = [pose.name for pose in self._robot.poses.values() if pose.rest]
        problem = self._controller.joints_problem(now_ns)
        if problem:
            return f"where the arm is cannot be told: {problem}"
        if self._controller.settling(now_ns) is not None:
            return "the arm is not at rest yet"
        pose = self._controller.pose
        if pose is not None and pose.rest:
            return ""
        where = f"in {pose.name!r}" if pose is not None else "in no pose of the robot file"
        expected = f"{' or '.join(map(repr, rests))}: go there first" if rests else "a pose with rest: true"
        return f"the arm is {where} and would fall, expected {expected}"

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
