"""The package's own description of itself agrees with itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import twinbrain_ros

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted(path for kind in ("action", "msg", "srv") for path in ROOT.glob(f"{kind}/*.{kind}"))


def test_version_is_the_same_everywhere() -> None:
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == twinbrain_ros.__version__


def test_every_ros_package_that_is_imported_is_declared() -> None:
    text = (ROOT / "package.xml").read_text(encoding="utf-8")
    files = [*(ROOT / "twinbrain_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    pattern = r"""(?:^\s*(?:from|import) |[("'])(\w+_(?:msgs|srvs|interfaces)|launch\w*|rclpy)(?=[. ])"""
    imported = {
        name
        for path in files
        for name in re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    declared = {entry.text for entry in ElementTree.fromstring(text) if entry.tag.endswith("depend")}
    assert {"action_msgs", "rcl_interfaces", "interbotix_xs_msgs"} <= imported
    optional = re.findall(r"\w+_msgs", "".join(re.findall(r"<!--.*?-->", text, flags=re.DOTALL)))
    assert imported - declared == set(optional)


def test_every_interface_is_built() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?:action|msg|srv)/\w+\.(?:action|msg|srv)", cmake))
    assert listed == {str(path.relative_to(ROOT)) for path in INTERFACES}


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_field_of_an_interface_is_documented(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line != "---"]
    fields = [line for line in lines if not line.startswith("#")]
    undocumented = [line for line in fields if "#" not in line]
    assert fields and not undocumented


def test_every_executable_that_colcon_installs_is_there() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    programs = re.findall(r"^\s+(scripts/\w+)", cmake, flags=re.MULTILINE)
    assert len(programs) == 5
    for program in programs:
        assert (ROOT / program).stat().st_mode & 0o111, f"{program} is not executable"


def test_wheel_requirements_are_pinned() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            requirement = line.partition("#")[0].strip()
            assert not requirement or "==" in requirement, f"{path.name}: {requirement}"
