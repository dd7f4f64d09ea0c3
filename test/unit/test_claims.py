"""The claims command: a fixed protocol, runs that go on where they stopped, a report of what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from claims_fixtures import SHIPPED, pretend_evaluated, pretend_trained, small_protocol, small_values

from twinbrain_ros import cli
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.claims import running, schedule
from twinbrain_ros.claims.analysis import answers, cells, crossed_bootstrap, differences, rate_of
from twinbrain_ros.claims.episodes import _noted, cases
from twinbrain_ros.claims.main import main
from twinbrain_ros.claims.material import BEFORE, Material, first_frames, without_colour
from twinbrain_ros.claims.protocol import ProtocolError, Run, build_protocol, load_protocol
from twinbrain_ros.claims.report import write_report
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import COLOURS
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.demonstrations import generate_shard
from twinbrain_ros.training.state import load_state

PURPLE = COLOURS.index("purple")
ON_DATASETS = {
    "robot": "wx250s", "start": "demo", "datasets": [{"path": "d"}],
    "policy": {"steps": 1, "batch_size": 4, "learning_rate": 0.1},
}  # fmt: skip


# -- the protocol


def test_the_shipped_protocol_has_what_the_paper_claims() -> None:
    protocol, _ = load_protocol(SHIPPED)
    letters = {v.letter for v in protocol.variants.values()}
    assert letters == {"a", "b", "c", "d", "e1", "e2", "f"}
    assert len(protocol.seeds) >= 3 and len(protocol.rates) >= 2
    assert protocol.evaluation.episodes["seen"] >= 200
    planned = {v for data, names in protocol.plan if data == "many" for v in names}
    assert planned == set(protocol.variants)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": [0.1, 0.1]}, "'rates' is"),
        ({"seeds": []}, "'seeds' is"),
        ({"held_out_colour": "pink"}, "'held_out_colour' is 'pink'"),
        ({"plan": [{"demonstrations": "many", "variants": ["triplet"]}]}, r"plan\[0\].variants"),
        ({"reference": "triplet"}, "'reference' is 'triplet'"),
        ({"demonstrations": {"many": {"frames": 10**6, "grounding": True}}}, r"demonstrations\.many\.frames"),
        ({"demonstrations": {"many": {"frames": 10, "grounding": 1}}}, r"demonstrations\.many\.grounding"),
        ({"recipe": ON_DATASETS}, "the keys start and data"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_an_unsound_protocol_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        build_protocol(small_values(**changes), "small")


def test_variants_differ_in_what_they_are_named_for_only(tmp_path: Path) -> None:
    protocol, _ = load_protocol(SHIPPED)
    twin = Material.of(protocol, tmp_path).twin
    configs = {name: variant.config(twin) for name, variant in protocol.variants.items()}
    assert configs["twin"] == twin
    assert configs["single"].left_brain == "none" and configs["single"].right_prompt == "{instruction}"
    assert configs["right_alone"].left_brain == "none" and not configs["right_alone"].expert_takes_state
    assert configs["twin_unfrozen"].left_brain == "trained"
    assert [configs[n].interaction_interval for n in ("twin", "twin_k1", "twin_k2")] == [0, 1, 2]
    assert configs["layer_wise"].expert.reads == "layer_wise"


def test_who_is_taught_without_grounding_has_no_such_loss() -> None:
    protocol, _ = load_protocol(SHIPPED)
    weights = {
        name: running.options_of(protocol, Run("twin", name, 0, 0.001)).losses.grounding_weight
        for name in protocol.demonstrations
    }
    assert weights["many"] > 0 and weights["ungrounded"] == 0


def test_a_directory_keeps_to_its_protocol(tmp_path: Path) -> None:
    first, other = tmp_path / "first.yaml", tmp_path / "other.yaml"
    first.write_text(yaml.safe_dump(small_values()))
    other.write_text(yaml.safe_dump(small_values(questions=200)))
    main(first, tmp_path / "out", report_only=True)
    with pytest.raises(ProtocolError, match="another protocol"):
        main(other, tmp_path / "out", report_only=True)


def test_demonstrations_are_there_before_runs_begin_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a directory that has answers to the questions already, as one that was unpacked."""
    out, made = tmp_path / "out", []
    monkeypatch.setattr(Material, "shards", lambda self: made.append(self.out) or [])
    monkeypatch.setattr(Material, "ask", lambda self: {"all": (1, 2)})
    monkeypatch.setattr(schedule, "work", lambda *given: [f"{made}"])
    assert main(SHIPPED, out) == [f"{[out]}"]


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["claims", "--out", str(tmp_path), "--config", "/no/such.yaml"]) == 2
    assert "--config: no file /no/such.yaml" in capsys.readouterr().err


