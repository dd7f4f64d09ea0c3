"""Bags: what is written is read, by us and by others; what is cut off is recovered as far as it goes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_fixtures import MadeBag, make_bag
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.data.bag import BagError, open_bag, rewrite_info
from twinbrain_ros.data.bag_repair import repair
from twinbrain_ros.data.bag_writer import UNFINISHED, BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.definitions import DefinitionError, definition, type_hash
from twinbrain_ros.data.episode_info import EpisodeInfo, InfoError, Verdict
from twinbrain_ros.robot.robot_file import load_robot

CUTS = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeBag:
    return make_bag(tmp_path_factory.mktemp("bags") / "episode", load_robot("wx250s"), 3.0)


@pytest.fixture
def torn(made: MadeBag, tmp_path: Path) -> Callable[[int], Path]:
    """The bag as a killed recorder leaves it: so many bytes of its file, and no metadata."""
    whole = (made.path / "episode.mcap").read_bytes()

    def cut(size: int) -> Path:
        path = tmp_path / "torn"
        path.mkdir(exist_ok=True)
        (path / "torn.mcap").write_bytes(whole[:size])
        return path

    return cut


def test_what_is_written_is_read_in_order_byte_for_byte(made: MadeBag) -> None:
    bag = open_bag(made.path)
    assert list(bag.messages()) == sorted(made.messages, key=lambda message: message.log_ns)
    assert bag.message_count == len(made.messages) and not bag.truncated
    assert (bag.start_ns, bag.end_ns) == (made.messages[0].log_ns, made.messages[-1].log_ns)
    assert EpisodeInfo.from_json(bag.info).policy == "stand-in@000000000000"


def test_chosen_topics_only(made: MadeBag) -> None:
    read = list(open_bag(made.path).messages(["/joint_states", "/no_such_topic"]))
    assert [message.data for message in read] == made.of("/joint_states")
    assert list(open_bag(made.path).messages([])) == []


def test_a_decoded_message_is_what_ros_decodes(made: MadeBag) -> None:
    bag = open_bag(made.path)
    for topic, kind in (("/joint_states", JointState), ("/arm_controller/joint_trajectory", JointTrajectory)):
        message = next(bag.messages([topic]))
        ours, theirs = bag.decode(message), deserialize_message(message.data, kind)
        # Empty arrays of float64 amid a message are where alignment goes wrong.
        if kind is JointState:
            assert ours.name == theirs.name and list(ours.position) == list(theirs.position)
            assert list(ours.effort) == list(theirs.effort) == []
        else:
            mine, other = ours.points[0], theirs.points[0]
            assert list(mine.positions) == list(other.positions) and list(mine.velocities) == []
            assert mine.time_from_start.nanosec == other.time_from_start.nanosec == 20_000_000


def test_other_readers_open_it(made: MadeBag) -> None:
    with Reader(made.path) as reader:
        assert reader.message_count == len(made.messages)
        assert {c.topic for c in reader.connections} == {message.topic for message in made.messages}
        assert all(c.digest.startswith("RIHS01_") for c in reader.connections)
    with (made.path / "episode.mcap").open("rb") as file:
        decoded = list(make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages())
    assert len(decoded) == len(made.messages)
    chunk = next(content for _, channel, _, content in decoded if channel.topic == "/action_chunk")
    assert chunk.robot == "wx250s" and chunk.steps == len(chunk.data) / len(chunk.names)


def test_the_metadata_are_those_of_rosbag2(made: MadeBag) -> None:
    values = yaml.safe_load((made.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert values["version"] == 9 and values["storage_identifier"] == "mcap"
    assert values["message_count"] == len(made.messages)
    assert values["relative_file_paths"] == ["episode.mcap"]
    offered = {
        entry["topic_metadata"]["name"]: entry["topic_metadata"]["offered_qos_profiles"][0]
        for entry in values["topics_with_message_count"]
    }
    assert offered["/control_mode"]["durability"] == "transient_local"
    assert offered["/joint_states"]["durability"] == "volatile"


def test_bags_of_other_storage_are_read(tmp_path: Path) -> None:
    kind = "sensor_msgs/msg/JointState"
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(
            "/joint_states", kind, msgdef=definition(kind), rihs01=type_hash(kind)
        )
        writer.write(connection, 5, serialize_message(JointState(name=["a"], position=[1.5])))
    bag = open_bag(tmp_path / "b")
    (message,) = bag.messages()
    assert list(bag.decode(message).position) == [1.5] and bag.info == {}


# Cut off ------------------------------------------------------------------------------------------------


def test_cut_anywhere_every_whole_chunk_is_recovered(
    made: MadeBag, torn: Callable[[int], Path], tmp_path: Path
) -> None:
    """What a cut leaves of the file's mcap chunks must all be there, and nothing else."""
    file = made.path / "episode.mcap"
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    ends = [(index.chunk_start_offset + index.chunk_length) for index in summary.chunk_indexes]
    counts = []
    with Reader(made.path) as reader:
        storage: Any = reader.storage.storages[0]  # type: ignore[attr-defined]
        counts = [sum(chunk.channel_count.values()) for chunk in storage.chunks]
    assert len(ends) >= 3 and sum(counts) == len(made.messages)
    size = file.stat().st_size
    for cut in random.Random(5).sample(range(size), CUTS):
        path = torn(cut)
        whole = sum(count for end, count in zip(ends, counts, strict=True) if end <= cut)
        try:
            bag = open_bag(path)
        except BagError as error:
            assert whole == 0 and cut < 100, error
            continue
        assert bag.truncated and bag.message_count == whole, cut
        assert [message.data for message in bag.messages()] == [m.data for m in made.messages[:whole]]


