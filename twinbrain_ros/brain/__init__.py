"""The policy: two VLMs joined by AsyMoT, a state encoder and a flow-matching action expert. No ROS here."""
