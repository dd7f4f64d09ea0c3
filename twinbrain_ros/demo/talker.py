"""The other half of the doctor's discovery test: a process that says one word, latched, until it is ended."""

from __future__ import annotations

import signal
import sys

import rclpy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from twinbrain_ros.nodes import qos

TOPIC = "twinbrain_doctor"


def main(word: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("twinbrain_doctor_talker")
    publisher = node.create_publisher(String, TOPIC, qos.LATCHED)
    publisher.publish(String(data=word))
    try:
        while True:
            rclpy.spin_once(node, timeout_sec=0.1)
    except KeyboardInterrupt:
        pass
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
