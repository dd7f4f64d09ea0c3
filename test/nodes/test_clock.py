"""Nodes that take the time from /clock: nothing there, and one that goes on in large steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from controller_rig import NAME, ControllerRig
from policy_rig import StandIn
from rosgraph_msgs.msg import Clock
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.nodes import convert
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR = 2
NOTHING = "use_sim_time is true, and nothing has arrived on /clock: expected a simulator there"
TOLD_WITHIN_S = 5.0


def policy_node(**arguments: Any) -> PolicyNode:
    return PolicyNode(lambda *_: StandIn(), lambda _: None, **arguments)


@pytest.mark.parametrize("autostart", [True, False])
@pytest.mark.parametrize("make", [policy_node, ControllerNode, RecorderNode, SimNode])
def test_a_node_without_a_clock_says_so_until_there_is_one(
    bench: Any, tmp_path: Path, make: Callable[..., Any], autostart: bool
) -> None:
    more = {"directory": str(tmp_path)} if make is RecorderNode else {}
    node = bench.add(make, use_sim_time=True, autostart=autostart, **more)
    assert node.autostart()
    name, start_s = node.get_name(), time.monotonic()
    bench.until(lambda: bench.status.get(name) and NOTHING in bench.status[name].message)
    assert time.monotonic() - start_s < TOLD_WITHIN_S
    assert bench.status[name].level[0] == ERROR
    clock, start_ns = bench.publisher(Clock, "/clock"), time.monotonic_ns()

    def tell() -> None:
        clock.publish(Clock(clock=convert.to_time(10**12 + time.monotonic_ns() - start_ns)))

    bench.node.create_timer(0.01, tell)
    bench.until(lambda: NOTHING not in bench.status[name].message, "it still says so")


def test_a_clock_that_goes_on_in_large_steps_stops_the_arm(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot, sim_clock=True)
    rig.drive()
    rig.clock_timer.timer_period_ns = 100_000_000
    said = "/clock goes on in steps of 0."
    bench.until(lambda: rig.mode().latched, "it goes on")
    assert said in rig.mode().reason and "expected at most 0.02 s" in rig.mode().reason
    rig.trigger("reset")
    bench.until(lambda: bench.says(NAME, ERROR, said))
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and said in answer.message
    rig.clock_timer.timer_period_ns = 5_000_000
    bench.until(lambda: said not in bench.status[NAME].message, "it still says so")
    rig.until_settled()
    bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
