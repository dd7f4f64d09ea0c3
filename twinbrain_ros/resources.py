"""Where the package's own files are: robot files, launch files and the demo checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE = "twinbrain_ros"
# Any of these is somebody's own choice of how messages travel.
TRANSPORT_CHOICES = (
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
)


def _candidate_shares() -> list[Path]:
    """Places that can hold `config/`, most specific first."""
    package_dir = Path(__file__).resolve().parent
    places = []
    if (package_dir.parent / "package.xml").is_file():
        places.append(package_dir.parent)  # the source tree
    # An install prefix: <prefix>/lib/python3.X/site-packages/twinbrain_ros/resources.py (Debian:
    # <prefix>/local/lib/...).
    places += [parent / "share" / PACKAGE for parent in package_dir.parents]
    overlays = [entry for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    places += [Path(prefix) / "share" / PACKAGE for prefix in (*overlays, sys.prefix)]
    return places


def share_dir() -> Path:
    """Directory that holds `config/` and `launch/`.

    The source tree when run from it, else `<prefix>/share/twinbrain_ros` of the installation.

    Raises:
        FileNotFoundError: neither is there; names the places that were tried.
    """
    places = _candidate_shares()
    for place in places:
        if (place / "config").is_dir():
            return place
    tried = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"no directory with {PACKAGE}'s config/ found; tried: {tried}")


def robot_file_path(name_or_path: str | Path) -> Path:
    """Path of a robot file, from the name of a shipped one (`wx250s`) or from a path.

    Raises:
        FileNotFoundError: there is no such file; names what was tried and the robots that are shipped.
    """
    found = find_config("robots", name_or_path)
    if found is None:
        given = Path(name_or_path).expanduser().absolute()
        by_name = share_dir() / "config" / "robots" / f"{name_or_path}.yaml"
        raise FileNotFoundError(
            f"robot file {str(name_or_path)!r}: neither a file ({given}) nor a shipped robot "
            f"({by_name}); shipped robots: {shipped_configs('robots')}"
        )
    return found


def find_config(folder: str, name_or_path: str | Path) -> Path | None:
    """A YAML file by its path, or by the name of one that ships in this folder of config/; None: neither."""
    given = Path(name_or_path).expanduser()
    if given.is_file():
        return given.resolve()
    by_name = share_dir() / "config" / folder / f"{name_or_path}.yaml"
    return by_name if given.name == str(name_or_path) and by_name.is_file() else None


def shipped_configs(folder: str) -> str:
    """The names of the YAML files in a folder of config/, for messages."""
    shipped = share_dir() / "config" / folder
    return ", ".join(sorted(path.stem for path in shipped.glob("*.yaml"))) or "none"


def transport_environment(current: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment so that Fast DDS loses no images; nothing where somebody has chosen.

    The profiles are for Fast DDS 3 (ROS 2 Kilted); earlier ones know the other variable.

    Raises:
        FileNotFoundError: the package's config/ is not there.
    """
    if any(current.get(name) for name in TRANSPORT_CHOICES):
        return {}
    profiles = share_dir() / "config" / "fastdds.xml"
    return {"FASTDDS_DEFAULT_PROFILES_FILE": str(profiles), "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}


def demo_checkpoint() -> Path:
    """Directory of the checkpoint that ships in the package; absent in a tree that was never trained."""
    return Path(__file__).resolve().parent / "checkpoints" / "demo"


def train_start(given: str) -> Path:
    """Directory of the checkpoint that training starts from; `demo` is the shipped one."""
    return demo_checkpoint() if given == "demo" else Path(given)
