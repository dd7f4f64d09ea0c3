"""Python packaging for use without a ROS workspace; `colcon build` goes by CMakeLists.txt instead.

`pip install .` installs the Python modules, robot files and the `twinbrain` command, not the messages: these
are built by scripts/build_messages.py (see the Makefile), or come from a sourced colcon workspace.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Requirement lines of requirements/<name>.txt, comments taken away."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (raw.partition("#")[0].strip() for raw in lines) if line]


def data_files() -> list[tuple[str, list[str]]]:
    """The files under config/ and launch/, to go where colcon puts them: <prefix>/share/twinbrain_ros."""
    found: dict[str, list[str]] = {}
    for top in ("config", "launch"):
        for path in sorted((HERE / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(HERE)
                found.setdefault(f"share/twinbrain_ros/{relative.parent}", []).append(str(relative))
    return sorted(found.items())


manifest = ElementTree.parse(HERE / "package.xml")

setup(
    name="twinbrain_ros",
    version=manifest.findtext("version"),  # one place for both builds
    description=manifest.findtext("description"),
    license="Apache-2.0",
    python_requires=">=3.10",
    # The explicit root makes an editable install a plain path entry. The default, an import hook, would lose
    # against the directory of generated messages in site-packages, which has the same package name.
    package_dir={"": "."},
    packages=find_namespace_packages(include=["twinbrain_ros", "twinbrain_ros.*"]),
    package_data={"": ["*.json", "*.safetensors", "*.yaml", "*.txt", "py.typed"]},
    data_files=data_files(),
    install_requires=requirements("core"),
    extras_require={"ros": requirements("ros"), "dev": requirements("dev")},
    entry_points={"console_scripts": ["twinbrain = twinbrain_ros.cli:main"]},
)
