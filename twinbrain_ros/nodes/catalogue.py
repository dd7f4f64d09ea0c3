"""Every parameter of every node of this package, for those who check a file of them."""

from __future__ import annotations

from collections.abc import Mapping

from twinbrain_ros.nodes.control_parameters import FIXED, LIVE
from twinbrain_ros.nodes.parameters import COMMON, Declared
from twinbrain_ros.nodes.policy_parameters import PARAMETERS as POLICY
from twinbrain_ros.nodes.recorder_parameters import PARAMETERS as RECORDER


def parameters_of_all() -> dict[str, Mapping[str, Declared] | None]:
    """By the node's name, parameters by theirs; None: a node of another package."""
    from twinbrain_ros.nodes.sim_node import SimNode  # brings the physics along

    own = {
        "controller_node": (*FIXED, *LIVE),
        "policy_node": POLICY,
        "recorder_node": RECORDER,
        "sim_node": SimNode.parameters,
    }
    known: dict[str, Mapping[str, Declared] | None] = {
        name: {entry.name: entry for entry in (*COMMON, *declared)} for name, declared in own.items()
    }
    return {**known, "joy_node": None}
