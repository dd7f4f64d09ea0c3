"""A policy over a recording: what is compared, with what, and what is left out."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_fixtures import INSTRUCTION, NS_PER_S, POLICY, START_NS, commanded_states, make_bag, still, swing
from numpy.typing import NDArray
from robot_files import changed_robot, commanded_gripper

from twinbrain_ros.brain.config import CheckpointMismatch
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.commands import replay as command
from twinbrain_ros.commands.common import CommandError
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.realtime import RealTimeGuide
from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.evaluation.bag_figures import figures_of
from twinbrain_ros.evaluation.replay import Replay, Thinned, replay
from twinbrain_ros.evaluation.replay_picture import write_picture
from twinbrain_ros.evaluation.replay_table import replay_table
from twinbrain_ros.robot.actions import matrix_to_euler
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFile, load_robot

Array = NDArray[np.float64]
Rule = Callable[[float, int, "NDArray[np.float32]"], Array]


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


class StandIn:
    """A policy that answers by a rule: of the time since the start [s], the number of the call, the noise."""

    name = POLICY
    state_names = STATE_NAMES

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.instructions: list[str] = []
        self.noises: list[NDArray[np.float32]] = []
        self.guides: list[Guide | None] = []

    def take_robot(self, robot: RobotFile) -> None:
        """Any robot will do."""

    def act(
        self,
        images: dict[str, NDArray[np.uint8]],
        instruction: str,
        state: Array | None,
        noise: NDArray[np.float32] | None = None,
        seed: int = 0,
        *,
        stamp_s: float | None = None,
        guide: Guide | None = None,
    ) -> Array:
        self.guides.append(guide)
        assert noise is not None and stamp_s is not None and state is not None
        if "refused" in instruction:
            raise ValueError("instruction: cannot be read")
        self.instructions.append(instruction)
        self.noises.append(noise)
        # A stamp as float64 seconds is exact to a quarter of a microsecond.
        return self._rule(round(stamp_s - START_NS / NS_PER_S, 5), len(self.instructions) - 1, noise)


def run(path: Path, robot: RobotFile, policy: Any, **more: Any) -> Replay:
    kinematics = Kinematics(robot)
    return replay(RecordedFrames(open_bag(path), robot, kinematics), kinematics, policy, **more)


def staying(robot: RobotFile, *offset: float) -> StandIn:
    """Stays where it is, each action off by this."""
    shift = np.array([*offset, *[0.0] * (len(robot.action.names) - len(offset))])
    return StandIn(lambda at_s, number, noise: still(robot) + shift)


def done_deltas(robot: RobotFile, joints: Callable[[float], Array], at_s: float) -> Array:
    """What the arm does along a path from a time on, worked out by hand: [T, 7], gripper open."""
    kinematics, period = Kinematics(robot), robot.action.period_s
    poses = [kinematics.forward(joints(at_s + step * period)) for step in range(robot.action.horizon + 1)]
    rows = [
        [*(new - old), *matrix_to_euler(turn @ before.T), 1.0]
        for (old, before), (new, turn) in itertools.pairwise(poses)
    ]
    return np.array(rows)


# Chunks again ---------------------------------------------------------------------------------------


def test_the_same_policy_gives_the_recorded_chunks_again_bit_for_bit(
    tmp_path: Path, robot: RobotFile
) -> None:
    shape = (robot.action.horizon, len(robot.action.names))

    def recorded(at_s: float, sequence: int) -> Array:
        data = still(robot) + noise_for(1000 + sequence, *shape)
        data[3, 1] += 0.25 if sequence == 5 else 0.0
        return data

    make_bag(tmp_path / "bag", robot, chunk_data=recorded)
    result = run(tmp_path / "bag", robot, StandIn(lambda at_s, number, noise: still(robot) + noise))
    assert (result.observations, result.repeats.compared, result.repeats.same) == (6, 6, 5)
    assert result.repeats.largest == pytest.approx(0.25)
    assert result.repeats.guided == result.repeats.remembered == 0
    assert not result.problems


def test_guided_chunks_are_repeated_with_their_guide_and_others_counted_apart(
    tmp_path: Path, robot: RobotFile
) -> None:
    more: dict[int, dict[str, Any]] = {
        2: {"guide_sequence": 1, "guide_frozen": 2},
        3: {"left_age_s": 0.4},
        4: {"guide_sequence": 77, "guide_frozen": 2},
    }
    made = make_bag(tmp_path / "bag", robot, chunk_more=more)
    policy = staying(robot)
    result = run(tmp_path / "bag", robot, policy)
    repeats = result.repeats
    assert (repeats.compared, repeats.same, repeats.guided) == (4, 4, 1)
    assert (repeats.unguided, repeats.remembered) == (1, 1)
    first, second = made.chunks[:2]
    expected = RealTimeGuide(robot, Kinematics(robot)).along(
        first, first.observation_ns, second.observation_ns, second.observation_positions, 2
    )
    given = [guide for guide in policy.guides if guide is not None]
    assert expected is not None and len(given) == 1 and policy.guides[1] is given[0]
    np.testing.assert_array_equal(given[0].actions, expected.actions)
    np.testing.assert_array_equal(given[0].weights, expected.weights)
    assert result.commanded.steps.tolist() == [6] * 8
    table = replay_table(result)
    assert "guide is not in the bag" in table and "remembered older images" in table
    assert any("chunk 77, its guide, is not in the bag" in sentence for sentence in result.problems)


def test_another_policy_is_not_drawn_to_what_was_commanded(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, chunk_more={2: {"guide_sequence": 1, "guide_frozen": 2}})
    other = staying(robot)
    other.name = "other@1"
    run(tmp_path / "bag", robot, other)
    asked = staying(robot)
    run(tmp_path / "bag", robot, asked, instruction="another one")
    assert other.guides == asked.guides == [None] * 6


def test_another_instruction_is_put_to_the_policy_and_repeats_nothing(
    tmp_path: Path, robot: RobotFile
) -> None:
    make_bag(tmp_path / "bag", robot)
    policy = staying(robot)
    result = run(tmp_path / "bag", robot, policy, instruction="wave")
    assert policy.instructions == ["wave"] * 6
    assert result.repeats.compared == 0 and result.observations == 6
    assert "bit for bit" not in replay_table(result)


# What was commanded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("composition", ["observation", "previous_target"])
def test_a_constant_offset_is_the_error_in_its_units(
    tmp_path: Path, robot: RobotFile, composition: str
) -> None:
    action = dataclasses.replace(robot.action, composition=composition)
    robot = dataclasses.replace(robot, action=action)
    make_bag(tmp_path / "bag", robot)
    errors = run(tmp_path / "bag", robot, staying(robot, 0.01, -0.02, 0.0, 0.1)).commanded
    expected = [0.01, 0.02, 0.0, 0.1, 0.0, 0.0, 0.0]
    for found in (errors.mean_absolute(), errors.rms()):
        np.testing.assert_allclose(found, np.tile(expected, (8, 1)), atol=1e-12)
    steps = np.arange(1, 9)
    np.testing.assert_allclose(errors.translation_mm(), steps * 1e3 * np.hypot(0.01, 0.02), rtol=1e-9)
    np.testing.assert_allclose(errors.rotation_deg(), np.degrees(0.1 * steps), rtol=1e-9)
    assert errors.gripper_agreement() == 1.0


def test_errors_are_averaged_over_observations_not_the_last_one(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, seconds=1.0)  # two chunks

    def rule(at_s: float, number: int, noise: NDArray[np.float32]) -> Array:
        data = still(robot)
        data[2, 0] = (0.01, -0.03)[number]
        data[5, -1] = (1.0, 0.0)[number]
        return data

    errors = run(tmp_path / "bag", robot, StandIn(rule)).commanded
    assert errors.mean_absolute()[2, 0] == pytest.approx(0.02)
    assert errors.rms()[2, 0] == pytest.approx(np.sqrt((0.01**2 + 0.03**2) / 2))
    mean, rms = errors.overall()
    assert mean[0] == pytest.approx(0.02 / 8) and rms[0] == pytest.approx(np.sqrt(0.001 / 16))
    assert errors.gripper_agreement() == pytest.approx(15 / 16)


# What was done --------------------------------------------------------------------------------------


def test_what_was_done_is_worked_out_from_the_measured_joints(tmp_path: Path, robot: RobotFile) -> None:
    joints = swing(robot)
    make_bag(tmp_path / "bag", robot)
    offset = np.array([0.003, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    policy = StandIn(lambda at_s, number, noise: done_deltas(robot, joints, at_s) + offset)
    result = run(tmp_path / "bag", robot, policy)
    errors = result.done["autonomy"]
    # Of observations at 0, 0.5, ... 2.5 s those whose step ends before the last joint states, at 2.99 s.
    assert errors.steps.tolist() == [6, 6, 5, 5, 4, 4, 4, 3]
    np.testing.assert_allclose(errors.mean_absolute(), np.tile(offset, (8, 1)), atol=1e-9)
    np.testing.assert_allclose(errors.translation_mm(), 3.0 * np.arange(1, 9), atol=1e-6)
    assert not result.done["teleop"].steps.any()
    assert dict(result.left_out) == {"after the end of the recording": 11}


def test_positions_are_taken_between_the_stamps_of_joint_states(tmp_path: Path, robot: RobotFile) -> None:
    names = (*robot.arm_joints, "gripper")
    action = dataclasses.replace(robot.action, space="joint_position", names=names, period_s=0.1234)
    there = dataclasses.replace(robot, action=action)
    speed = np.linspace(-0.1, 0.1, 6)

    def joints(at_s: float) -> Array:
        return np.asarray(robot.home + speed * at_s)

    def rule(at_s: float, number: int, noise: NDArray[np.float32]) -> Array:
        rows = [[*joints(at_s + step * 0.1234), 1.0] for step in range(1, 9)]
        return np.array(rows) + np.array([0.05, 0, 0, 0, 0, 0, 0])

    make_bag(tmp_path / "bag", robot, joints=joints, chunk_every_s=None)
    errors = run(tmp_path / "bag", there, StandIn(rule), every_s=0.5).done["autonomy"]
    assert errors.steps.min() >= 3
    np.testing.assert_allclose(errors.mean_absolute(), np.tile([0.05, *[0.0] * 6], (8, 1)), atol=1e-6)
    assert np.all(errors.translation_mm() > 5.0)  # the waist turned by 0.05 rad, the tool 0.24 m away


def test_what_the_gripper_was_told_counts_not_how_thick_what_it_holds_is(
    tmp_path: Path, robot: RobotFile
) -> None:
    make_bag(tmp_path / "a", robot, opening=lambda at_s: 0.63, told=lambda at_s: 0.0)
    policy = staying(robot, 0, 0, 0, 0, 0, 0, -1.0)  # closed
    assert run(tmp_path / "a", robot, policy).done["autonomy"].gripper_agreement() == 1.0
    silent = [robot.topics.gripper_trajectory]
    make_bag(tmp_path / "b", robot, opening=lambda at_s: 0.63, leave_out=silent)
    measured = run(tmp_path / "b", robot, policy).done["autonomy"]
    assert measured.gripper_agreement() == 0.0
    assert measured.overall()[0][-1] == pytest.approx(0.63)


def test_of_a_gripper_that_is_not_measured_what_it_was_told_stands_for_it(tmp_path: Path) -> None:
    robot = commanded_gripper(tmp_path)
    told = commanded_states(robot, 3.0, lambda at_s: 0.63)
    silent = [robot.topics.gripper_trajectory]
    make_bag(tmp_path / "a", robot, opening=lambda at_s: 0.2, leave_out=silent, more=told)
    result = run(tmp_path / "a", robot, staying(robot, 0, 0, 0, 0, 0, 0, -1.0))
    assert not result.problems
    assert result.done["autonomy"].overall()[0][-1] == pytest.approx(0.63)
    motion = figures_of(tmp_path / "a").motion
    assert motion is not None and motion.opening == pytest.approx(0.63)


@pytest.mark.parametrize("interface", ["gripper_action", "position", "xs_joint_single"])
def test_what_the_gripper_was_told_is_known_for_every_interface(tmp_path: Path, interface: str) -> None:
    command = {"interface": interface, "topic": "hand/drive"}
    robot = changed_robot(tmp_path, "wx250s", lambda keys: keys["gripper"].update(command=command))
    make_bag(tmp_path / "a", robot, opening=lambda at_s: 0.63, told=lambda at_s: 0.0)
    policy = staying(robot, 0, 0, 0, 0, 0, 0, -1.0)  # closed
    assert run(tmp_path / "a", robot, policy).done["autonomy"].gripper_agreement() == 1.0


def test_a_stretch_of_teleop_is_the_persons(tmp_path: Path, robot: RobotFile) -> None:
    """The arm moves only while the person drives: a policy that stays agrees with autonomy alone."""

    def joints(at_s: float) -> Array:
        return np.asarray(robot.home + 0.3 * np.clip(at_s - 1.0, 0.0, 1.0))

    modes = ((0.0, Mode.AUTONOMY), (1.0, Mode.TELEOP), (2.0, Mode.AUTONOMY), (2.5, Mode.HOLD))
    make_bag(tmp_path / "bag", robot, joints=joints, modes=modes)
    result = run(tmp_path / "bag", robot, staying(robot))
    expected = {"autonomy": 0, "teleop": 0, "who drives changed": 0, "nobody drove": 0, "end": 0}
    for observed_ms in range(0, 3000, 500):
        for start in range(observed_ms, observed_ms + 1600, 200):
            end = start + 200
            if end > 2990:
                expected["end"] += 1
            elif any(start < change < end for change in (1000, 2000, 2500)):
                expected["who drives changed"] += 1
            elif start >= 2500:
                expected["nobody drove"] += 1
            else:
                expected["teleop" if 1000 <= start < 2000 else "autonomy"] += 1
    found = {name: int(errors.steps.sum()) for name, errors in result.done.items()}
    left = {name: result.left_out[name] for name in ("who drives changed", "nobody drove")}
    assert {**found, **left, "end": result.left_out["after the end of the recording"]} == expected
    autonomy, teleop = result.done["autonomy"], result.done["teleop"]
    assert np.abs(autonomy.overall()[0]).max() < 1e-9 and np.nanmax(autonomy.translation_mm()) < 1e-6
    assert teleop.overall()[0][:3].max() > 0.005 and np.nanmin(teleop.translation_mm()) > 1.0
    # Poses count only where one and the same drove from the observation on.
    assert autonomy.pose_steps.sum() < autonomy.steps.sum()


def test_steps_without_joint_states_are_left_out(tmp_path: Path, robot: RobotFile) -> None:
    silent = {robot.topics.joint_states: (0.7, 1.35)}
    make_bag(tmp_path / "bag", robot, silent=silent, chunk_every_s=2.0)
    result = run(tmp_path / "bag", robot, staying(robot))
    # Of the observation at 0 the steps that begin or end in the gap: from 0.6 to 1.4 s.
    assert result.left_out["no joint states then"] == 4
    assert result.done["autonomy"].steps.tolist() == [2, 2, 2, 1, 0, 0, 0, 1]


def test_without_modes_nothing_is_held_against_anybody(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, leave_out=[robot.topics.control_mode])
    result = run(tmp_path / "bag", robot, staying(robot))
    assert not any(errors.steps.any() for errors in result.done.values())
    assert result.left_out["not known who drove"] == 37
    assert any("/control_mode: no messages in the bag" in text for text in result.problems)


# Observations ---------------------------------------------------------------------------------------


def test_without_chunks_the_policy_runs_as_often_as_a_live_one(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, chunk_every_s=None)
    policy = staying(robot)
    result = run(tmp_path / "bag", robot, policy, seed=7)
    assert result.every_s == pytest.approx(0.8) and result.observations == 4
    assert not result.commanded.steps.any()
    for number, noise in enumerate(policy.noises):
        np.testing.assert_array_equal(noise, noise_for(7 + number, 8, 7))


def test_a_period_that_is_asked_for_replaces_the_recorded_chunks(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot)
    result = run(tmp_path / "bag", robot, staying(robot), every_s=0.25)
    assert result.observations == 12 and not result.commanded.steps.any()


def test_a_camera_that_is_not_there_is_named(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, leave_out=[robot.camera("wrist").topic])
    result = run(tmp_path / "bag", robot, staying(robot))
    assert result.observations == 0
    assert any("/camera/wrist/image_raw: no messages in the bag" in text for text in result.problems)
    assert any("its observation is not in the bag (6 times)" in text for text in result.problems)


def test_observations_without_words_or_with_refused_ones_are_named(tmp_path: Path, robot: RobotFile) -> None:
    words = ((0.6, INSTRUCTION), (1.8, "to be refused"))
    make_bag(tmp_path / "bag", robot, instructions=words, chunk_every_s=None)
    result = run(tmp_path / "bag", robot, staying(robot), every_s=0.5)
    assert result.observations == 2
    assert any("without an instruction" in text and "2 times" in text for text in result.problems)
    assert any("the policy cannot act: instruction: cannot be read" in text for text in result.problems)


def test_an_empty_bag_has_no_observations(tmp_path: Path, robot: RobotFile) -> None:
    make_bag(tmp_path / "bag", robot, seconds=0.0)
    result = run(tmp_path / "bag", robot, staying(robot))
    assert result.observations == 0 and not result.points.kept
    assert any("/joint_states: no messages in the bag" in text for text in result.problems)


def test_what_is_kept_for_the_picture_is_bounded_and_evenly_spread() -> None:
    kept: Thinned[int] = Thinned(8)
    for number in range(100):
        kept.add(number)
        assert number > 7 or kept.kept == list(range(number + 1))
    assert kept.kept == list(range(0, 100, 16))


# What is shown --------------------------------------------------------------------------------------


def test_disagreement_is_told_with_time_mode_and_words(tmp_path: Path, robot: RobotFile) -> None:
    words = ((0.0, INSTRUCTION), (1.2, "pick up the $blue$ block"))
    modes = ((0.0, Mode.AUTONOMY), (1.45, Mode.TELEOP))
    make_bag(tmp_path / "bag", robot, instructions=words, modes=modes)
    result = run(tmp_path / "bag", robot, staying(robot, 0.01))
    points = result.points.kept
    assert [point.at_s for point in points] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    assert [point.mode for point in points] == [Mode.AUTONOMY] * 3 + [Mode.TELEOP] * 3
    assert [point.instruction for point in points] == [INSTRUCTION] * 3 + ["pick up the $blue$ block"] * 3
    assert [point.commanded_mm for point in points] == pytest.approx([45.0] * 6)
    assert result.modes == [(0.0, Mode.AUTONOMY), (pytest.approx(1.45), Mode.TELEOP)]
    assert [at_s for at_s, _ in result.instructions] == pytest.approx([0.0, 1.2], abs=0.02)
    json.dumps(result.to_json(), allow_nan=False)
    write_picture(tmp_path / "picture.png", result, "a $bag")
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["replay", *words])


def test_the_command_tells_and_writes_what_came_of_it(
    tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bag(tmp_path / "bag", robot)
    monkeypatch.setattr(TwinBrainPolicy, "from_pretrained", lambda *args, **more: staying(robot, 0.01))
    figures = tmp_path / "figures.json"
    assert command.run(options(str(tmp_path / "bag"), "--json", str(figures))) == 0
    out, err = capsys.readouterr()
    assert "0.0% (0 of 6), largest difference 0.01" in out and f"{POLICY}, as recorded" in out
    assert "replaying" in err
    values = json.loads(figures.read_text(encoding="utf-8"))
    assert values["observations"] == 6 and values["commanded"]["mean_absolute"][0] == pytest.approx(0.01)


def test_without_a_usable_observation_the_command_fails_and_says_why(
    tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bag(tmp_path / "bag", robot, seconds=0.0)
    monkeypatch.setattr(TwinBrainPolicy, "from_pretrained", lambda *args, **more: staying(robot))
    assert command.run(options(str(tmp_path / "bag"))) == 1
    error = capsys.readouterr().err
    assert "no observation could be used" in error and "/joint_states: no messages in the bag" in error


def test_a_checkpoint_of_another_robot_is_refused_with_both_names(tmp_path: Path) -> None:
    make_bag(tmp_path / "bag", load_robot("franka"), seconds=0.1)
    with pytest.raises(CheckpointMismatch, match="robot: checkpoint 'wx250s', robot file 'franka'"):
        command.run(options(str(tmp_path / "bag")))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--rate", "2"], "--rate"),
        (["--keep-stamps"], "--keep-stamps"),
        (["--ros", "--every", "1"], "--every"),
        (["--ros", "--checkpoint", "here"], "--checkpoint"),
        (["--out", "picture.jpg"], "found .jpg, expected .png"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=named):
        command.run(options("bag", *words))
