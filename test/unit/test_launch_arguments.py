"""What a launch file is given is checked by name, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinbrain_ros.launch_arguments import Argument, ArgumentError, check_apart, check_names, check_values
from twinbrain_ros.resources import demo_checkpoint

ARGUMENTS = {
    "left_period_s": Argument(float, "0.0", "", lower=0.0, upper=60.0),
    "seed": Argument(int, "0", "", lower=0, upper=2**31 - 1),
    "strategy": Argument(str, "open_loop", "", ("open_loop", "real_time")),
    "dtype": Argument(str, "", "", ("", "float32")),
    "namespace": Argument(str, "", "", means="namespace"),
    "robot": Argument(str, "wx250s", "", means="robot"),
    "checkpoint": Argument(str, "", "", means="checkpoint"),
    "device": Argument(str, "cpu", "", means="device"),
    "bag_dir": Argument(str, "bags", "", means="directory"),
    "params_file": Argument(str, "", "", means="file"),
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("left_period_s", "off", "found 'off', expected a number"),
        ("left_period_s", "-1", "expected a number from 0 to 60"),
        ("left_period_s", "nan", "expected a number from 0 to 60"),
        ("left_period_s", "inf", "expected a number from 0 to 60"),
        ("seed", "abc", "found 'abc', expected a whole number"),
        ("seed", "1.5", "expected a whole number"),
        ("seed", "-3", "expected a whole number from 0"),
        ("strategy", "realtime", "did you mean real_time? expected one of open_loop, real_time"),
        ("dtype", "half", "expected one of '' (empty), float32"),
        ("namespace", "9x", "expected names of letters"),
        ("namespace", "a b", "expected names of letters"),
        ("robot", "wx260s", "shipped robots: franka, google_robot"),
        ("checkpoint", "/nowhere", "no such directory, expected the directory of a TwinBrain checkpoint"),
        ("checkpoint", "/", "no config.json in it"),
        ("device", "gpu", "expected cpu, cuda or cuda:N"),
        ("device", "CUDA 0", "expected cpu, cuda or cuda:N"),
        ("bag_dir", "/dev/null/bags", "expected a directory that can be written to"),
        ("bag_dir", "", "expected a directory that can be written to"),
        ("params_file", "/nowhere.yaml", "no such file"),
        ("params_file", "~nobody_of_this_name/x", "which cannot be used"),
        ("params_file", "x" * 5000, "which cannot be used"),
        ("bag_dir", "~nobody_of_this_name/x", "which cannot be used"),
        ("bag_dir", "x" * 5000, "which cannot be used"),
        ("checkpoint", "y" * 5000, "which cannot be used"),
        ("robot", "~nobody_of_this_name/x.yaml", "launch argument robot: "),
        ("strategy", "x" * 1_000_000, "(1000000 characters)"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_expected(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(ArgumentError) as error:
        check_values({name: value}, ARGUMENTS)
    said = str(error.value)
    assert said.startswith(f"launch argument {name}: ") and expected in said and "\n" not in said


def test_right_values_pass(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.touch()
    given = {
        "left_period_s": "1", "seed": "7", "strategy": "real_time", "dtype": "", "namespace": "/cell/left_2",
        "robot": "franka", "checkpoint": str(demo_checkpoint()), "device": "cuda:1",
        "bag_dir": str(tmp_path / "a/b"), "params_file": str(file), "somebody_else's": "anything",
    }  # fmt: skip
    check_values(given, ARGUMENTS)
    check_values({"namespace": "", "checkpoint": "", "params_file": ""}, ARGUMENTS)


def test_an_unknown_name_is_named_and_the_nearest_offered() -> None:
    check_names(["seed", "robot"], ARGUMENTS)
    with pytest.raises(ArgumentError, match=r"'robto': there is none of this name, did you mean robot\?"):
        check_names(["seed", "robto"], ARGUMENTS)


def test_two_arms_have_two_namespaces() -> None:
    check_apart({"left": "a", "right": "b"}, ["left", "right"])
    with pytest.raises(
        ArgumentError, match="right: found '/a', which left is too, expected another namespace"
    ):
        check_apart({"left": "a", "right": "/a"}, ["left", "right"])


def test_a_robot_file_that_refers_to_itself_is_named(tmp_path: Path) -> None:
    file = tmp_path / "endless.yaml"
    file.write_text("arm: &a\n  joints: *a\n  home: [*a]\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match="launch argument robot: "):
        check_values({"robot": str(file)}, ARGUMENTS)
