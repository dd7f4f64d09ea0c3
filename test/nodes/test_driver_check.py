"""The driver is asked in what state it is; what is wrong stops motion and names the call that mends it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from controller_rig import NAME, ControllerRig
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from sensor_msgs.msg import JointState
from stand_in_drivers import SLEEP, ControllerManager, XsDriver
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.nodes import convert, driver_check
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

ERROR, WARN, OK = 2, 1, 0
CALL = 'ros2 service call /set_operating_modes interbotix_xs_msgs/srv/OperatingModes "{cmd_type: group, '


@pytest.fixture
def xs() -> RobotFile:
    return load_robot("wx250s_xs")


def rig_of(bench: Any, xs: RobotFile, **parameters: Any) -> ControllerRig:
    return ControllerRig(bench, xs, arm_type=JointGroupCommand, gripper_type=JointSingleCommand, **parameters)


def test_a_driver_in_the_wrong_modes_is_named_with_the_calls_and_nothing_moves(
    bench: Any, xs: RobotFile
) -> None:
    driver = XsDriver(bench.node, xs)
    rig = rig_of(bench, xs)
    bench.until(lambda: bench.says(NAME, ERROR, "each position begins a motion of 2000 ms"))
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and CALL in answer.message
    bench.until(lambda: "wrong: 'pwm'" in bench.value(NAME, "driver/gripper's operating mode"))
    assert not driver.calls  # it is not asked for
    driver.modes = {"arm": "position", "gripper": "linear_position"}  # somebody makes the calls
    driver.profiles["arm"] = 100
    bench.until(lambda: bench.says(NAME, OK, "active"), "it is not asked again")
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_a_driver_that_was_started_anew_stops_a_driven_arm(bench: Any, xs: RobotFile) -> None:
    driver = XsDriver(bench.node, xs)
    driver.modes["gripper"], driver.profiles["arm"] = "linear_position", 100
    rig = rig_of(bench, xs)
    bench.until(lambda: bench.value(NAME, "driver/arm's operating mode") == "ok: position")
    rig.bench.until(lambda: rig.set_mode(ControlMode.TELEOP).success)
    driver.modes["gripper"], driver.profiles["arm"] = "pwm", 2000
    bench.until(lambda: rig.mode().latched, "it is not asked again")
    assert "gripper's operating mode: 'pwm'" in rig.mode().reason
    bench.until(lambda: "2000 ms" in bench.value(NAME, "driver/arm's motion profile"), "nor its registers")


def test_modes_are_set_where_that_is_allowed_and_the_arm_lies(bench: Any, xs: RobotFile) -> None:
    driver = XsDriver(bench.node, xs)
    rig = rig_of(bench, xs, set_driver_modes=True)
    # At home the arm would fall, so only the gripper's mode is set.
    bench.until(lambda: bench.value(NAME, "driver/driver's modes are not set"))
    words = "torque goes off meanwhile: the arm is in 'home' and would fall, expected 'sleep'"
    assert words in bench.value(NAME, "driver/driver's modes are not set")
    assert driver.calls == ["gripper"]
    rig.reads = np.array(SLEEP)
    bench.until(lambda: driver.calls == ["gripper", "arm"])
    bench.until(lambda: bench.says(NAME, OK, "active"))
    assert driver.modes == {"arm": "position", "gripper": "linear_position"}
    assert driver.profiles["arm"] == 100


def test_no_mode_is_set_that_lets_an_arm_go_which_is_not_at_rest(bench: Any, xs: RobotFile) -> None:
    driver = XsDriver(bench.node, xs)
    rig = rig_of(bench, xs, set_driver_modes=True)
    swings = itertools.count()

    def swing() -> None:
        rig.reads = np.array(SLEEP) + 0.05 * np.arcsin(np.sin(0.15 * next(swings)))

    timer = bench.node.create_timer(0.02, swing)
    bench.until(lambda: "not at rest" in bench.value(NAME, "driver/driver's modes are not set"))
    assert driver.calls == ["gripper"]
    timer.cancel()
    bench.until(lambda: driver.calls == ["gripper", "arm"])


def well(bench: Any, xs: RobotFile) -> XsDriver:
    driver = XsDriver(bench.node, xs)
    driver.modes["gripper"], driver.profiles["arm"] = "linear_position", 100
    return driver


def test_registers_that_others_have_set_are_seen(
    bench: Any, xs: RobotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_check, "REGISTERS_S", 0.5)
    driver = well(bench, xs)
    rig = rig_of(bench, xs)
    bench.until(lambda: bench.value(NAME, "driver/arm's motion profile") == "ok: moving time of 100 ms")
    driver.profiles["arm"] = 2000
    bench.until(lambda: "2000 ms" in bench.value(NAME, "driver/arm's motion profile"), "not asked again")
    assert "each position begins a motion of 2000 ms" in rig.set_mode(ControlMode.AUTONOMY).message


def test_after_a_fault_registers_are_read_before_the_arm_is_driven(bench: Any, xs: RobotFile) -> None:
    driver = well(bench, xs)
    rig = rig_of(bench, xs)
    bench.until(lambda: bench.value(NAME, "driver/arm's motion profile") == "ok: moving time of 100 ms")
    rig.bench.until(lambda: rig.set_mode(ControlMode.TELEOP).success)
    driver.profiles["arm"] = 2000
    assert rig.trigger("estop").success and rig.trigger("reset").success
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success
    assert driver_check.PENDING in answer.message or "each position begins a motion" in answer.message
    bench.until(lambda: "2000 ms" in bench.value(NAME, "driver/arm's motion profile"), "not asked again")


def test_a_missing_controller_manager_does_not_make_modes_be_set_again(bench: Any, xs: RobotFile) -> None:
    driver = XsDriver(bench.node, xs)
    driver.obeys = False
    mixed = dataclasses.replace(xs.gripper_command, interface="joint_trajectory")
    check = driver_check.DriverCheck(
        bench.node,
        lambda future, done: future.add_done_callback(lambda ended: done(ended.result())),
        dataclasses.replace(xs, gripper_command=mixed),
    )

    def round_() -> bool:
        check.look()
        check.set_modes(str)
        return len(check.findings()) > 3 and check.settled

    bench.until(lambda: round_() and driver.calls, "no mode is set")
    count = itertools.count()
    bench.until(lambda: round_() and next(count) > 50)
    assert driver.calls == ["arm"]
    check.close()


def test_what_a_driver_does_not_tell_is_unknown(bench: Any, xs: RobotFile) -> None:
    driver = XsDriver(bench.node, xs)
    driver.modes["gripper"], driver.tells_registers = "linear_position", False
    rig = rig_of(bench, xs)
    bench.until(lambda: bench.says(NAME, WARN, "the driver does not tell Profile_Velocity"))
    assert bench.value(NAME, "driver/arm's motion profile").startswith("unknown: ")
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_a_driver_that_is_not_there_is_told_and_configure_does_not_wait(bench: Any, xs: RobotFile) -> None:
    node = bench.add(ControllerNode, autostart=True, robot=str(xs.path))
    assert node.autostart()
    words = "unknown: there is no service /get_robot_info: is the driver running, in this namespace?"
    bench.until(lambda: bench.value(NAME, "driver/arm's modes") == words)
    assert bench.value(NAME, "problem/driver/arm's modes")


def test_controllers_are_looked_at_again_and_again(bench: Any, robot: RobotFile) -> None:
    manager = ControllerManager(bench.node, robot)
    rig = ControllerRig(bench, robot)
    value = "driver/arm's controller"
    bench.until(lambda: bench.value(NAME, value).startswith("ok: 'arm_controller'"))
    assert "is active, at 100 Hz" in bench.value(NAME, value)
    rig.bench.until(lambda: rig.set_mode(ControlMode.TELEOP).success)
    manager.controllers["arm_controller"].state = "inactive"
    bench.until(lambda: rig.mode().latched)
    assert "'arm_controller' is inactive, expected active" in rig.mode().reason
    assert "ros2 control switch_controllers --activate arm_controller -c /controller_man" in rig.mode().reason
    bench.until(lambda: bench.value(NAME, value).startswith("wrong"))
    manager.controllers["arm_controller"].state = "active"
    bench.until(lambda: bench.value(NAME, value).startswith("ok"))
    assert rig.trigger("reset").success
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_without_a_controller_manager_its_controllers_are_unknown(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot)
    bench.until(lambda: bench.value(NAME, "driver/controllers").startswith("unknown: there is no service"))
    rig.bench.until(lambda: bench.says(NAME, OK, "active"))
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


@pytest.mark.parametrize(
    ("offset_s", "words"), [(0.2, "ahead of this machine's"), (-0.2, "old when they arr")]
)
def test_a_drivers_clock_that_differs_is_told(
    bench: Any, robot: RobotFile, offset_s: float, words: str
) -> None:
    node = bench.add(ControllerNode, autostart=True, joints_timeout_s=3.0)
    assert node.autostart()
    joints = bench.publisher(JointState, robot.topics.joint_states)
    names = [*robot.arm_joints, robot.gripper.joint]
    count = itertools.count()

    def publish() -> None:
        message = JointState(name=names, position=[*robot.home.tolist(), 0.037 - 1e-6 * (next(count) % 2)])
        stamp_ns = bench.node.get_clock().now().nanoseconds + round(offset_s * 1e9)
        message.header.stamp = convert.to_time(stamp_ns)
        joints.publish(message)

    bench.node.create_timer(0.01, publish)
    bench.until(lambda: bench.says(NAME, WARN, words))
