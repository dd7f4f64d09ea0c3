"""`make evaluation`'s interpreter: where a driver is had from, and what is said where none can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from script_files import load_script

LISTED = """\
'http://archive.example/debian/dists/bookworm/InRelease' archive.example_bookworm_InRelease 0
'http://archive.example/security/dists/bookworm-security/InRelease' archive.example_security_InRelease 0
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("simulator_python", monkeypatch)


def test_debian_12_takes_its_backports_too(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "distribution", lambda: ("debian", "bookworm"))
    monkeypatch.setattr(script, "output", lambda command, **more: LISTED)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert script.sources() == [
        f"deb [signed-by={key}] http://archive.example/debian bookworm main",
        f"deb [signed-by={key}] http://archive.example/debian bookworm-backports main",
    ]


def test_later_releases_need_none(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "distribution", lambda: ("ubuntu", "noble"))
    monkeypatch.setattr(
        script, "output", lambda command, **more: "'http://a.example/ubuntu/dists/noble/InRelease' x 0"
    )
    (line,) = script.sources()
    assert line.endswith("http://a.example/ubuntu noble main") and "ubuntu-archive-keyring" in line


@pytest.mark.parametrize(
    ("where", "listed", "named"),
    [
        (("fedora", "41"), "", "on fedora the driver has to come from the system"),
        (("", ""), "", "on this system the driver has to come"),
        (("debian", "trixie"), LISTED, "apt has no archive of trixie configured"),
    ],
)
def test_where_no_driver_can_be_had_it_is_said(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, where: tuple[str, str], listed: str, named: str
) -> None:
    monkeypatch.setattr(script, "distribution", lambda: where)
    monkeypatch.setattr(script, "output", lambda command, **more: listed)
    with pytest.raises(script.DriverError, match=named):
        script.sources()


def test_a_command_that_fails_or_is_not_there_is_named(script: ModuleType) -> None:
    with pytest.raises(script.DriverError, match="no-such-command: No such file"):
        script.output(["no-such-command"])
    with pytest.raises(script.DriverError, match="broken"):
        script.output([sys.executable, "-c", "raise SystemExit('broken')"])


def test_the_interpreter_runs_in_the_drivers_environment(script: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "simulator-python"
    script.write(made, Path(sys.executable), {"VK_ICD_FILENAMES": "/a b/icd.json"})
    code = "import os, sys; print(os.environ['VK_ICD_FILENAMES'], sys.argv[1])"
    done = subprocess.run([str(made), "-c", code, "x y"], capture_output=True, text=True, check=True)
    assert done.stdout == "/a b/icd.json x y\n"


def test_without_a_driver_the_command_fails_with_the_mend(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "draws", lambda python, environment: "ErrorIncompatibleDriver")
    monkeypatch.setattr(script, "distribution", lambda: ("fedora", "41"))
    monkeypatch.setattr(script, "write", lambda *given: pytest.fail("nothing works, and yet it is written"))
    monkeypatch.setattr(script.sys, "executable", "/nowhere/bin/python")
    monkeypatch.setattr(script.Path, "mkdir", lambda *given, **more: None)
    assert script.main() == 1
    assert "Install mesa-vulkan-drivers of Mesa 24 or later" in capsys.readouterr().err
