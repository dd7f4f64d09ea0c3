"""Cameras without a simulator, to measure a recorder with: sends pictures, and says how many it sent."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.robot.robot_file import load_robot

MATCH_TIMEOUT_S = 10.0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("robot", help="path of the robot file whose cameras these are")
    parser.add_argument("seconds", type=float)
    args = parser.parse_args(argv)
    robot = load_robot(args.robot)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("camera_talker")
    publishers: list[Any] = [
        node.create_publisher(convert.image_type(c), c.image_topic, qos.SENSOR_OUT) for c in robot.cameras
    ]
    end_s = time.monotonic() + MATCH_TIMEOUT_S
    while any(p.get_subscription_count() == 0 for p in publishers) and time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.05)
    noise = np.random.default_rng(0)
    pictures = [
        convert.image_message(noise.integers(0, 256, (c.height, c.width, 3), np.uint8), c, 0)
        for c in robot.cameras
    ]
    period_s = 1.0 / robot.cameras[0].rate_hz
    start_s, sent = time.monotonic(), 0
    while sent * period_s < args.seconds:
        for picture, publisher in zip(pictures, publishers, strict=True):
            picture.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(picture)
        sent += 1
        time.sleep(max(0.0, start_s + sent * period_s - time.monotonic()))
    took_s = time.monotonic() - start_s
    for publisher in publishers:
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=2))
    print(f"{sent} {took_s:.3f}", flush=True)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
