"""A tabletop with a simulated arm: physics, ray-cast cameras, tasks and an expert. No ROS, no wall clock."""
