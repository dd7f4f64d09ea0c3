from __future__ import annotations

import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest

from twinbrain_ros.demo import environment
from twinbrain_ros.demo.environment import domain_in_use, free_domain, local_ros_environment
from twinbrain_ros.resources import TRANSPORT_CHOICES


@pytest.fixture
def domain_97_in_use() -> Iterator[None]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("", 7400 + 250 * 97 + 10))
        yield


def test_what_is_set_stays_and_what_is_missing_is_added() -> None:
    current = {"ROS_DOMAIN_ID": "7", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
    added = local_ros_environment(current)

    assert added == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}


def test_large_images_get_shared_memory_unless_somebody_has_chosen_otherwise() -> None:
    added = local_ros_environment({"ROS_DOMAIN_ID": "7"})
    profiles = ElementTree.parse(added["FASTDDS_DEFAULT_PROFILES_FILE"]).getroot()
    (size,) = [element.text for element in profiles.iter() if element.tag.endswith("segment_size")]
    assert size is not None and int(size) >= 4 * 640 * 480 * 3
    for name in TRANSPORT_CHOICES:
        assert not set(TRANSPORT_CHOICES) & set(local_ros_environment({name: "mine", "ROS_DOMAIN_ID": "7"}))


def test_a_domain_is_chosen_that_nobody_uses(domain_97_in_use: None) -> None:
    assert domain_in_use(97)
    assert free_domain(96) not in (97,)  # domains count from 1: start 96 is domain 97
    assert 1 <= free_domain(96) <= 100


def test_all_domains_in_use_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "domain_in_use", lambda domain: True)
    with pytest.raises(RuntimeError, match="set ROS_DOMAIN_ID"):
        free_domain(0)
