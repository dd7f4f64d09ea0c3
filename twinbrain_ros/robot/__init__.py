"""What an arm is: the robot file, its kinematics, its action space and the chunks it executes."""
