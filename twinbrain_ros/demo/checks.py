"""The doctor's checks: what this machine has, what it lacks, and how to mend that."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from twinbrain_ros.demo.environment import ENVIRONMENT, local_ros_environment
from twinbrain_ros.evaluation.machine import cpu_model, memory_bytes, usable_cores
from twinbrain_ros.resources import TRANSPORT_CHOICES

SETUP = "make setup"
BUILD_MESSAGES = "make setup (builds the messages), or source the workspace that colcon built"
DISCOVERY_TIMEOUT_S = 10.0
SHARED_MEMORY_MB = 64

# Module, distribution, what for.
MODULES = (
    ("torch", "torch", "the policy"),
    ("transformers", "transformers", "the brains"),
    ("safetensors", "safetensors", "checkpoint weights"),
    ("numpy", "numpy", "everything"),
    ("mujoco", "mujoco", "simulator and kinematics"),
    ("mink", "mink", "inverse kinematics"),
    ("daqp", "daqp", "inverse kinematics"),
    ("cv2", "opencv-python-headless", "images"),
    ("yaml", "PyYAML", "robot files"),
    ("matplotlib", "matplotlib", "pictures"),
    ("rosbags", "rosbags", "bags"),
    ("mcap", "mcap", "bags that were cut off"),
    ("mcap_ros2", "mcap-ros2-support", "messages in bags"),
    ("tqdm", "tqdm", "progress bars"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report: `status` is `ok`, `warn` or `fail`; `mend` may be empty."""

    name: str
    status: str
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def run_checks(
    checkpoint: Path | None, with_ros: bool, suite: str | None = None, python: Path | None = None
) -> Iterator[Check]:
    """All checks, one by one as they are done. A check that breaks is a failure of its own, not the end.

    Args:
        suite: a benchmark suite that is tried too, with this interpreter.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("virtual environment", check_environment),
        ("C++ compiler", check_compiler),
        ("processor", check_processor),
        ("memory", check_memory),
    ]
    checks += [
        (module, lambda module=module, name=name, use=use: check_module(module, name, use))  # type: ignore[misc]
        for module, name, use in MODULES
    ]
    checks += [
        ("rclpy", check_rclpy),
        ("messages", check_messages),
        ("ROS settings", check_ros_settings),
        ("shared memory", check_shared_memory),
        ("robot file", check_robot_file),
        ("checkpoint", lambda: check_checkpoint(checkpoint)),
        ("GPU", check_gpu),
        ("benchmarks", check_benchmarks),
    ]
    if suite is not None:
        checks.append((suite, lambda: check_suite(suite, python)))
    if with_ros:
        checks.append(("ROS discovery", check_discovery))
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            first_line = str(error).split("\n")[0]
            yield Check(name, "fail", f"{type(error).__name__}: {first_line}", SETUP)


def check_python() -> Check:
    # An older one could not have read this file.
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_environment() -> Check:
    name = "virtual environment"
    foreign = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if "/opt/ros/" in path]
    wheels = _version("ros-rclpy")
    if foreign and wheels:
        return Check(
            name,
            "fail",
            f"PYTHONPATH puts {foreign[0]} before the ROS wheels in {sys.prefix}",
            "open a shell that sources no setup.bash of ROS, or use a colcon workspace without the wheels",
        )
    if sys.prefix != sys.base_prefix:
        return Check(name, "ok", sys.prefix)
    if os.environ.get("AMENT_PREFIX_PATH"):
        return Check(name, "ok", "none, but a sourced ROS workspace")
    return Check(name, "warn", f"none; using {sys.prefix}", f"{SETUP}, then .venv/bin/twinbrain")


def check_compiler() -> Check:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler:
        return Check("C++ compiler", "ok", compiler)
    return Check(
        "C++ compiler",
        "warn",
        "none; needed to build the messages only",
        "apt install build-essential, or set CXX",
    )


def check_processor() -> Check:
    cores = usable_cores()
    found = f"{cores} cores, {cpu_model()}"
    if cores >= 2:
        return Check("processor", "ok", found)
    return Check("processor", "warn", found, "the loop keeps its times on 2 cores or more")


def check_memory() -> Check:
    size_gb = memory_bytes() / 1e9
    if size_gb >= 3.5:
        return Check("memory", "ok", f"{size_gb:.1f} GB")
    return Check("memory", "warn", f"{size_gb:.1f} GB", "the demo needs about 2 GB, training about 4 GB")


def check_module(module: str, distribution: str, use: str) -> Check:
    try:
        importlib.import_module(module)
    except Exception as error:
        return Check(module, "fail", f"cannot be imported ({use}): {error}", SETUP)
    return Check(module, "ok", _version(distribution) or "version not known")


def check_rclpy() -> Check:
    try:
        import rclpy
    except ImportError as error:
        has_wheel = _version("ros-rclpy") is not None
        mend = SETUP
        if has_wheel and os.environ.get("_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
            mend = "unset _ROS_WHEELS_BOOTSTRAP_COMPLETE, or keep LD_LIBRARY_PATH beside it"
        return Check("rclpy", "fail", f"cannot be imported: {error}", mend)
    version = _version("rclpy") or _version("ros-rclpy") or "version not known"
    return Check("rclpy", "ok", f"{version} over {rclpy.get_rmw_implementation_identifier()}")


def check_messages() -> Check:
    try:
        from rclpy.type_support import check_for_type_support

        from twinbrain_ros import msg, srv

        kinds = [
            kind
            for module in (msg, srv)
            for name, kind in sorted(vars(module).items())
            if isinstance(kind, type) and not name.startswith("_") and "_" not in name
        ]
        for kind in kinds:
            check_for_type_support(kind)
    except Exception as error:
        return Check("messages", "fail", f"this package's messages cannot be used: {error}", BUILD_MESSAGES)
    return Check("messages", "ok", ", ".join(kind.__name__ for kind in kinds))


def check_ros_settings() -> Check:
    """Which settings ROS processes get here, and whether one of them loses images."""
    names = (*ENVIRONMENT, "ROS_DOMAIN_ID", *TRANSPORT_CHOICES)
    settings = {name: os.environ.get(name, "") for name in names}
    found = ", ".join(f"{name}={value or '(unset)'}" for name, value in settings.items())
    profiles, old_profiles, transports = (settings[name] for name in TRANSPORT_CHOICES)
    if profiles or old_profiles or not transports:
        return Check("ROS settings", "ok", f"{found}; `twinbrain demo` fills in what is unset")
    return Check(
        "ROS settings",
        "warn",
        found,
        "unset FASTDDS_BUILTIN_TRANSPORTS, or set FASTDDS_DEFAULT_PROFILES_FILE to the package's "
        "config/fastdds.xml, else large images get lost silently",
    )


def check_shared_memory() -> Check:
    """Whether /dev/shm has room for the images on their way between processes."""
    directory = Path("/dev/shm")
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        return Check(
            "shared memory",
            "warn",
            f"{directory} is not writable",
            "mount it; ROS falls back to sockets without it",
        )
    usage = shutil.disk_usage(directory)
    found = f"{usage.free / 1e6:.0f} MB free of {usage.total / 1e6:.0f} MB in {directory}"
    if usage.free >= SHARED_MEMORY_MB * 1e6:
        return Check("shared memory", "ok", found)
    return Check(
        "shared memory",
        "warn",
        found,
        "give a container more, as docker run --shm-size=512m; or remove stale files",
    )


def check_robot_file() -> Check:
    from twinbrain_ros.resources import share_dir
    from twinbrain_ros.robot.robot_file import load_robot

    try:
        robots = [
            load_robot(path).name for path in sorted((share_dir() / "config" / "robots").glob("*.yaml"))
        ]
    except (ValueError, OSError) as error:
        return Check("robot file", "fail", str(error), "mend the file, or check the repository out again")
    return Check("robot file", "ok", ", ".join(robots))


def check_checkpoint(given: Path | None) -> Check:
    from twinbrain_ros.brain.policy import TwinBrainPolicy
    from twinbrain_ros.resources import demo_checkpoint

    directory = given or demo_checkpoint()
    try:
        policy = TwinBrainPolicy.from_pretrained(directory)
    except (ValueError, OSError) as error:
        mend = (
            "give the directory of a sound one"
            if given
            else "twinbrain train --config config/train/demo.yaml makes it"
        )
        return Check("checkpoint", "fail", str(error), mend)
    parameters = sum(p.numel() for part in policy.model.parts().values() for p in part.parameters())
    return Check("checkpoint", "ok", f"{directory}: {parameters:,} parameters, for {policy.config.robot}")


def check_gpu() -> Check:
    import torch

    from twinbrain_ros.brain.devices import describe
    from twinbrain_ros.brain.memory import memory_of

    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if not gpus:
        return Check("GPU", "ok", "none; not needed, the demo's policy runs on the processor")
    found = [f"{describe(gpu)}, {(memory_of(gpu)[1] or 0) / 1e9:.0f} GB" for gpu in gpus]
    return Check("GPU", "ok", "; ".join(found))


def check_benchmarks() -> Check:
    """What `make evaluation` has left, and whether the data of its tasks are there."""
    from twinbrain_ros.benchmarks.process import WorkerMissing, interpreter
    from twinbrain_ros.benchmarks.worker import ManiSkill3, Missing

    try:
        python = interpreter("simpler-ms3", None)
    except WorkerMissing:
        return Check("benchmarks", "ok", "tabletop; `make evaluation` brings ManiSkill3")
    try:
        assets = ManiSkill3.find_assets()
    except Missing as error:
        return Check("benchmarks", "warn", f"tabletop, ManiSkill3 by {python}", str(error))
    return Check("benchmarks", "ok", f"tabletop, ManiSkill3 by {python}, data: {assets}")


def check_suite(suite: str, python: Path | None) -> Check:
    """Starts the suite's first task."""
    import tempfile

    from twinbrain_ros.benchmarks.process import (
        WorkerError,
        WorkerMissing,
        WorkerProcess,
        interpreter,
        suite_tasks,
        worker_command,
    )

    task = next(iter(suite_tasks(suite)))
    with tempfile.TemporaryDirectory(prefix="twinbrain-doctor-") as directory:
        try:
            command = worker_command(suite, task, 1, interpreter(suite, python))
            with WorkerProcess(command, Path(directory) / "log") as process:
                return Check(suite, "ok", f"{task} starts: {process.described['simulator']}")
        except WorkerMissing as error:
            return Check(suite, "fail", f"{task} does not start", str(error))
        except WorkerError as error:
            return Check(suite, "fail", f"{task} does not start: {error}")


