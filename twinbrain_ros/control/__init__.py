"""What happens to action chunks in time: pure, deterministic logic without ROS, with an injected clock."""
