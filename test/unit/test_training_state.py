"""What a run is picked up from: damaged, missing, of another run, on a full disk; and whose folder it is."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from twinbrain_ros.training import folder, memory
from twinbrain_ros.training.batch import Share
from twinbrain_ros.training.config import TrainConfigError
from twinbrain_ros.training.folder import RunFolder
from twinbrain_ros.training.loop import LoopConfig, LossNotFinite, Rehearsal, train_loop
from twinbrain_ros.training.memory import MemoryLacking, TrainingMemory
from twinbrain_ros.training.processes import Stopped, processes
from twinbrain_ros.training.run import StageWatch
from twinbrain_ros.training.state import StateError, before, clear_partial, load_state, write_state

CONFIG = LoopConfig(steps=12, batch_size=4, learning_rate=0.01, warmup_steps=2, save_every_steps=4)

HOLDER = """
import sys
from pathlib import Path
from twinbrain_ros.training.folder import RunFolder
from twinbrain_ros.training.processes import processes
RunFolder(Path(sys.argv[1]), {"robot": "wx250s"}, False, processes())
print("held", flush=True)
sys.stdin.read()
"""


def fit(
    out: Path,
    config: LoopConfig = CONFIG,
    rehearsal: Rehearsal | None = None,
    told: tuple[int, int] = (-1, 0),
    spoilt: int = -1,
    size: int = 3,
) -> nn.Module:
    """Trains a regression; `told`: a step in which the process gets a signal; `spoilt`: one in which a weight
    that has no gradient is not finite."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    module = nn.Linear(size, 1)
    module.unused = nn.Linear(2, 2)

    def batches(step: int, share: Share) -> torch.Tensor:
        return torch.randn(4, size, generator=torch.Generator().manual_seed(step))

    def losses(x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        if step == told[0]:
            os.kill(os.getpid(), told[1])
        if step == spoilt:
            with torch.no_grad():
                module.unused.weight[0, 0] = torch.nan  # type: ignore[union-attr, operator]
        return {"fit": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    train_loop("fit", module, losses, batches, config, out, rehearsal=rehearsal, stoppable=told[1] > 0)
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


# -- files


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_state_is_refused_by_path_and_the_one_before_it_is_named(
    tmp_path: Path, damage: str
) -> None:
    whole = fit(tmp_path)
    path = tmp_path / "fit.state.pt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content)[: {"flipped": None, "cut": len(content) - 700, "empty": 0}[damage]])
    with pytest.raises(StateError) as caught:
        fit(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{path}: damaged: found ") and "\n" not in said
    assert said.endswith(f"the state before it is whole: {before(path)}, move it there to go on from it")
    os.replace(before(path), path)
    assert same(fit(tmp_path), whole)


def test_every_damaged_byte_of_a_states_numbers_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(600.0)}, path)
    content = path.read_bytes()
    start = content.index(torch.arange(600.0).numpy().tobytes())
    for at in range(start, start + 2400, 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(StateError, match=r"x\.pt: damaged: found wrong checksum"):
            load_state(path)


def test_a_missing_state_with_one_before_it_is_not_a_beginning(tmp_path: Path) -> None:
    fit(tmp_path)
    (tmp_path / "fit.state.pt").unlink()
    with pytest.raises(
        StateError, match=r"fit\.state\.pt: missing, but the state before it is there: .*before"
    ):
        fit(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 8}, "batch_size: found a state of 4, expected 8"),
        ({"seed": 5}, "seed: found a state of 0, expected 5"),
        ({"precision": "bfloat16"}, "precision: found a state of 'float32', expected 'bfloat16'"),
        ({"ema_decay": 0.0}, "found averages of 4 weights, expected 0"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path: Path, change: dict[str, float], said: str) -> None:
    fit(tmp_path)
    content = (tmp_path / "fit.state.pt").read_bytes()
    with pytest.raises(StateError, match=said):
        fit(tmp_path, replace(CONFIG, **change))
    assert (tmp_path / "fit.state.pt").read_bytes() == content


def test_a_state_of_other_shapes_is_refused_by_name(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(StateError, match=r"kept\.weight: found \[1, 3\], expected \[1, 5\]"):
        fit(tmp_path, size=5)


def test_a_state_of_before_states_said_what_they_are_is_gone_on_from(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(tmp_path / "old", told=(5, signal.SIGTERM))
    state = torch.load(tmp_path / "old" / "fit.state.pt")
    del state["run"]
    torch.save(state, tmp_path / "old" / "fit.state.pt")
    assert same(fit(tmp_path / "old"), whole)
    torch.save(
        {**state, "optimizer": {}}, tmp_path / "old" / "fit.state.pt"
    )  # as with DeepSpeed's own shards
    with pytest.raises(StateError, match="kind: found a state of \"DeepSpeed's own\", expected 'whole'"):
        fit(tmp_path / "old")


def test_a_state_that_cannot_be_written_names_path_and_room_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_state(path, lambda p: torch.save({"a": torch.zeros(4)}, p))
    content = path.read_bytes()
    with files_of_at_most(20_000), pytest.raises(OSError) as caught:
        write_state(path, lambda p: torch.save({"a": torch.zeros(100_000)}, p))
    assert str(caught.value).startswith(f"{path}: cannot be written: ")
    assert str(caught.value).endswith(" GB free there")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"] and path.read_bytes() == content


def test_what_killed_processes_had_begun_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    for name in ("fit.state.pt.4711.partial", "fit.state.pt", "notes.partial"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint.partial").mkdir()  # may be the only whole one
    clear_partial(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.partial",
        "fit.state.pt",
        "notes.partial",
    ]


def test_a_state_with_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(LossNotFinite, match=r"fit: trained\.kept\.unused\.weight is not finite at step 8"):
        fit(tmp_path, spoilt=6)
    assert int(torch.load(tmp_path / "fit.state.pt")["step"]) == 4


# -- ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_from_there(tmp_path: Path, number: int) -> None:
    whole = fit(tmp_path / "whole")
    handler = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        fit(tmp_path / "told", told=(6, number))
    assert caught.value.code == 128 + number and signal.getsignal(number) is handler
    assert str(caught.value) == (
        f"fit: stopped after step 7 of 12 ({signal.Signals(number).name}); the state of step 7 is saved, "
        "--resume goes on from it"
    )
    assert same(fit(tmp_path / "told"), whole)


def test_a_signal_in_a_trial_ends_it_at_once_and_it_is_held_again(tmp_path: Path) -> None:
    whole, held = fit(tmp_path / "whole"), []

    def long(step: int) -> dict[str, float]:
        held.append(step)
        if len(held) == 1:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the trial went on")
        return {"score": 1.0}

    with pytest.raises(
        Stopped, match=r"stopped after step 5 of 12 \(SIGTERM\); the state of step 5 is saved"
    ):
        fit(tmp_path / "told", rehearsal=Rehearsal(5, long), told=(99, signal.SIGTERM))
    assert same(fit(tmp_path / "told", rehearsal=Rehearsal(5, long)), whole)
    assert held == [5, 5, 10]


def test_a_run_cut_off_in_a_trial_has_saved_before_and_holds_the_trial_again(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int) -> dict[str, float]:
        assert int(torch.load(tmp_path / "fit.state.pt")["step"]) == step
        raise Killed

    with pytest.raises(Killed):
        fit(tmp_path, rehearsal=Rehearsal(8, kill))
    held: list[int] = []

    def trial(step: int) -> dict[str, float]:
        held.append(step)
        return {"score": 1.0}

    fit(tmp_path, rehearsal=Rehearsal(8, trial))
    fit(tmp_path, rehearsal=Rehearsal(8, trial))
    assert held == [8]


# -- the folder


def test_a_folder_is_one_runs_at_a_time_and_free_once_its_process_is_killed(tmp_path: Path) -> None:
    values = {"robot": "wx250s"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(TrainConfigError, match=f"in use by another run, process {holder.pid} on "):
            RunFolder(tmp_path, values, True, processes())
    finally:
        holder.kill()
        holder.communicate()
    RunFolder(tmp_path, values, True, processes()).release()


def test_a_process_that_does_not_see_the_first_ones_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second:
        rank, is_first = 1, False

    taken = RunFolder(tmp_path, {}, False, processes())
    monkeypatch.setattr(folder, "SEEN_WITHIN_S", 0.0)
    text = (tmp_path / folder.LOCK).read_text().split("\n")
    taken._see(text[1], Second())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"process 1 on .* does not see what the first process has written"):
        taken._see("another", Second())  # type: ignore[arg-type]
    taken.release()


def test_seconds_that_are_none_are_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text('{"vlm": 1.0}{"vl')
    with pytest.raises(
        TrainConfigError, match=r"seconds\.json: found Extra data.*, expected seconds by stage"
    ):
        StageWatch(tmp_path / "seconds.json")
    StageWatch(tmp_path / "seconds.json", writes=False)  # of another process


# -- memory


def test_what_a_process_needs_is_what_its_parts_weigh() -> None:
    """As of the 4B twin: 4.6 billion parameters are trained, 4.4 billion are frozen."""
    with torch.device("meta"):
        module = nn.ModuleList(
            [nn.Linear(46_000, 100_000, bias=False), nn.Linear(44_000, 100_000, bias=False)]
        )
    module[1].requires_grad_(False)
    plain = TrainingMemory.of(module, module, 1, sharded=False, rounded=True, averaged=False)
    assert plain.total == 4 * 9_000_000_000 + (4 + 8) * 4_600_000_000
    shared = TrainingMemory.of(module, module, 8, sharded=True, rounded=True, averaged=True)
    assert shared.total == 2 * 9_000_000_000 + (2 + 4 + 12 + 4) * 4_600_000_000 // 8
    assert shared.beginning == 2 * 9_000_000_000 + 4 * 4_600_000_000 + 4 * 4_600_000_000 // 8
    assert shared.line() == (
        "each process needs 30.6 GB (weights 18.0 GB, gradients 3.5 GB, optimiser 6.9 GB, averages 2.3 GB), "
        "and its activations; 38.7 GB while it begins"
    )


def test_a_device_that_lacks_the_memory_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "fits")
    assert "fit: each process needs 0 MB (weights 0 MB, gradients 0 MB" in capsys.readouterr().err
    monkeypatch.setattr(memory, "memory_of", lambda device: (10, 100))
    with pytest.raises(MemoryLacking, match=r"^fit: cpu: each process needs 0 MB .*; found 0 MB there"):
        fit(tmp_path / "lacks")
    assert list((tmp_path / "lacks").iterdir()) == []
