"""Settings of the whole test run. They must be in force before anything imports rclpy."""

from __future__ import annotations

import os

from twinbrain_ros.demo.environment import local_ros_environment

# A domain of this run's own, whatever the shell says: two runs, or a live robot, must not hear each other.
os.environ.pop("ROS_DOMAIN_ID", None)
os.environ.update(local_ros_environment(os.environ))
# Loading a model must never reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
