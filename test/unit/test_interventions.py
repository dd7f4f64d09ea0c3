"""A person corrects a policy in the simulator; the bags of it, and a course that is taught by them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sim_fixtures import shared_kinematics, shared_robot, shared_sim

from twinbrain_ros.cli import main
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import Bag, open_bag
from twinbrain_ros.data.bag_frames import ConversionOptions
from twinbrain_ros.data.conversion import convert
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.demo import interventions
from twinbrain_ros.demo.corrected_episode import CorrectedEpisodes
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.person import Person
from twinbrain_ros.sim.rollout import Policy, Rollout, SimObservation, expert_policy

START_NS = 1_700_000_000 * 10**9
SEED = 3


def idle(observation: SimObservation, instruction: str) -> np.ndarray:
    """A policy that never moves, and keeps what it is given to hold."""
    robot = shared_robot()
    data = np.zeros((robot.action.horizon, len(robot.action.names)))
    data[:, -1] = 0.0 if observation.scene.held else 1.0
    return data


def episodes(policy: Policy, max_time_s: float = 30.0) -> CorrectedEpisodes:
    return CorrectedEpisodes(Rollout(shared_robot(), shared_sim(), max_time_s=max_time_s), policy, "p@1")


def contents(bag: Bag, topic: str) -> list[object]:
    return [bag.decode(message) for message in bag.messages([f"/{topic}"])]


def test_a_policy_that_gets_on_is_left_alone(tmp_path: Path) -> None:
    expert = episodes(expert_policy(shared_robot()))
    for task in ("pick", "put"):
        found = expert.run(SEED, task, tmp_path / task, START_NS)
        assert found.success and found.interventions == 0 and found.corrected_s == 0.0
        modes = [m.mode for m in contents(open_bag(tmp_path / task), "control_mode")]  # type: ignore[attr-defined]
        assert modes == [Mode.AUTONOMY, Mode.HOLD]


def test_a_policy_that_is_stuck_is_taken_over_from_and_given_back_to(tmp_path: Path) -> None:
    found = episodes(idle).run(SEED, "put", tmp_path / "bag", START_NS)
    # Once to grasp, and, as the policy then stands still with the block, once more to put it down.
    assert found.success and found.interventions == 2
    assert 4.0 < found.time_s - found.corrected_s < 5.0  # twice the person's patience
    bag = open_bag(tmp_path / "bag")
    modes = [m.mode for m in contents(bag, "control_mode")]  # type: ignore[attr-defined]
    assert modes == [Mode.AUTONOMY, Mode.TELEOP, Mode.AUTONOMY, Mode.TELEOP, Mode.HOLD]
    told = contents(bag, "intervention")
    ends = [from_time(m.end) - from_time(m.start) for m in told if from_time(m.end)]  # type: ignore[attr-defined]
    assert len(told) == 4 and sum(ends) / 1e9 == pytest.approx(found.corrected_s, abs=0.05)
    assert {m.interrupted for m in told} == {int(Mode.AUTONOMY)}  # type: ignore[attr-defined]
    label = bag.episode.label
    assert label is not None and label.outcome == "success" and label.source == "simulator"
    assert len(contents(bag, "leader/joint_states")) >= 50 * found.corrected_s


def test_what_the_policy_saw_is_in_the_bag_bit_for_bit(tmp_path: Path) -> None:
    seen: list[SimObservation] = []

    def watched(observation: SimObservation, instruction: str) -> np.ndarray:
        seen.append(observation)
        return expert(observation, instruction)

    expert = expert_policy(shared_robot())
    episodes(watched).run(SEED, "pick", tmp_path / "bag", START_NS)
    frames = RecordedFrames(open_bag(tmp_path / "bag"), shared_robot(), shared_kinematics())
    moments = list(frames.chunk_moments())
    assert len(moments) == len(seen) >= 3 and not frames.problems.sentences()
    for moment, observation in zip(moments, seen, strict=True):
        assert moment.observation.stamp_ns == START_NS + observation.stamp_ns
        assert all((moment.observation.images[k] == v).all() for k, v in observation.images.items())
        np.testing.assert_array_equal(moment.observation.arm_positions, observation.arm_positions)


def test_corrected_frames_are_marked_in_the_dataset(tmp_path: Path) -> None:
    found = episodes(idle).run(SEED, "pick", tmp_path / "bag", START_NS)
    (part,) = convert([tmp_path / "bag"], tmp_path / "dataset", ConversionOptions())
    marked = sum(int(episode.columns["intervention"].sum()) for episode in part.episodes)
    assert marked * part.period_s == pytest.approx(found.corrected_s, abs=2 * part.period_s)
    assert part.counts.ticks * part.period_s == pytest.approx(found.time_s, abs=2 * part.period_s)
    # The arm holds from the end on, which is within the last frame's period.
    assert part.counts.gap == part.counts.uncommanded == part.counts.silent == 0 and part.counts.held <= 1


def test_an_episode_is_given_up_after_its_time(tmp_path: Path) -> None:
    found = episodes(idle, max_time_s=1.0).run(SEED, "pick", tmp_path / "bag", START_NS)
    assert not found.success and found.interventions == 0
    bag = open_bag(tmp_path / "bag")
    assert bag.episode.ended == "given up"
    assert bag.episode.label is not None and bag.episode.label.outcome == "failure"


def test_a_robot_without_a_leader_arm_has_nobody_to_correct_it() -> None:
    robot: RobotFile = dataclasses.replace(shared_robot(), teleop=shared_robot().teleop[:1])
    with pytest.raises(ValueError, match=r"teleop has \['joystick'\], expected a leader arm"):
        Person(robot, shared_kinematics())


def test_a_course_records_teaches_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interventions, "TRIAL_S", 1.0)
    monkeypatch.setattr(interventions, "CORRECTED_S", 2.0)
    out = tmp_path / "course"
    size = ["--workers", "1", "--rounds", "1", "--episodes", "3", "--trials", "2", "--steps", "2"]
    assert main(["interventions", "--out", str(out), *size]) == 0
    figures = json.loads((out / "interventions.json").read_text())
    before, after = figures["policies"]
    assert before["all"]["episodes"] == after["all"]["episodes"] == 2
    assert after["against_before"]["matched"]["pairs"] == 2
    assert figures["rounds"][0]["episodes"] == 3 == len(list((out / "round_1" / "bags").glob("*_p*")))
    assert (out / "interventions.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "round_1" / "taught" / "taught.json").read_text()
    assert json.loads(text)["config"]["dataset_options"]["intervention_weight"] > 1

    # What is there is not done again; another course does not mix with it.
    written = {path: path.stat().st_mtime_ns for path in out.glob("round_1/**/*") if path.is_file()}
    assert main(["interventions", "--out", str(out), *size]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    capsys.readouterr()
    assert main(["interventions", "--out", str(out), *size[:-1], "3"]) == 2
    assert "holds the course" in capsys.readouterr().err