# -- what is demonstrated


def labelled(goals: list[list[tuple[int, int, int]]]) -> Demonstrations:
    """Frames that have nothing but goals, and labels that say which goal they are of."""
    data = object.__new__(Demonstrations)
    array = np.array(goals, np.int8)
    labels = np.arange(array.shape[0] * 3, dtype=np.float32).reshape(-1, 3, 1, 1)
    data.arrays = {"goals": array, "labels": labels, "state": np.zeros((len(array), 7), np.float32)}
    data.cameras, data.cell_px, data.size = (), 16, len(array)
    return data


def test_no_goal_of_the_held_out_colour_is_left_and_labels_stay_with_their_goals() -> None:
    red, blue = (0, 0, -1), (1, 2, 1)
    frames = [
        [red, (0, PURPLE, -1), blue],  # another pick is purple: the put takes its place
        [(0, PURPLE, -1), red, blue],  # purple is pursued: gone
        [red, (0, 1, -1), (1, 2, PURPLE)],  # a purple plate
        [blue, (0, PURPLE, -1), (1, PURPLE, 0)],  # both others: the pursued one takes their places
    ]
    data = labelled(frames)
    found = without_colour(data, "purple")
    assert found.size == 3 and data.size == 4
    goals = found.arrays["goals"]
    assert not ((goals[..., 1] == PURPLE) | (goals[..., 2] == PURPLE)).any()
    np.testing.assert_array_equal(goals[:, 0], [red, red, blue])
    np.testing.assert_array_equal(found.arrays["labels"][..., 0, 0], [[0, 2, 2], [6, 7, 7], [9, 9, 9]])
    np.testing.assert_array_equal(data.arrays["goals"], np.array(frames, np.int8))  # untouched


def test_few_demonstrations_are_the_first_of_many() -> None:
    data = labelled([[(0, 0, -1)] * 3] * 5)
    np.testing.assert_array_equal(first_frames(data, 2).arrays["labels"], data.arrays["labels"][:2])
    with pytest.raises(ValueError, match="found 5 frames, expected at least 6"):
        first_frames(data, 6)


# -- episodes


def test_splits_hold_what_they_say_and_are_the_same_each_time() -> None:
    protocol = small_protocol()
    sim = TabletopSim(load_robot("wx250s"))
    found = cases(protocol, sim)
    assert found == cases(protocol, sim)
    by_split = {s: [c for c in found if c.split == s] for s in ("seen", "held_out", "relation")}
    assert [len(v) for v in by_split.values()] == [2, 2, 1]
    assert all("purple" not in c.told for c in by_split["seen"])
    assert all("purple block" in c.told for c in by_split["held_out"])
    relation = by_split["relation"][0]
    assert relation.told.startswith("pick up the block left of the ") and relation.told.endswith(" plate")
    assert relation.instruction.startswith("pick up the ") and relation.told != relation.instruction


def test_a_line_that_was_cut_off_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    whole = json.dumps({"split": "seen", "task": "pick", "seed": 1, "success": True}) + "\n"
    path.write_text(whole + whole[:20])
    assert list(_noted(path)) == [("seen", "pick", 1)]
    assert path.read_text() == whole


# -- the order of work


def test_the_rest_of_a_variant_waits_for_its_rate(tmp_path: Path) -> None:
    protocol = small_protocol()
    assert schedule.total(protocol) == 14  # 4 of the sweep, 6 runs evaluated, 4 more to be trained
    jobs = list(schedule.pending(protocol, tmp_path))
    assert [(j.kind, j.run.variant, j.run.rate) for j in jobs] == [
        ("train", "twin", 0.001), ("train", "twin", 0.002),
        ("train", "single", 0.001), ("train", "single", 0.002),
    ]  # fmt: skip
    for run, flow in zip(protocol.sweep("twin"), (0.4, 0.3), strict=True):
        pretend_trained(tmp_path, run, flow)
    assert running.chosen_rate(protocol, tmp_path, "twin") == 0.002
    jobs = list(schedule.pending(protocol, tmp_path))
    assert jobs[0] == schedule.Job("evaluate", Run("twin", "many", 0, 0.002))
    assert schedule.Job("train", Run("twin", "few", 0, 0.002)) in jobs
    assert schedule.finished(protocol, tmp_path) == 2


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    protocol = small_protocol()
    for variant in ("twin", "single"):
        for run in protocol.sweep(variant):
            pretend_trained(tmp_path, run, run.rate)
        for data, names in protocol.plan:
            for seed in protocol.seeds if variant in names else ():
                pretend_trained(tmp_path, Run(variant, data, seed, 0.001), 0.001)
                pretend_evaluated(tmp_path, Run(variant, data, seed, 0.001), 0.5)
    assert list(schedule.pending(protocol, tmp_path)) == []
    assert schedule.finished(protocol, tmp_path) == schedule.total(protocol)
    assert schedule.work(protocol, tmp_path, 1) == []