def test_damaged_bytes_crash_nothing(made: MadeBag, torn: Callable[[int], Path]) -> None:
    size = (made.path / "episode.mcap").stat().st_size
    noise, refused = random.Random(6), 0
    for _ in range(40):
        path = torn(size - 1)
        data = bytearray((path / "torn.mcap").read_bytes())
        for _ in range(20):
            data[noise.randrange(len(data))] = noise.randrange(256)
        (path / "torn.mcap").write_bytes(bytes(data))
        try:
            bag = open_bag(path)
            for message in bag.messages():
                with suppress(BagError):
                    bag.decode(message)
        except BagError:
            refused += 1
    assert refused < 40


def test_a_file_without_its_metadata_is_whole(made: MadeBag, torn: Callable[[int], Path]) -> None:
    bag = open_bag(torn(10**9))
    assert not bag.truncated and bag.message_count == len(made.messages)
    assert bag.topics["/control_mode"].latched and not bag.topics["/joint_states"].latched


def test_a_repaired_bag_is_whole_and_the_torn_file_stays(
    made: MadeBag, torn: Callable[[int], Path], tmp_path: Path
) -> None:
    path = torn(1_200_000)
    (path / UNFINISHED).write_text(json.dumps(EpisodeInfo(robot="wx250s", task="pick").to_json()))
    before = list(open_bag(path).messages())
    done = repair(path)
    assert done is not None and done.messages == len(before) > 0
    assert done.torn_file.stat().st_size == 1_200_000
    bag = open_bag(path)
    assert list(bag.messages()) == before and not bag.truncated
    info = EpisodeInfo.from_json(bag.info)
    assert info.task == "pick" and "mended" in info.ended and not (path / UNFINISHED).exists()
    assert bag.topics["/control_mode"].latched
    with Reader(path) as reader:
        assert reader.message_count == len(before)
    assert repair(path) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["torn"]


