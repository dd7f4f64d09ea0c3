from __future__ import annotations

from pathlib import Path

import pytest

from twinbrain_ros import resources


def test_share_dir_of_the_source_tree_is_its_root() -> None:
    assert (resources.share_dir() / "package.xml").is_file()
    assert (resources.share_dir() / "config" / "robots").is_dir()


def installed_at(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = prefix / "lib" / "python3.11" / "site-packages" / "twinbrain_ros" / "resources.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(resources, "__file__", str(module))
    monkeypatch.setattr(resources.sys, "prefix", str(prefix / "elsewhere"))


def test_share_dir_of_an_installation_is_beside_its_lib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_at(tmp_path, monkeypatch)
    (tmp_path / "share" / "twinbrain_ros" / "config").mkdir(parents=True)

    assert resources.share_dir() == tmp_path / "share" / "twinbrain_ros"


def test_share_dir_falls_back_to_the_sourced_workspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_at(tmp_path / "code", monkeypatch)
    overlay = tmp_path / "overlay"
    (overlay / "share" / "twinbrain_ros" / "config").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}/none:{overlay}")

    assert resources.share_dir() == overlay / "share" / "twinbrain_ros"


def test_share_dir_names_what_it_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_at(tmp_path, monkeypatch)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)

    with pytest.raises(FileNotFoundError, match=f"tried: .*{tmp_path}/share/twinbrain_ros"):
        resources.share_dir()


def test_robot_file_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    by_name = resources.robot_file_path("wx250s")
    assert by_name == resources.share_dir() / "config" / "robots" / "wx250s.yaml"

    own = tmp_path / "mine.yaml"
    own.touch()
    assert resources.robot_file_path(own) == own
    assert resources.robot_file_path(str(own)) == own


def test_an_unknown_robot_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"'wx251s'.*shipped robots: .*wx250s"):
        resources.robot_file_path("wx251s")


def test_a_path_with_directories_is_never_taken_for_a_name() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/wx250s"):
        resources.robot_file_path("nowhere/wx250s")
