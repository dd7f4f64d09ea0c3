#!/usr/bin/env python3
"""Generate, build and install this package's messages into the running virtual environment.

Usage: .venv/bin/python scripts/build_messages.py [--build-dir build/messages]

So are the interfaces of others under test/interfaces, which tests need and no wheel has: of the trajectory
controllers and grippers of ros2_control, of its controller manager, of the Interbotix driver.

The ROS 2 wheels lay out an ament prefix inside the environment, so that plain CMake with the environment as
prefix builds messages without any ROS installation. Needs a C and a C++ compiler; CMake and Ninja come as
wheels.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = "twinbrain_ros"
SOURCE = Path(__file__).resolve().parent.parent
OTHERS = SOURCE / "test" / "interfaces"

# The exports of the ROS wheels' Python generators carry the include directories of the machine that built the
# wheels (/opt/python/cp311-cp311/...). CMake refuses exported include directories that do not exist, so they
# are pointed at the environment's own, which does; the generator adds the right Python and NumPy headers by
# itself.
FOREIGN_INCLUDES = re.compile(r"/opt/python/cp3[0-9]+-cp3[0-9]+t?/[^;\"]*")
OWN_INCLUDES = "${_IMPORT_PREFIX}/include"


class BuildError(RuntimeError):
    """A build step failed."""


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a text file."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def mend_wheel_exports(prefix: Path) -> int:
    """Mend the CMake exports under an ament prefix in place; returns how many files were changed."""
    mended = 0
    for export in sorted(prefix.glob("share/*/cmake/export_*__rosidl_generator_pyExport.cmake")):
        text = export.read_text(encoding="utf-8")
        new_text = FOREIGN_INCLUDES.sub(OWN_INCLUDES, text)
        if new_text != text:
            export.write_text(new_text, encoding="utf-8")
            mended += 1
    return mended


def digest(prefix: Path, source: Path) -> str:
    """Of everything that a build's outcome hangs on: definitions, CMake files, interpreter, ROS wheels."""
    kinds = ("msg/*", "srv/*", "action/*", "CMakeLists.txt", "package.xml")
    found = {path for kind in kinds for path in (*source.glob(kind), *source.glob(f"*/{kind}"))}
    wheels = sorted(path.name for path in prefix.glob("lib/python3.*/site-packages/ros_*.dist-info"))
    total = hashlib.sha256("\0".join([sys.version, *wheels]).encode())
    for path in sorted(path for path in found if path.is_file()):
        total.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def build_if_changed(prefix: Path, source: Path, build_dir: Path) -> None:
    """As `build_and_install`, unless these very messages are there already."""
    stamp, wanted = prefix / f".messages-{build_dir.name}", digest(prefix, source)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"the messages of {build_dir.name} are as they were", flush=True)
        return
    stamp.unlink(missing_ok=True)
    build_and_install(prefix, source, build_dir)
    stamp.write_text(wanted, encoding="utf-8")


def build_and_install(prefix: Path, source: Path, build_dir: Path) -> None:
    """Configure, build and install the messages under `source` with CMake and Ninja.

    Raises:
        BuildError: a step failed; with the end of its output.
    """
    # CMake's cache keeps the compiler, Python and prefix of an earlier environment: start clean, it takes
    # seconds.
    shutil.rmtree(build_dir, ignore_errors=True)
    # Without AMENT_PREFIX_PATH the generators do not find their type supports. A sourced ROS installation
    # must not mix with the wheels, so its variables are dropped.
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("AMENT_", "COLCON_", "ROS_"))
    }
    env.pop("PYTHONPATH", None)
    env.pop("CMAKE_PREFIX_PATH", None)
    env["AMENT_PREFIX_PATH"] = str(prefix)
    env["PATH"] = os.pathsep.join([str(prefix / "bin"), env.get("PATH", os.defpath)])
    cmake = str(prefix / "bin" / "cmake")
    configure = [
        cmake, "-S", str(source), "-B", str(build_dir), "-G", "Ninja", "-Wno-dev", "--log-level=WARNING",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DCMAKE_MAKE_PROGRAM={prefix / 'bin' / 'ninja'}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_INSTALL_MESSAGE=NEVER",
        "-DBUILD_TESTING=OFF",
        "-DTWINBRAIN_INSTALL_PYTHON=OFF",
    ]  # fmt: skip
    build_dir.mkdir(parents=True)
    log = build_dir / "build.log"
    for command in (configure, [cmake, "--build", str(build_dir)], [cmake, "--install", str(build_dir)]):
        with log.open("a", encoding="utf-8") as output:
            result = subprocess.run(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        if result.returncode != 0:
            raise BuildError(
                f"{' '.join(command[:2])} ... failed with {result.returncode}; the end of {log}:\n{tail(log)}"
            )


def leave_python_to_pip(site_packages: Path) -> None:
    """Take away what would stand in the way of pip's editable install of the same name.

    The generator installs an empty `__init__.py`, which would hide the source tree (it comes earlier on
    sys.path), and metadata of its own, which pip could not uninstall.
    """
    (site_packages / PACKAGE / "__init__.py").unlink(missing_ok=True)
    for metadata in site_packages.glob(f"{PACKAGE}-*.egg-info"):
        shutil.rmtree(metadata)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--build-dir", type=Path, default=SOURCE / "build" / "messages", help="default: %(default)s"
    )
    args = parser.parse_args()

    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        parser.error(f"{sys.executable} is not in a virtual environment; run it with .venv/bin/python")
    if shutil.which("c++") is None and shutil.which("g++") is None and "CXX" not in os.environ:
        parser.error(
            "no C++ compiler found (c++, g++ or $CXX); on Debian and Ubuntu: apt install build-essential"
        )
    mended = mend_wheel_exports(prefix)
    print(f"mended the CMake exports of {mended} ROS wheels; building messages (about 40 s)", flush=True)
    try:
        with ThreadPoolExecutor() as pool:
            builds = [
                pool.submit(build_if_changed, prefix, source, args.build_dir / name)
                for source, name in ((SOURCE, PACKAGE), (OTHERS, OTHERS.name))
            ]
            for build in builds:
                build.result()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for site_packages in prefix.glob("lib/python3.*/site-packages"):
        leave_python_to_pip(site_packages)
    print(f"installed the messages of {PACKAGE} and those under {OTHERS.name} into {prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