def test_what_cannot_be_mended_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.mkdir()
    (path / "b.mcap").write_bytes(b"nothing of the kind")
    with pytest.raises(BagError, match="nothing can be read"):
        repair(path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["b.mcap"]


def test_an_unfinished_bag_opens_up_to_its_last_flush(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", EpisodeInfo(task="put").to_json())
    topic = Topic("/joint_states", "sensor_msgs/msg/JointState")
    for i in range(10):
        writer.write(topic, i + 1, serialize_message(JointState(name=[str(i)])))
        if i == 6:
            writer.flush()
    writer.abort()  # as a killed process does
    bag = open_bag(tmp_path / "b")
    assert bag.count("/joint_states") == 7 and bag.truncated
    assert EpisodeInfo.from_json(bag.info).task == "put"


# What cannot be read ------------------------------------------------------------------------------------


def test_a_message_type_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/x", "no_such/msg/Thing", msgdef="int32 a", rihs01="RIHS01_0")
        writer.write(connection, 5, b"\0\1\0\0\0\0\0\0")
    bag = open_bag(tmp_path / "b")
    object.__setattr__(bag.topics["/x"], "definition", "")  # as bags of old recorders, which do not say
    (message,) = bag.messages()
    with pytest.raises(BagError, match="/x: unknown message type no_such/msg/Thing"):
        bag.decode(message)
    with pytest.raises(DefinitionError, match="no_such/msg/Thing: not installed"):
        definition("no_such/msg/Thing")


def test_data_that_do_not_fit_their_type_are_named(made: MadeBag) -> None:
    bag = open_bag(made.path)
    message = next(bag.messages(["/action_chunk"]))
    with pytest.raises(BagError, match="/action_chunk: 20 bytes cannot be read as"):
        bag.decode(message._replace(data=message.data[:20]))


@pytest.mark.parametrize("what", ["nothing", "a folder", "a text"])
def test_what_is_no_bag_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "b"
    if what == "a folder":
        path.mkdir()
    elif what == "a text":
        path.write_text("hello")
    with pytest.raises((BagError, FileNotFoundError), match=str(path)):
        open_bag(path)


# What is known of an episode ----------------------------------------------------------------------------


def test_labels_are_added_to_a_bag_and_its_messages_stay(tmp_path: Path) -> None:
    made = make_bag(tmp_path / "b", load_robot("wx250s"), 0.3)
    file = (made.path / "b.mcap").read_bytes()
    for verdict in (
        Verdict("failure", source="ann"),
        Verdict("success", 0.8, source="bob"),
        Verdict("success", text="after all", source="ann"),
        Verdict("failure", source="judge: done?"),
    ):
        info = EpisodeInfo.from_json(open_bag(made.path).info).with_verdict(verdict)
        rewrite_info(made.path, info.to_json())
    info = EpisodeInfo.from_json(open_bag(made.path).info)
    assert [verdict.source for verdict in info.verdicts] == ["bob", "ann", "judge: done?"]
    assert info.label == Verdict("success", text="after all", source="ann")
    assert info.judged == Verdict("failure", source="judge: done?")
    assert (made.path / "b.mcap").read_bytes() == file
    assert open_bag(made.path).message_count == len(made.messages)
    assert {p.name for p in made.path.iterdir()} == {"b.mcap", "metadata.yaml"}


def test_a_label_needs_a_whole_bag(torn: Callable[[int], Path]) -> None:
    with pytest.raises(BagError, match="repair"):
        rewrite_info(torn(1_000_000), {})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"outcome": "great"}, "outcome: found 'great'"),
        ({"outcome": "", "score": 1.2}, "score: found 1.2"),
        ({"outcome": ""}, "found nothing"),
    ],
)
def test_a_label_that_says_nothing_clear_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InfoError, match=words):
        Verdict(**values)


def test_information_of_a_later_version_is_refused() -> None:
    with pytest.raises(InfoError, match="found version 7, expected 1"):
        EpisodeInfo.from_json({"version": 7})
    assert EpisodeInfo.from_json({}) == EpisodeInfo()
    full = EpisodeInfo(robot="a", seed=3, verdicts=(Verdict("success", 0.5, "x", "y", 7),))
    assert EpisodeInfo.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize("shift", (0, 30, 60))
def test_what_is_known_of_an_episode_comes_back_whatever_text_is_in_it(tmp_path: Path, shift: int) -> None:
    """Lines of the YAML around it break somewhere else with each shift, after a backslash too."""
    text = "x" * shift + load_robot("wx250s").path.read_text(encoding="utf-8")
    writer = BagWriter(tmp_path / "bag", {})
    writer.close(EpisodeInfo(robot_file=text).to_json())
    assert open_bag(tmp_path / "bag").episode.robot_file == text
