"""Environment variables of ROS processes that run together on this machine only."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twinbrain_ros.resources import transport_environment

# Domains whose ports stay below Linux's ephemeral range (32768): 7400 + 250 * domain + offsets.
DOMAINS = range(1, 101)
PORT_BASE, DOMAIN_GAIN, FIRST_UNICAST_OFFSET = 7400, 250, 10

ENVIRONMENT = {
    # Nothing of this loop is for other machines, and nothing of other machines shall move this arm.
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
}


def domain_in_use(domain: int) -> bool:
    """Whether a DDS participant on this machine holds the domain's first port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", PORT_BASE + DOMAIN_GAIN * domain + FIRST_UNICAST_OFFSET))
        except OSError:
            return True
    return False


def free_domain(start: int) -> int:
    """A ROS domain id that nobody on this machine uses now, the first from `start` on.

    Raises:
        RuntimeError: all of them are in use.
    """
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(start + step) % len(DOMAINS)]
        if not domain_in_use(domain):
            return domain
    raise RuntimeError(
        f"ROS domain ids {DOMAINS[0]} to {DOMAINS[-1]} are all in use on this machine; set ROS_DOMAIN_ID"
    )


def local_ros_environment(current: Mapping[str, str], start: int | None = None) -> dict[str, str]:
    """What to add to `current` so that ROS processes find each other and nobody else; what is set stays.

    `start`: where to begin looking for a free domain (default: by process id, so that two runs differ).
    """
    missing = {name: value for name, value in ENVIRONMENT.items() if not current.get(name)}
    missing |= transport_environment(current)
    if not current.get("ROS_DOMAIN_ID"):
        missing["ROS_DOMAIN_ID"] = str(free_domain(os.getpid() if start is None else start))
    return missing
