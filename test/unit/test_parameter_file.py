"""A file of parameters is held against the nodes that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinbrain_ros.nodes.catalogue import parameters_of_all
from twinbrain_ros.parameter_file import ParameterFileError, check_parameter_file

NODES = {f"/wx250s/{name}": known for name, known in parameters_of_all().items()}


def checked(tmp_path: Path, text: str, others: bool = False) -> dict[str, object]:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return check_parameter_file(path, NODES, others)


def one(node: str, parameter: str) -> str:
    return f"{node}:\n  ros__parameters:\n    {parameter}\n"


@pytest.mark.parametrize(
    "node",
    [
        "wx250s/controller_node",
        "/wx250s/controller_node",
        "/**",
        "**",
        "/**/controller_node",
        "/*/*",
        "/wx250s/*",
        "/wx250s/**",
        "/*/controller_node",
    ],
)
def test_a_right_file_passes_however_its_nodes_are_named(tmp_path: Path, node: str) -> None:
    assert checked(tmp_path, one(f"'{node}'", "policy_timeout_s: 1.5")) == {"policy_timeout_s": 1.5}


def test_namespaces_may_be_levels_and_nodes_of_others_have_what_they_like(tmp_path: Path) -> None:
    text = "wx250s:\n  policy_node:\n    ros__parameters:\n      threads: 2\n      use_sim_time: true\n"
    assert checked(tmp_path, text) == {"threads": 2, "use_sim_time": True}
    assert checked(tmp_path, one("/**/joy_node", "coalesce_interval_ms: 1")) == {"coalesce_interval_ms": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (one("controler_node", "dry_run: true"), "reaches no node: did you mean /wx250s/controller_node?"),
        (
            one("/**/controller_node", "policy_timeout: 1.0"),
            "'policy_timeout': there is none of this name, did you",
        ),
        (one("/**/controller_node", "checkpoint: here"), "'checkpoint': there is none of this name"),
        (
            one("/**/controller_node", "policy_timeout_s: 1"),
            "found '1', expected a number with a point, as 1.0",
        ),
        (
            one("/**/controller_node", "policy_timeout_s: off"),
            "found 'False', expected a number with a point",
        ),
        (one("/**/controller_node", "policy_timeout_s: 1000.0"), "from 0.01 to 60"),
        (one("/**/controller_node", "dry_run: 1"), "found '1', expected true or false"),
        (one("/**", "threads: many"), "found 'many', expected a whole number"),
        (one("/**", "nonsense: 1"), "'nonsense': there is none of this name"),
        ("controller_node:\n  dry_run: true\n", "expected nodes, each with ros__parameters"),
        ("controller_node:\n  ros__parameters: 3\n", "expected parameters and values"),
        (
            one("controller_node", "velocity_margin: 0.2"),
            "'/controller_node' reaches no node: expected /wx250s/co",
        ),
        (one("/*", "velocity_margin: 0.2"), "'/*' reaches no node"),
        (one("/right/controller_node", "velocity_margin: 0.2"), "or /**/controller_node for every namespace"),
        (one("/wx250s/cell/**", "velocity_margin: 0.2"), "reaches no node"),
        ("a: &a\n  b: *a\n", "YAML that refers to itself"),
        ("", "expected nodes"),
        ("- a\n", "expected nodes"),
        ("a: [", "not readable as YAML: while parsing a flow node expected the node content, but found"),
    ],
)
def test_what_is_said_to_nobody_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ParameterFileError) as error:
        checked(tmp_path, text)
    assert "mine.yaml" in str(error.value) and expected in str(error.value)


def test_a_file_may_be_for_arms_of_other_namespaces_too_where_there_are_some(tmp_path: Path) -> None:
    assert checked(tmp_path, one("/right/controller_node", "velocity_margin: 0.2"), others=True)
    with pytest.raises(ParameterFileError, match="reaches no node"):
        checked(tmp_path, one("controller_node", "velocity_margin: 0.2"), others=True)