def check_discovery() -> Check:
    """Two processes find each other and one message gets across."""
    added = local_ros_environment(os.environ)
    os.environ.update(added)
    import tempfile

    import rclpy
    from std_msgs.msg import String

    from twinbrain_ros.demo.processes import NodeGroup
    from twinbrain_ros.demo.talker import TOPIC
    from twinbrain_ros.nodes import qos

    heard: list[str] = []
    word = f"hello from {os.getpid()}"
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("twinbrain_doctor", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.create_subscription(String, TOPIC, lambda message: heard.append(message.data), qos.LATCHED)
    started_ns = node.get_clock().now().nanoseconds
    elapsed_s = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="twinbrain-doctor-") as directory,
        NodeGroup(Path(directory)) as nodes,
    ):
        nodes.start("talker", [sys.executable, "-m", "twinbrain_ros.demo.talker", word], os.environ)
        while word not in heard and elapsed_s < DISCOVERY_TIMEOUT_S:
            nodes.check()
            executor.spin_once(timeout_sec=0.1)
            elapsed_s = (node.get_clock().now().nanoseconds - started_ns) / 1e9
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()
    domain = f"domain {os.environ['ROS_DOMAIN_ID']}, {os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE']}"
    if word in heard:
        return Check("ROS discovery", "ok", f"two processes talked after {elapsed_s:.1f} s ({domain})")
    return Check(
        "ROS discovery", "fail", f"nothing heard within {DISCOVERY_TIMEOUT_S:g} s ({domain})",
        "allow UDP and multicast on the loopback interface; check ROS_DOMAIN_ID and the ROS settings above",
    )  # fmt: skip


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
