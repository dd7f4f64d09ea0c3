"""A WidowX 250 S as it stands on a table: driver, cameras, policy and controller, each of them if asked for.

ros2 launch twinbrain_ros widowx.launch.py use_arm:=xs use_camera:=realsense robot:=/path/robot.yaml

| argument | starts | of the package |
|---|---|---|
| use_arm:=ros2_control | trajectory controllers and the driver | interbotix_xsarm_ros_control |
| use_arm:=xs | the driver alone; see wx250s_xs.yaml on its modes | interbotix_xsarm_control |
| use_camera:=realsense | one driver for each camera | realsense2_camera |
| use_camera:=usb_cam | one driver for each camera | usb_cam |

With ros2_control Interbotix' hardware interface does not measure the finger (NaN), and the policy has no
gripper opening to act on. For autonomy take use_arm:=xs, or a robot file with `gripper.state: commanded`.

Arguments of the drivers' own launch files are taken too, once these are asked for: initial_reset:=true.

These packages are looked for only when they are asked for. Cameras are asked for the size, encoding and rate
that the robot file has for them; the files that ship have those of the simulator, 96 x 96, which hardly any
real camera offers: copy one, and put in what the camera offers. The wrist camera is not started unless
wrist_camera says which it is, and a policy that needs it waits. The way from unpacking to here is in
docs/at_the_arm.md.
"""

from __future__ import annotations

from typing import Any

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import PushRosNamespace, SetRemap
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription
from twinbrain_ros.data.contract import COMPRESSED, info_topic
from twinbrain_ros.launching import (
    EVERYWHERE,
    arguments,
    checked,
    equals,
    image_transport,
    include,
    node,
    robot_of,
)
from twinbrain_ros.robot.robot_file import Camera

ANY, NONE = "any", "none"
PACKAGES = {
    "use_arm": {"ros2_control": "interbotix_xsarm_ros_control", "xs": "interbotix_xsarm_control"},
    "use_camera": {"realsense": "realsense2_camera", "usb_cam": "usb_cam"},
}

ARM_FILES = {
    "ros2_control": (PACKAGES["use_arm"]["ros2_control"], "xsarm_ros_control.launch.py"),
    "xs": (PACKAGES["use_arm"]["xs"], "xsarm_control.launch.py"),
}
REALSENSE = (PACKAGES["use_camera"]["realsense"], "rs_launch.py")


def look_for_packages(context: Any) -> None:
    """Fails for a missing package before anything is started: launch leaves behind what it started last."""
    for argument, packages in PACKAGES.items():
        asked = LaunchConfiguration(argument).perform(context)
        if asked != NONE:
            FindPackageShare(packages[asked]).perform(context)


def drivers(context: Any) -> list[IncludeLaunchDescription]:
    """The launch files of others that are asked for; what they take may be given here, for them."""
    arm_file = ARM_FILES.get(LaunchConfiguration("use_arm").perform(context))
    found = [theirs(*arm_file)] if arm_file is not None else []
    if LaunchConfiguration("use_camera").perform(context) == "realsense":
        found.append(theirs(*REALSENSE))
    return found


def theirs(package: str, file: str, **launch_arguments: Any) -> IncludeLaunchDescription:
    """A launch file of another package, which is found when it is executed."""
    source = PythonLaunchDescriptionSource([FindPackageShare(package), f"/launch/{file}"])
    return IncludeLaunchDescription(source, launch_arguments=launch_arguments.items())


def arm(kind: str) -> GroupAction:
    """The arm's driver, under the name that the namespace gives it."""
    driver = theirs(
        *ARM_FILES[kind],
        robot_model="wx250s",
        robot_name=LaunchConfiguration("namespace"),
        use_rviz="false",
        use_sim_time=LaunchConfiguration("use_sim_time"),
    )
    return GroupAction([driver], condition=IfCondition(equals("use_arm", kind)))


def cameras(context: Any) -> list[Any]:
    """A driver for each camera of the robot file that has a device."""
    kind = LaunchConfiguration("use_camera").perform(context)
    drivers = {"realsense": realsense, "usb_cam": usb_cam}
    devices = {
        camera: context.launch_configurations.get(f"{camera.name}_camera", NONE)
        for camera in robot_of(context).cameras
    }
    return [drivers[kind](camera, device) for camera, device in devices.items() if device != NONE]


def remapped(camera: Camera) -> list[tuple[str, str]]:
    """The topics of a driver, and what the robot file calls them."""
    base = camera.base_topic
    return [
        ("image_raw", base),
        (f"image_raw{COMPRESSED}", base + COMPRESSED),
        ("camera_info", info_topic(camera)),
    ]


def realsense(camera: Camera, device: str) -> GroupAction:
    """A RealSense's colour stream."""
    driver = theirs(
        *REALSENSE,
        **{
            "camera_namespace": "",
            "camera_name": f"{camera.name}_camera",
            # Quoted: a serial number is made of digits, and would be taken for one.
            "serial_no": f"'{'' if device == ANY else device}'",
            "rgb_camera.color_profile": f"{camera.width}x{camera.height}x{camera.rate_hz:g}",
            "rgb_camera.color_format": camera.encoding.upper(),
            "enable_depth": "false",
        },
    )
    remaps = (SetRemap(f"~/color/{name}", to) for name, to in remapped(camera))
    return GroupAction([PushRosNamespace(LaunchConfiguration("namespace")), *remaps, driver])


def usb_cam(camera: Camera, device: str) -> Any:
    """A UVC camera; it sends rgb8."""
    return node(
        "usb_cam_node_exe",
        package="usb_cam",
        name=f"{camera.name}_camera",
        parameters={
            "video_device": "/dev/video0" if device == ANY else device,
            "image_width": camera.width,
            "image_height": camera.height,
            "framerate": camera.rate_hz,
            "pixel_format": "mjpeg2rgb",
            "frame_id": f"{camera.name}_camera",
        },
        remappings=remapped(camera),
    )


def generate_launch_description() -> LaunchDescription:
    """Whatever is asked for, and policy and controller."""
    xs = equals("use_arm", "xs")
    device = (
        "a serial number (realsense) or a path (usb_cam); any: the first that is found; none: not started."
    )
    return LaunchDescription(
        [
            checked("widowx.launch.py", drivers),
            DeclareLaunchArgument(
                "use_arm",
                default_value="none",
                choices=["none", "ros2_control", "xs"],
                description="Driver of the arm to start; none where it runs already. "
                "ros2_control does not measure the finger: autonomy needs a robot file that says so.",
            ),
            DeclareLaunchArgument(
                "use_camera",
                default_value="none",
                choices=["none", "realsense", "usb_cam"],
                description="Driver of the cameras to start; none where they run already.",
            ),
            DeclareLaunchArgument("front_camera", default_value=ANY, description=f"Front camera: {device}"),
            DeclareLaunchArgument("wrist_camera", default_value=NONE, description=f"Wrist camera: {device}"),
            # The driver's name for the arm is its namespace: it cannot be empty.
            *arguments(*EVERYWHERE, namespace="wx250s"),
            *arguments("robot", robot=PythonExpression(["'wx250s_xs' if ", xs, " else 'wx250s'"])),
            OpaqueFunction(function=look_for_packages),
            image_transport(),
            arm("ros2_control"),
            arm("xs"),
            OpaqueFunction(
                function=cameras,
                condition=IfCondition(PythonExpression(["not ", equals("use_camera", NONE)])),
            ),
            include("policy.launch.py"),
        ]
    )
