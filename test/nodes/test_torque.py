"""Motors off at the end of the day: only where the arm lies, and nothing moves it until they are on again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from controller_rig import NAME
from interbotix_xs_msgs.msg import JointGroupCommand
from interbotix_xs_msgs.srv import TorqueEnable
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import ControlMode
from twinbrain_ros.srv import SetMode

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

CALM = {"joints_timeout_s": 3.0, "overrun_s": 3.0}


class Arm:
    """An Interbotix driver as far as it matters here: joint states, commands, torque."""

    def __init__(self, bench: Any, robot: RobotFile, **parameters: Any) -> None:
        self.bench, self.robot, self.q = bench, robot, robot.poses["sleep"].arm.copy()
        self.asked: list[TorqueEnable.Request] = []
        node = bench.add(ControllerNode, autostart=True, robot=str(robot.path), **(CALM | parameters))
        assert node.autostart()
        bench.node.create_service(TorqueEnable, "torque_enable", self._switch)
        kind = JointGroupCommand if robot.command_interface == "xs_joint_group" else JointTrajectory
        bench.node.create_subscription(kind, robot.topics.arm_trajectory, self._command, qos.COMMAND)
        self._states = bench.publisher(JointState, robot.topics.joint_states)
        bench.node.create_timer(0.02, self._tell)
        self.modes = bench.record(ControlMode, robot.topics.control_mode, qos.LATCHED)
        bench.until(lambda: bench.value(NAME, "pose") == "sleep", "its pose is not told")

    def _switch(self, request: Any, response: Any) -> Any:
        self.asked.append(request)
        return response

    def _command(self, message: Any) -> None:
        self.q[:] = message.cmd

    def _tell(self) -> None:
        robot = self.robot
        message = JointState(
            name=[*robot.arm_joints, robot.gripper.joint], position=[*self.q.tolist(), robot.gripper.open_m]
        )
        message.header.stamp = self.bench.node.get_clock().now().to_msg()
        self._states.publish(message)

    def call(self, name: str) -> Trigger.Response:
        return self.bench.call(Trigger, name, Trigger.Request())


@pytest.fixture
def arm(bench: Any) -> Arm:
    return Arm(bench, load_robot("wx250s_xs"), go_to_speed=0.6)


def test_where_the_arm_lies_the_motors_go_off_and_nothing_moves_it_until_they_are_on(arm: Arm) -> None:
    answer = arm.call("torque_off")
    assert answer.success and answer.message == "the driver is told: motors off"
    arm.bench.until(lambda: arm.bench.says(NAME, 1, "the motors are off: call torque_on"))
    (asked,) = arm.asked
    assert (asked.cmd_type, asked.name, asked.enable) == ("group", "all", False)
    for refused in (arm.call("go_home"), arm.bench.call(SetMode, "set_mode", SetMode.Request(mode=1))):
        assert not refused.success and "the motors are off: call torque_on first" in refused.message
    assert arm.call("torque_on").success
    arm.bench.until(lambda: arm.bench.says(NAME, 0, "active"))
    assert arm.asked[-1].enable and arm.call("go_home").success
    arm.bench.until(lambda: arm.modes[-1].reason == "the arm is in 'home'", "it never arrives")


def test_a_raised_arm_is_never_let_go_and_after_a_fault_it_may_be_once_it_lies(arm: Arm) -> None:
    assert arm.call("go_home").success
    assert "the mode is GO_TO" in arm.call("torque_off").message
    arm.bench.until(lambda: arm.modes[-1].reason == "the arm is in 'home'", "it never arrives")
    expected = "the arm is in 'home' and would fall, expected 'sleep': go there first"
    answers = [arm.call("torque_off")]
    assert arm.call("estop").success
    answers.append(arm.call("torque_off"))
    assert [(answer.success, answer.message) for answer in answers] == [(False, expected)] * 2
    assert arm.call("reset").success and arm.call("go_sleep").success
    arm.bench.until(lambda: arm.modes[-1].reason == "the arm is in 'sleep'", "it never arrives")
    assert arm.call("estop").success
    arm.bench.until(lambda: arm.call("torque_off").success, "it is never let go")
    arm.bench.until(lambda: arm.asked, "the driver is not told")
    assert {asked.enable for asked in arm.asked} == {False}


def test_an_arm_that_swings_where_it_lies_is_not_let_go(arm: Arm) -> None:
    asleep, swings, path = arm.q.copy(), itertools.count(), list[float]()

    def swing() -> None:
        arm.q[:] = asleep + 0.05 * np.arcsin(np.sin(0.15 * next(swings)))
        path.append(float(arm.q[0]))

    timer = arm.bench.node.create_timer(0.02, swing)
    arm.bench.until(lambda: len(path) > 30)
    answer = arm.call("torque_off")
    assert (answer.success, answer.message) == (False, "the arm is not at rest yet")
    timer.cancel()
    arm.bench.until(lambda: arm.call("torque_off").success, "it is never let go")


def test_a_driver_that_has_no_such_service_is_named(bench: Any) -> None:
    arm = Arm(bench, load_robot("wx250s"))
    expected = "the driver of wx250s has no torque_enable here: switch its motors where it runs"
    assert arm.call("torque_off").message == expected and arm.asked == []