# -- figures


def test_an_interval_over_seeds_is_wider_where_seeds_disagree() -> None:
    agreeing = np.tile(np.arange(100) % 2, (3, 1)).astype(float)
    disagreeing = np.repeat([[0.1], [0.5], [0.9]], 100, axis=1)
    low, high = crossed_bootstrap(agreeing)
    wide_low, wide_high = crossed_bootstrap(disagreeing)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62
    assert wide_low < 0.2 and wide_high > 0.8
    assert crossed_bootstrap(agreeing) == (low, high)


def test_a_rate_counts_all_seeds_and_each() -> None:
    found = rate_of({0: [True, True], 1: [True, False]})
    assert found is not None and (found.successes, found.trials) == (3, 4)
    assert found.by_seed == {0: 1.0, 1: 0.5} and found.seeds_too is not None
    assert rate_of({0: []}) is None


def test_variants_are_compared_on_the_same_scenes_and_seeds(tmp_path: Path) -> None:
    protocol = small_protocol()
    for variant, share, seeds in (("twin", 0.9, (0, 1)), ("single", 0.2, (0,))):
        for run in protocol.sweep(variant):
            pretend_trained(tmp_path, run, run.rate)
        for seed in seeds:
            pretend_trained(tmp_path, Run(variant, "many", seed, 0.001), 0.001)
            pretend_evaluated(tmp_path, Run(variant, "many", seed, 0.001), share)
    found = cells(protocol, tmp_path)
    [entry] = differences(found, "twin")
    assert entry.seeds == (0,) and entry.comparison.matched.pairs == 40
    assert entry.comparison.matched.difference > 0.4 and entry.comparison.significant
    assert entry.seeds_too is None  # one seed says nothing of others
    # The same questions for every seed: their number does not grow with the seeds.
    assert answers(found[0], "acting", "all") == (60, 100)


def test_a_report_says_what_is_missing_and_draws_the_rest(tmp_path: Path) -> None:
    protocol = small_protocol()
    (tmp_path / BEFORE).write_text(json.dumps({"all": [95, 100], "where is": [38, 40]}))
    write_report(protocol, tmp_path)
    assert (
        "single, many: nothing, its learning rate is not chosen yet" in (tmp_path / "claims.md").read_text()
    )
    for run in protocol.sweep("twin"):
        pretend_trained(tmp_path, run, run.rate)
    pretend_evaluated(tmp_path, Run("twin", "many", 0, 0.001), 0.5)
    write_report(protocol, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert "twin, many: seed 1" in text and "95.0 %" in text and "(b) twin: kept brain" in text
    figures = json.loads((tmp_path / "claims.json").read_text())
    assert figures["cells"][0]["splits"]["seen"]["success"]["trials"] == 40
    for name in ("claims_control.png", "claims_questions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# -- one real run


def test_a_run_is_trained_and_judged_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    protocol, out = small_protocol(), tmp_path / "out"
    assert protocol.recipe.data is not None
    (out / "data").mkdir(parents=True)
    for index in (0, 1):
        generate_shard("wx250s", protocol.recipe.data, index, out / "data")
    material = Material.of(protocol, out)
    right, asked = material.ask()["all"]
    assert asked == 100 and right > 60

    run = protocol.sweep("single")[0]
    where, whole = running.folder(out, run), running.train_policy

    def killed(*args: Any) -> None:
        whole(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "train_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        running.do("train", protocol, out, run)
    state = load_state(where / "policy.state.pt")
    assert state is not None and state["step"] == 6 and running.trained(out, run) is None
    monkeypatch.undo()
    running.do("train", protocol, out, run)
    result = running.trained(out, run)
    assert result is not None and result["cost"]["stretches"] == 2 and result["held_out_flow"] > 0
    assert result["questions"].keys() == {"acting"} and result["questions"]["acting"]["all"][1] == 100
    assert not (where / "policy.state.pt").exists()
    policy = TwinBrainPolicy.from_pretrained(where / running.CHECKPOINT)
    assert policy.config.left_brain == "none" and policy.config.expert_takes_state

    running.do("evaluate", protocol, out, run)
    played = running.evaluated(out, run)
    assert played is not None and len(played["episodes"]) == 5
    assert {e["split"] for e in played["episodes"]} == {"seen", "held_out", "relation"}
