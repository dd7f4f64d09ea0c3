"""ROS 2 adapters: parameters, topics, lifecycle and diagnostics around the rooms that do the work."""
