"""The parts of training: a loop that resumes exactly, losses that mean what they say, true answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from twinbrain_ros.brain.config import CameraInput, ExpertConfig
from twinbrain_ros.brain.expert import ActionExpert
from twinbrain_ros.resources import share_dir
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.sim.tasks import COLOURS, TASKS
from twinbrain_ros.training.batch import Share
from twinbrain_ros.training.config import TrainConfigError, load_train_config, twin_config
from twinbrain_ros.training.dataset import GOALS_PER_FRAME, Demonstrations
from twinbrain_ros.training.demonstrations import DataConfig, decode_goal, encode_goal, generate_shard
from twinbrain_ros.training.loop import LoopConfig, LossNotFinite, learning_rate, train_loop
from twinbrain_ros.training.losses import GroundingHead, flow_matching_loss, flow_times
from twinbrain_ros.training.questions import NUMBERS, QuestionMaker, words
from twinbrain_ros.training.run import StageWatch, main
from twinbrain_ros.training.tokenizer import word_tokenizer

CAMERAS = (CameraInput("front", 96, 96), CameraInput("wrist", 96, 96))
DEMO = share_dir() / "config" / "train" / "demo.yaml"


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = DataConfig(frames_per_shard=60)
    return generate_shard("wx250s", config, 3, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data(shard: Path) -> Demonstrations:
    return Demonstrations([shard], CAMERAS, cell_px=24)


# -- the loop


def run_loop(out: Path, steps: int, until: int | None = None) -> tuple[nn.Module, list[dict[str, float]]]:
    """Trains a regression; `until` stops it with an exception, as a kill would between two saves."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    config = LoopConfig(steps=steps, batch_size=4, learning_rate=0.01, warmup_steps=5, save_every_steps=20)

    def batches(step: int, share: Share) -> torch.Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))

    def losses(x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        if step == until:
            raise KeyboardInterrupt
        return {"fit": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    return module, train_loop("fit", module, losses, batches, config, out)


def test_a_killed_run_resumes_on_the_same_curve_bit_for_bit(tmp_path: Path) -> None:
    whole, log = run_loop(tmp_path / "a", 60) if (tmp_path / "a").mkdir() is None else (None, None)
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path / "b", 60, until=47)
    resumed, resumed_log = run_loop(tmp_path / "b", 60)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [r["fit"] for r in log] == [r["fit"] for r in resumed_log]
    assert log[-1]["fit"] < log[0]["fit"]


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first, log = run_loop(tmp_path, 40)
    again, same = run_loop(tmp_path, 40, until=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert log == same


def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    config = LoopConfig(steps=5, batch_size=1, learning_rate=0.1)
    with pytest.raises(LossNotFinite, match="fit: loss is nan at step 0"):
        train_loop(
            "fit",
            module,
            lambda x, step: {"x": module(x).sum()},
            lambda step, share: torch.full((1, 1), torch.nan),
            config,
            tmp_path,
        )


def test_the_rate_warms_up_and_decays_to_its_floor() -> None:
    config = LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10, final_rate_fraction=0.1)
    rates = [learning_rate(config, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0.1)


# -- the losses


def test_flow_times_follow_the_reference_distribution() -> None:
    times = flow_times(200_000, torch.Generator().manual_seed(0))
    assert times.min() >= 0 and times.max() <= 1
    assert times.mean() == pytest.approx(0.4, abs=0.005)
    assert torch.quantile(times, 0.5) == pytest.approx(1 - 0.5 ** (1 / 1.5), abs=0.01)


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_the_flow_loss_is_zero_for_a_perfect_expert_only(prediction: str) -> None:
    expert = ActionExpert(ExpertConfig(width=16, heads=2, layers=2, prediction=prediction), 8, 4, 3)
    actions = torch.randn(2, 4, 3)
    context = expert.context(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
    weights = torch.ones(4, 3)

    def perfect(context, noisy, time):
        target = actions.repeat(3, 1, 1)
        noise = (noisy - time[:, None, None] * target) / (1 - time)[:, None, None]
        return target if prediction == "clean" else target - noise

    assert flow_matching_loss(expert, context, actions, weights, 3, torch.Generator().manual_seed(0)) > 0.1
    setattr(expert, "clean" if prediction == "clean" else "velocity", perfect)
    loss = flow_matching_loss(expert, context, actions, weights, 3, torch.Generator().manual_seed(0))
    assert float(loss) < 1e-6


def test_grounding_learns_the_values_of_a_thing_at_its_cell() -> None:
    head = GroundingHead(4, things=1, values=2)
    tokens, cells, offsets = torch.randn(1, 9, 4), torch.tensor([[4]]), torch.full((1, 1, 2), 0.5)
    values = torch.tensor([[[0.3, -0.7]]])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        loss = head(tokens, cells, offsets, values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out = head.head(tokens).view(9, 5)
    torch.testing.assert_close(out[4, 3:], values[0, 0], atol=0.02, rtol=0.0)


def test_grounding_rewards_the_right_cell_and_ignores_what_is_out_of_view() -> None:
    head = GroundingHead(4)
    tokens = torch.randn(1, 9, 4)
    cells = torch.tensor([[4, -1]])
    offsets = torch.full((1, 2, 2), 0.5)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        loss = head(tokens, cells, offsets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out = head.head(tokens).view(1, 9, 2, 3)
    assert int(out[0, :, 0, 0].argmax()) == 4
    assert bool((out[0, :, 1, 0] < 0).all())


# -- the data


def test_a_shard_is_a_function_of_its_index(shard: Path, tmp_path: Path) -> None:
    again = generate_shard("wx250s", DataConfig(frames_per_shard=60), 3, tmp_path)
    with np.load(shard) as a, np.load(again) as b:
        assert sorted(a.files) == sorted(b.files)
        assert all(np.array_equal(a[k], b[k], equal_nan=True) for k in a.files)
        assert len(a["state"]) == 60 and np.isfinite(a["labels"]).all()


def test_grounding_targets_point_at_the_pixels_of_the_named_block(data: Demonstrations) -> None:
    """Where the front view shows the named block's colour, the target cell is there (or beside it)."""
    batch = data.batch(0, 0, 200)
    colours = {"red": (0, 1), "green": (1, 0), "blue": (2, 0)}
    checked = 0
    for i, text in enumerate(batch.instructions):
        colour = text.split()[3] if text.startswith("pick") else text.split()[2]
        cell = int(batch.grounding.cells["front"][i, 0])
        if colour not in colours or cell < 0:
            continue
        column = (cell % 4 + float(batch.grounding.offsets["front"][i, 0, 0])) * 24
        row = (cell // 4 + float(batch.grounding.offsets["front"][i, 0, 1])) * 24
        image = batch.images["front"][i // GOALS_PER_FRAME].int()
        around = image[
            max(0, int(row) - 2) : int(row) + 3, max(0, int(column) - 2) : int(column) + 3
        ].reshape(-1, 3)
        main, other = colours[colour]
        checked += int((around[:, main] > around[:, other] + 40).any())
    assert checked > 40


def test_a_frame_is_trained_with_the_goal_pursued_and_another(data: Demonstrations) -> None:
    batch = data.batch(0, 0, 40)
    assert len(batch.instructions) == len(batch.actions) == 40
    assert len(batch.state) == len(batch.images["front"]) == 40 // GOALS_PER_FRAME
    pursued = {decode_goal(g).instruction() for g in data.arrays["goals"][:, 0]}
    assert set(batch.instructions[::GOALS_PER_FRAME]) <= pursued
    assert {text.split()[0] for text in batch.instructions[1::GOALS_PER_FRAME]} == {"pick", "put"}


def test_aims_lead_from_the_tool_to_what_is_named(data: Demonstrations) -> None:
    batch = data.batch(0, 0, 200)
    states = batch.state.repeat_interleave(GOALS_PER_FRAME, dim=0)
    for i, text in enumerate(batch.instructions):
        row = int((data.arrays["state"] == states[i].numpy()).all(1).nonzero()[0][0])
        words = text.split()
        names = [words[3]] if words[0] == "pick" else [words[2], words[6]]
        for thing, (colour, group) in enumerate(zip(names, (slice(0, 3), slice(3, 5)), strict=False)):
            index = group.start + data.arrays["colours"][row][group].tolist().index(COLOURS.index(colour))
            found = states[i, :3] + 0.1 * batch.grounding.aims[i, thing, :3]
            torch.testing.assert_close(found, torch.from_numpy(data.arrays["positions"][row, index]))
            angle = float(data.arrays["yaws"][row, index] - states[i, 5])
            turned = torch.tensor([np.cos(4 * angle), np.sin(4 * angle)], dtype=torch.float32)
            torch.testing.assert_close(batch.grounding.aims[i, thing, 3:], turned, atol=1e-4, rtol=0.0)
        if words[0] == "pick":
            assert not batch.grounding.aims[i, 1].any()


def test_goals_survive_their_codes() -> None:
    for task, plate in (("pick", ""), ("put", "yellow")):
        goal = dataclasses.replace(decode_goal(np.array([TASKS.index(task), 1, 3 if plate else -1])))
        assert decode_goal(np.array(encode_goal(goal))) == goal


def test_answers_are_true_of_the_view(data: Demonstrations) -> None:
    maker = QuestionMaker(data, CAMERAS)
    rng = np.random.default_rng(0)
    seen_kinds = set()
    for question in maker.draw(rng, rng.integers(0, data.size, 400)):
        pixels = data.arrays[f"pixels_{question.camera}"][question.row]
        with np.errstate(invalid="ignore"):
            inside = ((pixels >= 0) & (pixels < 96)).all(1)
        kind = question.text.split()[0]
        seen_kinds.add(kind)
        if kind == "how":
            part = slice(0, 3) if "blocks" in question.text else slice(3, 5)
            assert question.answer == NUMBERS[int(inside[part].sum())]
        if kind == "where" and question.answer != "nowhere":
            row, column = (int("".join(c for c in w if c.isdigit())) for w in question.answer.split())
            assert any(
                inside[i] and int(pixels[i, 1] // 8) == row and int(pixels[i, 0] // 8) == column
                for i in range(5)
            )
    assert seen_kinds == {"where", "is", "how"}


def test_questions_in_a_row_are_about_one_view(data: Demonstrations) -> None:
    questions = QuestionMaker(data, CAMERAS).draw(np.random.default_rng(0), np.arange(50), per_row=4)
    assert [q.row for q in questions] == np.arange(50).repeat(4).tolist()
    assert all(len({q.camera for q in questions[i : i + 4]}) == 1 for i in range(0, 200, 4))
    assert {q.camera for q in questions} == {"front", "wrist"}


def test_every_question_and_instruction_is_within_the_vocabulary(data: Demonstrations) -> None:
    tokenizer = word_tokenizer(words())
    rng = np.random.default_rng(1)
    questions = QuestionMaker(data, CAMERAS).draw(rng, rng.integers(0, data.size, 300))
    texts = [q.text + " " + q.answer for q in questions] + data.batch(0, 0, 100).instructions
    assert all(tokenizer.unk_token_id not in tokenizer(t)["input_ids"] for t in texts)


# -- the file


def test_the_demo_file_builds_a_twin_below_twenty_megabytes() -> None:
    from twinbrain_ros.brain.twin import TwinBrain

    config, _ = load_train_config(DEMO)
    model = TwinBrain(twin_config(config, load_robot(config.robot), word_tokenizer(words())))
    assert sum(p.numel() for p in model.parameters()) * 4 < 20e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(polcy=1), "unknown key 'polcy'"),
        (lambda v: v.pop("policy"), "key 'policy' is missing"),
        (lambda v: v.pop("data"), "data, datasets: found neither, expected one of them"),
        (lambda v: v.update(start="out/ft"), "start: found 'out/ft' with model given and vlm given"),
        (
            lambda v: v["policy"].update(batch_size=33),
            "batch_size: found 33, expected a multiple of 2",
        ),
        (lambda v: v["policy"].update(precision="int8"), "policy: precision: found 'int8'"),
        (lambda v: v["policy"].update(learning_rates={"vlm": "x"}), "learning_rates: vlm: found 'x'"),
        (lambda v: v["policy"].update(steps="many"), "policy: steps: found 'many', expected int"),
        (lambda v: v["model"].update(cameras=3), "cameras: found 3, expected a list"),
    ],
)
def test_an_unsound_training_file_is_refused_by_key(tmp_path: Path, change, message: str) -> None:
    values = yaml.safe_load(DEMO.read_text())
    change(values)
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(TrainConfigError, match=message):
        load_train_config(path)


def test_the_stretches_of_a_resumed_stage_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr("twinbrain_ros.training.run.time.monotonic", lambda: next(clock))
    path = tmp_path / "seconds.json"
    with pytest.raises(KeyboardInterrupt), StageWatch(path).stage("vlm"):
        raise KeyboardInterrupt
    again = StageWatch(path)
    with again.stage("vlm"):
        pass
    assert again.seconds == {"vlm": 7.0} == StageWatch(path).seconds


def test_two_runs_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("robot: other\n")
    with pytest.raises(TrainConfigError, match="holds an earlier run; give --resume"):
        main(*load_train_config(DEMO), tmp_path)
    with pytest.raises(TrainConfigError, match="was started from another training file"):
        main(*load_train_config(DEMO), tmp_path, resume=True)
