from __future__ import annotations

import argparse
import json
import os
import sys
import types
from pathlib import Path

import pytest
from report_fixtures import Page, episode

from twinbrain_ros.commands import report as command
from twinbrain_ros.commands.common import FAILED, OK, CommandError
from twinbrain_ros.evaluation.figures import EpisodeFigures


def run(monkeypatch: pytest.MonkeyPatch, answers: dict[str, EpisodeFigures | Exception], *args: str) -> int:
    """Run the command on bags that give `answers`, by the name of their directory."""

    def figures_of(path: Path, details: bool, robot: str | None, namespace: str | None) -> EpisodeFigures:
        answer = answers[path.name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("bag_figures")
    module.figures_of = figures_of  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "twinbrain_ros.evaluation.bag_figures", module)
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["report", *args]))


def bag(path: Path, mark: str = "metadata.yaml") -> Path:
    path.mkdir(parents=True)
    (path / mark).touch()
    return path


def test_bags_are_found_at_any_depth_in_natural_order_and_once(tmp_path: Path) -> None:
    for name, mark in (("e10", "metadata.yaml"), ("e9", "x.mcap"), ("e100", "x.db3")):
        bag(tmp_path / "runs" / name, mark)
    bag(tmp_path / "runs" / "e9" / "inside")  # a part of the bag it is in
    bag(tmp_path / "runs" / "Deep" / "er" / "e1")
    (tmp_path / "runs" / "nothing").mkdir()
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "runs" / "e9")
    found = command.find_bags([tmp_path / "runs", tmp_path / "elsewhere", tmp_path / "runs" / "e10"], [])

    assert [path.name for path in found] == ["e1", "e9", "e10", "e100"]


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").touch()
    with pytest.raises(CommandError, match="found a file, expected the directory of a bag"):
        command.find_bags([tmp_path / "x.mcap"], [])
    with pytest.raises(CommandError, match="found nothing"):
        command.find_bags([tmp_path / "missing"], [])


def test_command_writes_page_and_json_and_names_what_it_could_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("e1", "e2", "e3"):
        bag(tmp_path / "runs" / name)
    out, figures = tmp_path / "new" / "report.html", tmp_path / "report.json"
    answers = {"e1": episode(1), "e2": ValueError("no messages\nat all"), "e3": episode(3, success=False)}
    code = run(
        monkeypatch,
        answers,
        str(tmp_path / "runs"),
        "--out",
        str(out),
        "--json",
        str(figures),
        "--title",
        "T & T",
    )

    assert code == OK
    parsed = Page(out.read_text(encoding="utf-8"))
    assert "T & T" in parsed.text and "no messages at all" in parsed.text
    values = json.loads(figures.read_text())
    assert values["episodes"] == 2
    assert values["left_out"] == {str(tmp_path / "runs" / "e2"): ["no messages at all"]}
    printed = capsys.readouterr().out
    assert "50.0% (1 of 2)" in printed and "no messages at all" in printed and f"page: {out}" in printed
    assert os.stat(out).st_mode & 0o444, "others may read it as far as the mask lets them"
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_command_fails_if_no_bag_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag(tmp_path / "runs" / "e1")
    out = tmp_path / "report.html"
    code = run(monkeypatch, {"e1": OSError("cut off")}, str(tmp_path / "runs"), "--out", str(out))

    assert code == FAILED and not out.exists()
    error = capsys.readouterr().err
    assert "none of 1 bags could be used" in error and "cut off" in error


def test_command_refuses_a_folder_without_bags_and_outputs_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match="found no bag"):
        run(monkeypatch, {}, str(tmp_path), "--out", str(tmp_path / "report.html"))
    bag(tmp_path / "runs" / "e1")
    (tmp_path / "file").touch()
    for bad, why in (
        (tmp_path, "found a directory"),
        (tmp_path / "file" / "report.html", "cannot be written"),
    ):
        with pytest.raises(CommandError, match=f"--out .*{why}"):
            run(monkeypatch, {}, str(tmp_path / "runs"), "--out", str(bad))
