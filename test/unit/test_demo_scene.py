"""The simulator's truth survives its way through a message."""

from __future__ import annotations

import numpy as np
import pytest
from twinbrain_ros.msg import SceneState as SceneStateMessage

from twinbrain_ros.demo.scene import scene_from_message
from twinbrain_ros.nodes.sim_messages import scene_state
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.sim.tabletop import TabletopSim


def test_a_scene_read_back_equals_the_one_that_was_sent() -> None:
    sim = TabletopSim(load_robot("wx250s"))
    scene = sim.reset(5, "put")
    sim.step(0.1)
    sent = sim.scene_state()
    message = scene_state(sent, scene, episode=3, frame_id="base", stamp_ns=12_000_000_345)
    read = scene_from_message(message)

    assert read.time_ns == 12_000_000_345
    assert [entry.name for entry in read.objects] == [entry.name for entry in sent.objects]
    for ours, theirs in zip(read.objects, sent.objects, strict=True):
        assert (ours.kind, ours.colour) == (theirs.kind, theirs.colour)
        np.testing.assert_allclose(ours.position, theirs.position, atol=1e-12)
        np.testing.assert_allclose(ours.rotation, theirs.rotation, atol=1e-9)
        assert ours.speed == pytest.approx(theirs.speed)
    np.testing.assert_allclose(read.tool_position, sent.tool_position, atol=1e-12)
    np.testing.assert_allclose(read.tool_rotation, sent.tool_rotation, atol=1e-9)
    assert read.gripper_opening == pytest.approx(sent.gripper_opening)
    assert (read.held, read.touching) == (sent.held, sent.touching)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(1, 0, 0\) names, poses and speeds"):
        scene_from_message(SceneStateMessage(names=["red block"]))
