"""Two real processes that train as one: what they compute, how they end, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import train_worker
import yaml
from brain_fixtures import tiny_policy
from safetensors.torch import load_file
from torch import nn

from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.cli import main
from twinbrain_ros.resources import demo_checkpoint, share_dir
from twinbrain_ros.training import losses
from twinbrain_ros.training.batch import Share
from twinbrain_ros.training.loop import Stage, learning_rate
from twinbrain_ros.training.policy import Drawn, PolicyTrainer, train_policy
from twinbrain_ros.training.processes import processes
from twinbrain_ros.training.state import StateError
from twinbrain_ros.training.weights import AveragedWeights

WORKER = Path(train_worker.__file__)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ZERO = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--config_file",
    str(share_dir() / "config" / "accelerate" / "zero2.yaml"),
    "--num_processes",
    "2",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
LIMIT_S = 180.0  # for a launch on a busy machine
Tensors = dict[str, torch.Tensor]

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install deepspeed)"
)


class Launch:
    """A command on its way, in a session of its own, with what it says in files."""

    def __init__(self, launcher: list[str], out: Path, *arguments: str) -> None:
        self.out = out
        self._before = [len(steps(out, rank)) for rank in (0, 1)]
        self._said = out.with_suffix(".txt")
        with self._said.open("w") as said:
            command = [*launcher, *arguments]
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env=ENVIRONMENT, start_new_session=True
            )

    def end(self) -> tuple[int, str]:
        """Its exit code and what it has said; it is made to end where it does not."""
        try:
            code = self.process.wait(LIMIT_S)
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(self.process.pid, signal.SIGKILL)
        return code, self._said.read_text()

    def child(self, rank: str) -> int:
        """The process of a rank."""
        own = self.process.pid
        for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return int(pid)
        raise AssertionError(f"{own}: no process {rank}")

    def until_step(self, step: int, rank: int = 0) -> None:
        """Returns once a process has computed the losses of a step."""
        end = time.monotonic() + LIMIT_S
        while step not in {row["step"] for row in steps(self.out, rank)[self._before[rank] :]}:
            assert self.process.poll() is None, self._said.read_text()
            assert time.monotonic() < end
            time.sleep(0.05)


def steps(out: Path, rank: int) -> list[dict[str, float]]:
    path = out / f"steps_{rank}.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def worker(launcher: list[str], out: Path, *options: str) -> Launch:
    return Launch(launcher, out, str(WORKER), str(out), *options)


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(("error:", "stopped:"))]


def saved_step(out: Path) -> int:
    return int(torch.load(out / "policy.state.pt")["step"])


def counts(trainer: PolicyTrainer, drawn: Drawn, step: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """How much the samples of a share count together in the loss."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr(losses, "mean_over", lambda share, value: found.append(value) or value)
    with torch.no_grad():
        trainer.losses(drawn, step)
    return found[0]


def in_turns(monkeypatch: pytest.MonkeyPatch) -> tuple[TwinBrain, list[float]]:
    """What one process does that takes the shares of two one after the other, written out; weights and
    losses."""
    config = train_worker.loop(2)
    policy = tiny_policy()
    model = policy.model.train()
    trainer = PolicyTrainer(policy, train_worker.source(policy), train_worker.OPTIONS, config.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    average = AveragedWeights(model, config.ema_decay)
    shares, found = [Share(0, 2), Share(1, 2)], []
    for step in range(config.steps):
        drawn = [trainer.draw(step, config.batch_size, share) for share in shares]
        counted = [counts(trainer, one, step, monkeypatch) for one in drawn]
        mean = (counted[0] + counted[1]) / 2
        monkeypatch.setattr(losses, "mean_over", lambda share, value, mean=mean: mean)
        both = [trainer.losses(one, step)["flow"] for one in drawn]
        for loss in both:
            (loss / 2).backward()
        found.append(sum(float(loss.detach()) for loss in both) / 2)
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step)
    average.copy_to(model)
    return model, found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes that are launched have it: sums in other orders are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(out: Path) -> Tensors:
    return dict(torch.load(out / "weights.pt"))


def disturbed(out: Path) -> None:
    """Two processes that meet a loss that is not finite, then a signal, and go on each time, to the end."""
    code, said = worker(TORCHRUN, out, "--nan", "1", "7").end()
    assert code != 0 and len(errors(said)) == 1
    assert errors(said)[0].startswith("error: policy: loss is nan at step 7 in process 1 of 2; {'flow': nan}")
    assert errors(said)[0].endswith("; the state of step 6 is saved, --resume goes on from it")
    assert saved_step(out) == 6

    launch = worker(TORCHRUN, out, "--slow", "0.3")
    launch.until_step(7)
    launch.process.terminate()
    code, said = launch.end()
    stopped = saved_step(out)
    assert code != 0 and stopped in (8, 9, 10)
    assert errors(said) == [
        f"stopped: policy: stopped after step {stopped} of 10 (SIGTERM); "
        f"the state of step {stopped} is saved, --resume goes on from it"
    ]

    code, said = worker(TORCHRUN, out).end()
    assert code == 0, said


