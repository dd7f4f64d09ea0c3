"""The loop where it is not alone: full disks, kills, trials in between."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from twinbrain_ros.training import state
from twinbrain_ros.training.batch import Share
from twinbrain_ros.training.loop import LoopConfig, Rehearsal, train_loop
from twinbrain_ros.training.state import DiskFull, replace_folder, write_whole
from twinbrain_ros.training.trials import Best

CONFIG = LoopConfig(steps=40, batch_size=4, learning_rate=0.01, warmup_steps=2, save_every_steps=10)


def batches(step: int, share: Share) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def fit(out: Path, config: LoopConfig = CONFIG, rehearsal: Rehearsal | None = None) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def losses(x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return {"fit": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    train_loop("fit", module, losses, batches, config, out, rehearsal=rehearsal)
    return module


def test_a_disk_without_room_is_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DiskFull, match=r"found 0\.00 GB free, expected at least"):
        fit(tmp_path)
    assert not (tmp_path / "fit.state.pt").exists()


def test_a_disk_that_fills_up_on_the_way_costs_no_state_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, saves = torch.save, []

    def save(values: object, path: Path) -> None:
        saves.append(path)
        if len(saves) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(values, path)

    monkeypatch.setattr(torch, "save", save)
    seen = []

    def look(step: int) -> dict[str, float]:
        seen.append(int(torch.load(tmp_path / "fit.state.pt")["step"]))
        return {"score": 0.0}

    fit(tmp_path, rehearsal=Rehearsal(20, look))
    assert seen == [10, 40] and len(saves) == 5  # the last one again, with what the trial found
    assert int(torch.load(tmp_path / "fit.state.pt")["step"]) == 40
    assert "the state of step 20 could not be written, the one before is kept" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.partial"))


def test_the_log_tells_of_losses_rates_speed_waiting_and_trials(tmp_path: Path) -> None:
    fit(tmp_path, rehearsal=Rehearsal(20, lambda step: {"success_pick": 0.5, "score": 0.5}))
    rows = [json.loads(line) for line in (tmp_path / "fit.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 20, 40, 40]
    assert rows[0].keys() >= {"fit", "rate", "samples_per_s", "waited_share"}
    assert rows[1] == {"step": 20, "success_pick": 0.5, "score": 0.5}
    assert list((tmp_path / "tensorboard" / "fit").glob("events.*"))


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"fit\.state\.pt: of another model"):
        module = nn.Linear(3, 1, bias=False)
        train_loop("fit", module, lambda x, s: {"a": module(x).sum()}, batches, CONFIG, tmp_path)


def test_the_best_checkpoint_is_the_first_of_the_highest_score(tmp_path: Path) -> None:
    step = 0

    def save(path: Path) -> None:
        (path / "step").write_text(str(step))

    best = Best(tmp_path, save)
    for step, score in ((1, 0.2), (2, 0.7), (3, 0.7), (4, 0.1)):
        best.offer(step, {"score": score})
    assert (tmp_path / "best" / "step").read_text() == "2"
    step = 5
    Best(tmp_path, save).offer(5, {"score": 0.6})  # a resumed run knows what was reached
    assert (tmp_path / "best" / "step").read_text() == "2"
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "score": 0.7}


def test_a_folder_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    replace_folder(place, lambda path: (path / "a").write_text("old"))

    def fail(path: Path) -> None:
        (path / "a").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(place, fail)
    assert (place / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["checkpoint"]
    replace_folder(place, lambda path: (path / "a").write_text("new"))
    assert (place / "a").read_text() == "new" and os.listdir(tmp_path) == ["checkpoint"]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_whole(path, lambda p: p.write_text("old"))
    with pytest.raises(OSError, match="gone"):
        write_whole(path, lambda partial: _gone())
    assert path.read_text() == "old"


def _gone() -> None:
    raise OSError("gone")
