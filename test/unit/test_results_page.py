"""docs/results/paper.md: its commands are commands, its names are names, its means are means."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from twinbrain_ros import cli
from twinbrain_ros.benchmarks.process import suite_tasks
from twinbrain_ros.benchmarks.profile import load_profile
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.resources import find_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "paper.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [
    [cell.strip().strip("*") for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ")
]


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def arguments(command: str) -> list[str]:
    """Of `twinbrain`, however it is launched."""
    words = shlex.split(command)
    start = words.index("twinbrain_ros.cli") if words[0] == "accelerate" else words.index("twinbrain")
    return words[start + 1 :]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_the_parsers_take(command: str) -> None:
    args = cli.build_parser().parse_args(arguments(command))
    if args.command == "evaluate":
        assert set(args.tasks or ()) <= set(suite_tasks(args.suite))
        assert args.profile is None or load_profile(args.profile).limit >= 0
    if args.command == "train":
        assert find_config("train", args.config) is not None
        assert (ROOT / "config" / "accelerate" / "zero2.yaml").is_file()
    if args.command in ("init", "import-checkpoint"):
        assert find_config("robots", args.robot) is not None


def test_there_is_a_command_for_each_benchmark_and_for_what_is_forgotten() -> None:
    heads = [arguments(command) for command in commands()]
    for suite in ("simpler-ms2", "simpler-ms3", "robocasa-gr1", "libero"):
        assert ["evaluate", suite] in [words[:2] for words in heads]
    assert {"init", "train", "import-checkpoint", "questions"} <= {words[0] for words in heads}


def is_number(cell: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", cell) is not None


def test_the_mean_of_four_tasks_or_suites_is_theirs() -> None:
    whole = [row for row in ROWS if len(row) >= 6 and all(map(is_number, row[1:6]))]
    assert len(whole) >= 18
    for name, *cells in whole:
        parts, mean = [float(cell) for cell in cells[:4]], float(cells[4])
        assert abs(sum(parts) / 4 - mean) <= 0.1, name


def test_all_24_tasks_are_there_and_their_means_are_those_of_the_table_of_means() -> None:
    tasks = {
        row[0]: [float(cell) for cell in row[1:5]] for row in ROWS if row[0] in suite_tasks("robocasa-gr1")
    }
    assert set(tasks) == set(suite_tasks("robocasa-gr1")) and len(tasks) == 24
    means = [sum(column) / 24 for column in zip(*tasks.values(), strict=True)]
    assert means == pytest.approx([54.6, 47.6, 47.8, 43.9], abs=0.06)


def test_intervals_are_wilsons() -> None:
    found = re.findall(r"(\d+)/(\d+) \[([\d.]+), ([\d.]+)\]", TEXT)
    found += [
        (f"{round(float(rate) * int(n.replace(',', '')) / 100)}", n.replace(",", ""), low, high)
        for rate, n, low, high in re.findall(r"([\d.]+) % of ([\d,]+) is \[([\d.]+), ([\d.]+)\]", TEXT)
    ]
    assert len(found) >= 12
    for successes, trials, low, high in found:
        expected = wilson_interval(int(successes), int(trials))
        assert [float(low), float(high)] == pytest.approx([100 * e for e in expected], abs=0.06)
