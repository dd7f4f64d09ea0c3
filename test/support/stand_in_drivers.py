"""The services of an arm's driver on real topics, with the answers that the real ones give."""

from __future__ import annotations

from typing import Any

from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo

from twinbrain_ros.robot.robot_file import RobotFile

SLEEP = (0.0, -1.8, 1.55, 0.0, 0.8, 0.0)


class XsDriver:
    """Interbotix' driver as it is after its start: 2000 ms for each motion, the gripper takes PWM.

    Attributes:
        modes, profiles: operating mode and Profile_Velocity of `arm` and of `gripper`.
        calls: of set_operating_modes, by name.
        tells_registers: whether Profile_Velocity is told.
        obeys: whether set_operating_modes changes anything.
    """

    def __init__(self, node: Any, robot: RobotFile) -> None:
        self.robot = robot
        self.modes = {"arm": "position", "gripper": "pwm"}
        self.profiles = {"arm": 2000, "gripper": 0}
        self.calls: list[str] = []
        self.tells_registers = self.obeys = True
        node.create_service(RobotInfo, "get_robot_info", self._on_info)
        node.create_service(RegisterValues, "get_motor_registers", self._on_registers)
        node.create_service(OperatingModes, "set_operating_modes", self._on_modes)

    def _on_info(self, request: Any, response: Any) -> Any:
        response.mode, response.profile_type = self.modes[request.name], "time"
        if request.name == "gripper":
            response.joint_names = [self.robot.gripper.joint]
            return response
        response.joint_names = list(self.robot.arm_joints)
        response.joint_lower_limits = [float(value) for value in self.robot.lower]
        response.joint_upper_limits = [float(value) for value in self.robot.upper]
        response.joint_sleep_positions = list(SLEEP)
        return response

    def _on_registers(self, request: Any, response: Any) -> Any:
        if self.tells_registers and request.reg == "Profile_Velocity":
            response.values = [self.profiles[request.name]] * 8
        return response

    def _on_modes(self, request: Any, response: Any) -> Any:
        if self.obeys:
            self.modes[request.name], self.profiles[request.name] = request.mode, request.profile_velocity
        self.calls.append(request.name)
        return response


class ControllerManager:
    """ros2_control's controller manager: tells of its controllers, as Jazzy's and later ones."""

    def __init__(self, node: Any, robot: RobotFile) -> None:
        trajectory = "joint_trajectory_controller/JointTrajectoryController"
        broadcaster = "joint_state_broadcaster/JointStateBroadcaster"
        self.controllers = {
            "arm_controller": self._state("arm_controller", trajectory, robot.arm_joints),
            "gripper_controller": self._state("gripper_controller", trajectory, [robot.gripper.joint]),
            "joint_state_broadcaster": self._state("joint_state_broadcaster", broadcaster, ()),
        }
        node.create_service(ListControllers, "controller_manager/list_controllers", self._on_list)

    @staticmethod
    def _state(name: str, kind: str, joints: Any) -> ControllerState:
        claimed = [f"{joint}/position" for joint in joints]
        return ControllerState(
            name=name, type=kind, state="active", update_rate=100, claimed_interfaces=claimed
        )

    def _on_list(self, request: Any, response: Any) -> Any:
        response.controller = list(self.controllers.values())
        return response
