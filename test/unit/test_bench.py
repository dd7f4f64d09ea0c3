"""`twinbrain bench policy` measures both ways, on weights and inputs under which everything matters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from brain_fixtures import tiny_config
from published_run import imported, run_copy

from twinbrain_ros import cli
from twinbrain_ros.brain.config import CONFIG_FILE, TwinBrainConfig
from twinbrain_ros.brain.engine import TwinEngine
from twinbrain_ros.brain.presets import preset
from twinbrain_ros.brain.prompt import collate
from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.evaluation import bench, roofline
from twinbrain_ros.evaluation.workload import Workload, random_twin, random_workload, twin_as

CPU = torch.device("cpu")
STAGES = (
    "preprocess",
    "vision_left",
    "vision_right",
    "left_prefill",
    "right_prefill",
    "context",
    "expert_step",
)


@pytest.fixture(autouse=True)
def quick_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.GEMM_SIDE, "cpu", 128)
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 2**20)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    tiny_config().save(tmp_path)
    return tmp_path / CONFIG_FILE


def measured(config: Path, out: Path, *options: str) -> dict[str, Any]:
    """What a run of the command wrote, after two turns."""
    command = ["bench", "policy", "--config", str(config), "--rounds", "2", "--json", str(out), *options]
    assert cli.main(command) == 0
    facts: dict[str, Any] = json.loads(out.read_text())
    return facts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_config_file_is_measured(dtype: str, config_file: Path, tmp_path: Path) -> None:
    facts = measured(config_file, tmp_path / "bench.json", "--dtype", dtype)
    assert facts["agrees"] and facts["max_difference"] <= facts["difference_bound"]
    assert (facts["dtype"], facts["plain_dtype"], facts["device"]) == (dtype, "float32", "cpu")
    for way in ("ours_ms", "plain_ms"):
        assert facts[way]["count"] == 2 and 0 < facts[way]["p50"] <= facts[way]["p99"]
    assert facts["ratio"] == pytest.approx(facts["plain_ms"]["p50"] / facts["ours_ms"]["p50"])
    assert tuple(facts["stages_ms"]) == STAGES == tuple(facts["roofline"]["stages"])
    assert facts["roofline_ms"] > 0 and facts["times_roofline"] > 0 and facts["peak_bytes"] > 0
    assert facts["operations"]["ours"]["host_reads"] == 0
    assert facts["cpu_ms"]["ours"] > 0 and facts["machine"]["cores"] >= 1
    assert {"threads", "rounds", "views", "conditioning", "prompt_lengths", "versions"} <= set(facts)


def test_chunks_with_a_guide_are_measured_too(config_file: Path, tmp_path: Path) -> None:
    facts = measured(config_file, tmp_path / "bench.json", "--guided")
    assert facts["guided_agrees"] and facts["guided_ms"]["count"] == facts["guided_eager_ms"]["count"] == 2


def test_a_published_runs_config_is_measured_for_as_many_views_as_asked(tmp_path: Path) -> None:
    imported(run_copy(tmp_path / "runs", "run_raw"), tmp_path / "twin")
    facts = measured(tmp_path / "twin", tmp_path / "bench.json", "--views", "2")
    assert facts["conditioning"] == "action_queries" and len(facts["views"]) == 2
    assert facts["operations"]["ours"]["host_reads"] == 0 < facts["operations"]["plain"]["host_reads"]
    assert facts["operations"]["ours"]["operations"] < facts["operations"]["plain"]["operations"]


def test_two_ways_that_disagree_fail_the_command(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "plain_chunk", lambda *args: torch.full((1, 8, 7), float("nan")))
    assert cli.main(["bench", "policy", "--config", str(config_file), "--rounds", "1"]) == 1
    assert "DISAGREE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "huge"], "found 'huge', expected a file or one of"),
        (["--views", "1"], "--views 1: {file} is made for 2"),
        (["--conditioning", "action_queries"], "is made for hidden_states"),
        (["--device", "tpu"], "--device: found 'tpu', expected cpu"),
        (["--graphs"], "--graphs: there are none on a CPU"),
    ],
)
def test_options_that_cannot_be_are_named(
    options: list[str], message: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "policy", "--config", str(config_file), *options]) == 2
    assert message.format(file=config_file) in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main(["bench", "policy", "--device", "cuda"]) == 2
    assert "--device: found 'cuda', expected cpu (torch " in capsys.readouterr().err


def chunk(model: TwinBrain, load: Workload) -> torch.Tensor:
    engine = TwinEngine(model)
    left, right = (collate([p], 0) for p in load.prompts)
    prepared = engine.prepare("test", lambda: (left, right))
    pixels = engine.see(load.images, load.views)
    return engine.chunk(pixels, prepared, engine.remember(pixels, prepared), load.state, load.noise)


@pytest.mark.parametrize("part", ["images", "state", "left words", "right words"])
def test_whatever_is_given_matters_to_the_actions(part: str) -> None:
    model = random_twin(tiny_config(), CPU, torch.float32)
    load, other = random_workload(model), random_workload(model, seed=1)
    (left, right), (other_left, other_right) = load.prompts, other.prompts
    changed = {
        "images": {"images": other.images},
        "state": {"state": other.state},
        "left words": {"prompts": (other_left, right)},
        "right words": {"prompts": (left, other_right)},
    }[part]
    before, after = chunk(model, load), chunk(model, dataclasses.replace(load, **changed))
    assert (before - after).abs().max() > 1e-2 and before.abs().max() < 100


def test_weights_are_the_same_for_the_same_seed_and_in_another_type() -> None:
    one, two = (random_twin(tiny_config(), CPU, torch.float32) for _ in range(2))
    half = twin_as(one, torch.bfloat16)
    assert twin_as(one, torch.float32) is one
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), half.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a.bfloat16(), c), name


@pytest.mark.parametrize(("conditioning", "queries"), [("hidden_states", 0), ("action_queries", 8)])
def test_prompts_of_two_views_are_as_long_as_published_ones(conditioning: str, queries: int) -> None:
    config = preset("mid", ("front", "wrist"), conditioning)
    small = dataclasses.replace(config, vlm=config.vlm | {"text_config": _shallow(config)})
    left, right = random_workload(random_twin(small, CPU, torch.bfloat16)).prompts
    assert (len(left.ids), len(right.ids)) == (160, 181)
    assert len(left.image_slots) == len(right.image_slots) == 2 * 64
    assert len(right.query_slots) == queries and (right.state_slot >= 0) == (queries == 0)


def _shallow(config: TwinBrainConfig) -> dict[str, Any]:
    shallow = {"num_hidden_layers": 4, "intermediate_size": 8, "vocab_size": 31700}
    return {**config.vlm["text_config"], **shallow}


def test_work_counts_each_touched_weight_once_and_of_tables_the_rows() -> None:
    layer, table = torch.nn.Linear(8, 4), torch.nn.Embedding(100, 8)
    model = torch.nn.ModuleList([layer, table, torch.nn.Linear(5, 5)])
    with torch.no_grad():
        work = roofline.count_work(lambda: layer(layer(table(torch.arange(3))) @ torch.ones(4, 8)), model)
    assert work.bytes == 4 * (8 * 4 + 4 + 3 * 8)
    assert work.flops == 2 * (2 * 3 * 8 * 4) + 2 * 3 * 4 * 8


def test_a_right_brain_alone_is_no_twin_to_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataclasses.replace(tiny_config(), left_brain="none").save(tmp_path)
    assert cli.main(["bench", "policy", "--config", str(tmp_path / CONFIG_FILE)]) == 2
    assert "left_brain: found 'none'" in capsys.readouterr().err
