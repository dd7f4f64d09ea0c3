"""What a figure was measured on, and with which software."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "mujoco",
    "mink",
    "numpy",
    "opencv-python-headless",
    "ros-rclpy",
    "rclpy",
)


def cpu_model() -> str:
    """The processor's name, as the kernel gives it; else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.machine()


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def machine_facts() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "system": platform.platform(),
    }


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones among these distributions, and of Python and this package."""
    from twinbrain_ros import __version__

    versions = {"python": platform.python_version(), "twinbrain_ros": __version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
