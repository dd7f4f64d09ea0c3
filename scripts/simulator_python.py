#!/usr/bin/env python3
"""Write an interpreter for the benchmark workers that finds a Vulkan driver SAPIEN can draw with.

Usage: .venv-evaluation/bin/python scripts/simulator_python.py

Writes .venv-evaluation/bin/simulator-python. Where the system's driver draws, that is all. Else Mesa's
software driver is fetched from the distribution's own archive, unpacked under .venv-evaluation/vulkan and
named in the interpreter's environment: nothing is installed into the system, and no privileges are needed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

DRIVER = "mesa-vulkan-drivers"
ICD = "lvp_icd*.json"  # lavapipe, Mesa's software driver
# SAPIEN 3 refuses lavapipe before Mesa 23.3. Debian 12 has 22.3, and 25 among its backports.
BACKPORTS = {"bookworm": "bookworm-backports"}
KEYRINGS = {
    "debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
DRAWS = "import sapien.render; sapien.render.RenderSystem('cpu')"


class DriverError(RuntimeError):
    """No driver could be had; the message says why, and what to do."""


def output(command: list[str]) -> str:
    """What a command prints.

    Raises:
        DriverError: it cannot be run, or fails; with its last lines.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise DriverError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise DriverError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def draws(python: Path, environment: dict[str, str]) -> str:
    """Why SAPIEN cannot draw; "" if it can."""
    done = subprocess.run(
        [str(python), "-c", DRAWS], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it crashed"])[-1]


def distribution() -> tuple[str, str]:
    """Name and release of this Linux, such as debian, bookworm."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return "", ""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, flags=re.MULTILINE))
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def sources() -> list[str]:
    """Lines of an apt list: the release's archive as this system has it, and its backports where they are
    needed.

    Raises:
        DriverError: this is not a Debian or an Ubuntu, or its archive is not configured.
    """
    name, release = distribution()
    if name not in KEYRINGS:
        raise DriverError(f"on {name or 'this system'} the driver has to come from the system")
    listed = output(["apt-get", "update", "--print-uris"])
    found = re.search(rf"'(\S+)/dists/{re.escape(release)}/(?:In)?Release'", listed)
    if found is None:
        raise DriverError(f"apt has no archive of {release} configured")
    suites = [release, *([BACKPORTS[release]] if release in BACKPORTS else [])]
    return [f"deb [signed-by={KEYRINGS[name]}] {found[1]} {suite} main" for suite in suites]


def fetch(into: Path) -> dict[str, str]:
    """Unpacks Mesa's Vulkan driver and what it needs that the system lacks; gives the environment that finds
    it.

    Raises:
        DriverError: see `sources`, `output`.
    """
    lines = sources()
    for part in ("lists/partial", "cache/archives/partial", "root"):
        (into / part).mkdir(parents=True, exist_ok=True)
    listing = into / "sources.list"
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # apt with folders of its own; it reads the system's list of installed packages, and changes nothing.
    own = {
        "Dir::Etc::sourcelist": listing, "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": into / "lists", "Dir::Cache": into / "cache", "Debug::NoLocking": "1",
    }  # fmt: skip
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    if os.geteuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]  # else apt gives up rights that these folders need
    output(["apt-get", *options, "update"])
    release = lines[-1].split()[-2]
    install = ["install", "--download-only", "--yes", "--reinstall", "--no-install-recommends", "-t", release]
    output(["apt-get", *options, *install, DRIVER])
    for package in sorted((into / "cache" / "archives").glob("*.deb")):
        output(["dpkg", "-x", str(package), str(into / "root")])
    drivers = sorted((into / "root").glob(f"usr/share/vulkan/icd.d/{ICD}"))
    libraries = sorted({path.parent for path in (into / "root").rglob("libvulkan_lvp.so")})
    if not drivers or not libraries:
        raise DriverError(f"{DRIVER} of {release} holds no {ICD}")
    return {"LD_LIBRARY_PATH": str(libraries[0]), "VK_ICD_FILENAMES": str(drivers[0])}


def write(path: Path, python: Path, environment: dict[str, str]) -> None:
    """An executable that runs the interpreter in this environment."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    body = "\n".join(["#!/bin/sh", *exports, f'exec {shlex.quote(str(python))} "$@"'])
    path.write_text(body + "\n", encoding="utf-8")
    path.chmod(0o755)


def main() -> int:
    """The command line."""
    python = Path(sys.executable)
    home = python.parent.parent
    environment: dict[str, str] = {}
    reason = draws(python, environment)
    try:
        if reason:
            print(f"the system's Vulkan cannot be drawn with ({reason}); fetching Mesa's software driver")
            environment = fetch(home / "vulkan")
            reason = draws(python, environment)
        if reason:
            raise DriverError(f"SAPIEN cannot draw with it: {reason}")
    except DriverError as error:
        print(
            f"error: no Vulkan driver: {error}. Install {DRIVER} of Mesa 24 or later, or a GPU's driver, and "
            "run `make evaluation` again",
            file=sys.stderr,
        )
        return 1
    write(home / "bin" / "simulator-python", python, environment)
    print(f"wrote {home / 'bin' / 'simulator-python'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
