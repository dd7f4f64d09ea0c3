"""`twinbrain info` and `twinbrain predict` on a checkpoint of test size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from brain_fixtures import ACTION, STATE, tiny_config, tiny_policy

from twinbrain_ros import cli
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.commands.predict import load_state

INSTRUCTION = "pick up the red block"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_policy().save_pretrained(directory)
    return directory


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "front.png", tmp_path / "wrist.png"]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (48, 64, 3), np.uint8))
    return paths


def predict(checkpoint: Path, images: list[Path], out: Path, *options: str) -> int:
    arguments = ["predict", "--checkpoint", str(checkpoint), "--instruction", INSTRUCTION, "--out", str(out)]
    for path in images:
        arguments += ["--image", str(path)]
    return cli.main([*arguments, *options])


def test_info_counts_parameters_per_part(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", "--checkpoint", str(checkpoint), "--json", str(tmp_path / "info.json")]) == 0

    facts = json.loads((tmp_path / "info.json").read_text())
    parameters = facts["parameters"]
    assert set(parameters["parts"]) == {"left", "right", "state_encoder", "expert"}
    assert parameters["total"] == sum(parameters["parts"].values())
    assert parameters["frozen"] == parameters["parts"]["left"] > 0, "the left brain is what is frozen"
    assert parameters["trainable"] == parameters["total"] - parameters["frozen"]
    assert facts["robot"] == "wx250s"
    assert [camera["name"] for camera in facts["cameras"]] == ["front", "wrist"]
    assert facts["actions"]["horizon"] == 8 and facts["actions"]["names"] == list(ACTION)
    assert facts["bytes"] == sum(path.stat().st_size for path in checkpoint.iterdir())
    assert f"{parameters['total']:,}" in capsys.readouterr().out


def test_info_shows_what_training_left(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "training.json").write_text(json.dumps({"seed": 7}))
    assert cli.main(["info", "--checkpoint", str(copy), "--json", str(tmp_path / "info.json")]) == 0
    assert json.loads((tmp_path / "info.json").read_text())["training"] == {"seed": 7}


def test_info_names_what_is_wrong_with_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert cli.main(["info", "--checkpoint", str(tmp_path)]) == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_predict_writes_what_the_policy_answers(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    state = [0.2, 0.0, 0.15, 0.0, 0.1, 0.0, 1.0]
    noise = np.random.default_rng(1).standard_normal((8, 7)).astype(np.float32)
    (tmp_path / "state.json").write_text(json.dumps(state))
    np.save(tmp_path / "noise.npy", noise)
    out = tmp_path / "new" / "actions.npy"
    options = ["--state", str(tmp_path / "state.json"), "--noise", str(tmp_path / "noise.npy")]
    assert predict(checkpoint, images, out, *options, "--json", str(tmp_path / "p.json")) == 0

    pixels = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in images]
    policy = TwinBrainPolicy.from_pretrained(checkpoint)
    views = dict(zip(["front", "wrist"], pixels, strict=True))
    expected = policy.act(views, INSTRUCTION, np.array(state), noise)
    actions = np.load(out)
    assert actions.dtype == np.float64
    np.testing.assert_array_equal(actions, expected)
    report = json.loads((tmp_path / "p.json").read_text())
    np.testing.assert_array_equal(report["actions"], expected)
    assert report["inference_ms"] > 0 and report["names"] == list(ACTION)


def test_normalized_actions_are_the_same_in_the_models_units(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    assert predict(checkpoint, images, tmp_path / "a.npy", "--seed", "3") == 0
    assert predict(checkpoint, images, tmp_path / "n.npy", "--seed", "3", "--normalized") == 0

    statistics = TwinBrainPolicy.from_pretrained(checkpoint).config.action_statistics
    assert statistics is not None
    restored = np.load(tmp_path / "n.npy") * np.array(statistics.std) + np.array(statistics.mean)
    np.testing.assert_allclose(restored, np.load(tmp_path / "a.npy"), atol=1e-12)


def test_a_state_by_name_is_put_in_order(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    values = [0.2, 0.0, 0.15, 0.0, 0.1, 0.0, 1.0]
    (tmp_path / "list.json").write_text(json.dumps(values))
    named = dict(reversed(list(zip(STATE, values, strict=True))))
    (tmp_path / "named.json").write_text(json.dumps(named))
    for kind in ("list", "named"):
        assert predict(
            checkpoint, images, tmp_path / f"{kind}.npy", "--state", str(tmp_path / f"{kind}.json")
        ) == 0  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "list.npy"), np.load(tmp_path / "named.npy"))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("[1, 2]", "found 2 values, expected 7"),
        ('{"x": 1}', r"found names ['x'], expected ['x', 'y'"),
        ('["a", 0, 0, 0, 0, 0, 0]', "expected a list of numbers"),
        ("[NaN, 0, 0, 0, 0, 0, 0]", "expected finite numbers"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_wrong_state_is_refused(
    state: str,
    expected: str,
    checkpoint: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "state.json").write_text(state)
    out = tmp_path / "a.npy"
    assert predict(checkpoint, images, out, "--state", str(tmp_path / "state.json")) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_wrong_images_are_refused(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.npy"
    assert predict(checkpoint, images[:1], out) == 2
    assert "--image: found 1, expected 2, one each for front, wrist" in capsys.readouterr().err

    images[1].write_text("no picture")
    assert predict(checkpoint, images, out) == 2
    assert f"--image {images[1]}: not a readable image" in capsys.readouterr().err


def test_wrong_noise_is_refused(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "noise.npy", np.zeros((3, 7), np.float32))
    assert predict(checkpoint, images, tmp_path / "a.npy", "--noise", str(tmp_path / "noise.npy")) == 2
    assert "noise: found shape (3, 7), expected (8, 7)" in capsys.readouterr().err

    (tmp_path / "noise.npy").write_text("not an array")
    assert predict(checkpoint, images, tmp_path / "a.npy", "--noise", str(tmp_path / "noise.npy")) == 2
    assert "not readable as a NumPy array" in capsys.readouterr().err


def test_what_the_config_alone_tells_is_refused_before_weights_are_read(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = dataclasses.replace(tiny_config(), action_statistics=None, state_statistics=None)
    untrained.save(tmp_path)  # and no weights
    assert predict(tmp_path, images, tmp_path / "a.npy") == 2
    assert "found no statistics, it was never trained: expected --normalized" in capsys.readouterr().err


def test_a_right_brain_with_queries_is_given_the_mean_state_without_a_file() -> None:
    prompt = "state <|propri|> {instruction} {queries}"
    config = dataclasses.replace(
        tiny_config(), conditioning="action_queries", query_tokens=2, right_prompt=prompt
    )
    state = load_state(None, config, normalized=False)
    assert state is not None and state.tolist() == [0.2] * 7
