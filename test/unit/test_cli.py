from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from twinbrain_ros import cli
from twinbrain_ros.commands.common import CommandError, write_json

COMMANDS = ("demo", "train", "predict", "ask", "questions", "info", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_offers_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])

    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--json FILE" in text
    assert "None" not in text, "defaults are said in words"


def test_help_states_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])

    text = " ".join(capsys.readouterr().out.split())
    for phrase in ("[s] (default: 20)", "(default: 6)", "(default: wx250s)", "(default: all)"):
        assert phrase in text


def test_help_needs_no_heavy_import() -> None:
    program = (
        "import sys, twinbrain_ros.cli as cli; cli.build_parser();"
        "print([name for name in ('torch', 'rclpy', 'mujoco', 'cv2', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "--checkpoint", "/no/such"], r"--checkpoint: /no/such holds no config\.json"),
        (["train", "--config", "/no/such.yaml"], r"--config: no file /no/such\.yaml"),
        (["doctor", "--json", "/dev/null/x.json"], r"--json /dev/null/x\.json: cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TWINBRAIN_DEBUG", raising=False)
    # The checks themselves are not what is tried here.
    monkeypatch.setattr("twinbrain_ros.demo.checks.run_checks", lambda *given: iter(()))

    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert re.search(rf"^twinbrain {arguments[0]}: error: .*{expected}", error)


def test_debug_setting_adds_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINBRAIN_DEBUG", "1")
    assert cli.main(["info", "--checkpoint", "/no/such"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--episodes", "0"],
        ["demo", "--episodes", "many"],
        ["demo", "--seed", "-1"],
        ["demo", "--max-seconds", "0"],
        ["demo", "--max-seconds", "nan"],
        ["demo", "--task", "push"],
        ["demo", "--execution-steps", "0"],
        ["fly"],
        [],
    ],
)
def test_impossible_options_are_refused_before_anything_starts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--instruction", "pick up the orange block"], "colour of red, green"),
        (["--instruction", ""], "is not understood"),
        (["--instruction", "x" * 100_000], "is not understood"),
        (["--task", "put", "--instruction", "pick up the red block"], "is a 'pick' task"),
        (["--robot", "wx251s"], "shipped robots: "),
        (["--json", "/dev/null/x.json"], "cannot be written"),
    ],
)
def test_a_demo_that_cannot_be_run_is_refused_before_anything_starts(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").touch()
    assert cli.main(["demo", "--checkpoint", str(tmp_path), *options]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and len(captured.err) < 1000
    assert captured.out == "", "no node was started"


def test_interrupting_a_command_leaves_no_traceback() -> None:
    program = (
        "import signal, sys, time; from twinbrain_ros import cli; from twinbrain_ros.commands import info\n"
        # A shell lets what it runs in the background ignore interrupts, and these tests with it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # Short sleeps: a signal that comes just before a long one would be heard only after it.
        "def wait(args):\n    print('ready', flush=True)\n    while True: time.sleep(0.05)\n"
        "info.run = wait\nsys.exit(cli.main(['info']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error == "twinbrain info: interrupted\n"


def test_json_file_is_made_with_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    write_json(path, {"episodes": 3})
    assert json.loads(path.read_text()) == {"episodes": 3}
    write_json(None, {"episodes": 3})


def test_json_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"--json {tmp_path}: cannot be written"):
        write_json(tmp_path, {})


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).parent / "twinbrain"
    assert os.access(script, os.X_OK), "make setup installs it"