def test_two_disturbed_processes_do_bit_for_bit_what_one_does_that_takes_their_shares_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    disturbed(out)
    with monkeypatch.context() as patch:
        model, found = in_turns(patch)
    together = weights(out)
    assert all(torch.equal(value, together[name]) for name, value in model.state_dict().items())
    seen = [{row["step"]: row["flow"] for row in steps(out, rank)} for rank in (0, 1)]
    assert [(seen[0][step] + seen[1][step]) / 2 for step in range(train_worker.STEPS)] == found

    names = {path.name for path in out.iterdir()} - {"steps_0.jsonl", "steps_1.jsonl"}
    assert names == {"policy.jsonl", "policy.state.pt", "policy.state.before.pt", "tensorboard", "weights.pt"}
    assert len(list((out / "tensorboard" / "policy").iterdir())) == 3  # of one process, for each launch

    policy, config = tiny_policy(), train_worker.loop(1)
    with pytest.raises(StateError, match=r"policy\.state\.pt: processes: found a state of 2, expected 1"):
        train_policy(policy, train_worker.source(policy), train_worker.OPTIONS, config, out)


def test_shares_in_turn_are_the_whole_batch_but_for_the_order_of_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam brings what is rounding in a gradient of nothing to full size: weights are compared as a whole."""
    with monkeypatch.context() as patch:
        model, means = in_turns(patch)
    found: list[dict[str, float]] = []
    take = Stage.take
    monkeypatch.setattr(Stage, "take", lambda *given: found.append(take(*given)) or found[-1])
    policy, start = tiny_policy(), tiny_policy().model.state_dict()
    config = train_worker.loop(1)
    train_policy(policy, train_worker.source(policy), train_worker.OPTIONS, config, tmp_path)
    assert means[0] == pytest.approx(found[0]["flow"], rel=1e-6)
    assert means == pytest.approx([row["flow"] for row in found], rel=1e-4)
    together = model.state_dict()
    apart = moved = 0.0
    for name, value in policy.model.state_dict().items():
        apart += float((value - together[name]).square().sum())
        moved += float((value - start[name]).square().sum())
    assert moved > 0 and apart < 0.01 * moved


@needs_deepspeed
def test_zero_trains_as_the_whole_does_and_goes_on_after_a_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    launch = worker(ZERO, out, "--slow", "0.3")
    launch.until_step(7, rank=1)
    os.kill(launch.child("1"), signal.SIGKILL)
    code, said = launch.end()
    assert code != 0 and saved_step(out) == 6
    assert errors(said) == [
        "error: policy: another process of this run has ended; "
        "the state of step 6 is saved, --resume goes on from it"
    ]
    assert sorted(path.name for path in (out / "policy.zero").iterdir()) == ["00000003", "00000006"]

    part = out / "policy.zero" / "00000006" / "process_0001.pt"
    content = part.read_bytes()
    part.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    code, said = worker(ZERO, out).end()
    assert code != 0 and len(errors(said)) == 1
    assert f"{part}: damaged: found wrong checksum" in errors(said)[0]
    part.write_bytes(content)

    code, said = worker(ZERO, out, "--trial", "0").end()
    assert code == 0, said
    assert [row["step"] for row in steps(out, 0)][-4:] == [6, 7, 8, 9]
    model, means = in_turns(monkeypatch)
    seen = [{row["step"]: row["flow"] for row in steps(out, rank)} for rank in (0, 1)]
    assert [(seen[0][i] + seen[1][i]) / 2 for i in range(10)] == pytest.approx(means, rel=1e-5)
    found = weights(out)
    for name, value in model.state_dict().items():
        if not name.endswith("key.bias"):  # have no gradient but rounding, which Adam brings to full size
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0.0, msg=name)
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".py", ".pkl"))]

    policy, config = tiny_policy(), train_worker.loop(2)
    with pytest.raises(
        StateError, match=r"policy\.state\.pt: kind: found a state of 'zero', expected 'whole'"
    ):
        train_policy(policy, train_worker.source(policy), train_worker.OPTIONS, config, out)


def test_the_command_trains_in_two_processes_from_a_checkpoint(tmp_path: Path) -> None:
    """Under ZeRO where DeepSpeed is there: float32 masters are kept, and the left brain as it was."""
    out, file = tmp_path / "out", tmp_path / "train.yaml"
    values = {
        "robot": "wx250s",
        "start": str(demo_checkpoint()),
        "data": {"frames": 20, "frames_per_shard": 20, "workers": 1},
        "policy": {"steps": 2, "batch_size": 2, "learning_rate": 1e-6, "precision": "bfloat16"},
        "losses": {"grounding_weight": 0.5, "noise_repeats": 1},
        "evaluation": {"episodes": 0},
    }
    file.write_text(yaml.safe_dump(values))
    launcher = TORCHRUN if find_spec("deepspeed") is None else ZERO
    command = ["-m", "twinbrain_ros.cli", "train", "--config", str(file), "--out", str(out)]
    code, said = Launch(launcher, tmp_path / "said", *command).end()
    assert code == 0, said
    report = json.loads((out / "checkpoint" / "training.json").read_text())
    assert report["processes"] == 2 and set(report["seconds"]) == {"data", "policy"}
    start, taught = (
        load_file(path / "model.safetensors") for path in (demo_checkpoint(), out / "checkpoint")
    )
    assert start.keys() == taught.keys()
    for name, value in taught.items():
        assert value.dtype == start[name].dtype == torch.float32
        torch.testing.assert_close(value, start[name], atol=3e-6, rtol=0.0, msg=name)
        assert torch.equal(value, start[name]) or not name.startswith("left.")
    moved = [name for name in start if not torch.equal(start[name], taught[name])]
    assert {name.split(".")[0] for name in moved} >= {"right", "expert"}


def test_processes_that_do_not_see_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.cache_clear()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    try:
        assert main(["train", "--config", "demo", "--out", str(tmp_path / "out")]) == 2
    finally:
        processes.cache_clear()
    said = capsys.readouterr().err
    assert "SLURM_STEP_NUM_TASKS: found 4 processes started, but each sees 1, expected the same" in said
    assert not (tmp_path / "out").exists()
