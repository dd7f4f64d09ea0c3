"""The recorder's core: nothing is lost uncounted, and a cut costs no more than the last moment."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from twinbrain_ros.data.bag import BagError, open_bag
from twinbrain_ros.data.bag_writer import UNFINISHED, BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo, TopicCounts, Verdict
from twinbrain_ros.data.recorder import Recorder, RecorderError, RecorderSettings
from twinbrain_ros.nodes.image_compression import ImageCompression

A, B = Topic("/a", "std_msgs/msg/String"), Topic("/b", "std_msgs/msg/String", latched=True)
MIB = 2**20
WAIT_S = 20.0


def text(words: str) -> bytes:
    return serialize_message(String(data=words))


def words_of(path: Path, topic: str = "/a") -> list[str]:
    return [deserialize_message(m.data, String).data for m in open_bag(path).messages([topic])]


def until(condition: Callable[[], Any], what: str = "") -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, f"never came true: {what}"
        time.sleep(0.005)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., tuple[Recorder, list[str]]]]:
    """Recorders, closed at the end, and what they tell."""
    recorders = []

    def make(transform: Any = None, **settings: Any) -> tuple[Recorder, list[str]]:
        told: list[str] = []
        limits = RecorderSettings(**{"min_free_bytes": 1, "preroll_s": 60.0} | settings)
        recorder = Recorder(tmp_path / "bags", limits, told.append, transform)
        recorders.append(recorder)
        return recorder, told

    yield make
    for recorder in recorders:
        recorder.close(9)


def test_an_episode_holds_what_came_in_it_and_the_moment_before(made: Any) -> None:
    recorder, told = made()
    for i in range(3):
        recorder.take(A, 10 + i, text(f"before {i}"))
    path = recorder.start("e1", EpisodeInfo(task="pick"), 20)
    for i in range(5):
        recorder.take(A, 20 + i, text(f"in {i}"))
    assert recorder.stop(EpisodeInfo(task="pick", policy="p"), 30) == path
    recorder.take(A, 31, text("after"))
    assert words_of(path) == [f"before {i}" for i in range(3)] + [f"in {i}" for i in range(5)]
    info = EpisodeInfo.from_json(open_bag(path).info)
    assert (info.started_ns, info.ended_ns, info.ended, info.policy) == (20, 30, "stopped", "p")
    assert info.counts == {"/a": TopicCounts(8, 8, 0)} and told == []
    assert words_of(recorder.start("e2", EpisodeInfo(), 40).parent / "e1") == words_of(path)


def test_the_pre_roll_is_no_longer_than_it_is_to_be(made: Any) -> None:
    recorder, _ = made(preroll_s=0.05)
    recorder.take(A, 1, text("old"))
    came_s = time.monotonic()
    until(lambda: time.monotonic() - came_s > 0.06)
    recorder.take(A, 2, text("new"))
    path = recorder.start("e", EpisodeInfo(), 3)
    recorder.stop(None, 4)
    assert words_of(path) == ["new"]


def test_what_was_said_once_and_still_holds_begins_every_episode(made: Any) -> None:
    recorder, _ = made(preroll_s=0.0)
    recorder.take(B, 1, text("old words"))
    recorder.take(B, 2, text("the instruction"))
    for number in range(2):
        recorder.take(A, 100 * number + 50, text("x"))
        path = recorder.start(f"e{number}", EpisodeInfo(), 100 * number + 60)
        recorder.take(A, 100 * number + 70, text("y"))
        recorder.stop(None, 100 * number + 80)
        (message,) = open_bag(path).messages(["/b"])
        assert deserialize_message(message.data, String).data == "the instruction"
        assert message.log_ns >= 100 * number + 50, "the bag does not begin long before its episode"
        assert EpisodeInfo.from_json(open_bag(path).info).counts["/b"] == TopicCounts(1, 1, 0)


def test_what_is_forgotten_is_in_no_episode_but_for_what_still_holds(made: Any) -> None:
    recorder, _ = made()
    recorder.take(A, 1, text("on the way"))
    recorder.take(B, 2, text("the instruction"))
    recorder.forget()
    recorder.take(A, 3, text("there"))
    path = recorder.start("e", EpisodeInfo(), 4)
    recorder.stop(None, 5)
    assert words_of(path) == ["there"] and words_of(path, "/b") == ["the instruction"]
    assert recorder.state().queued_bytes == 0


def test_gaps_in_a_publishers_counting_are_lost_messages(made: Any) -> None:
    recorder, _ = made()
    recorder.take(A, 1, text(""), b"one", 1)
    recorder.take(A, 1, text(""), b"one", 5)  # before the episode: none of its business
    path = recorder.start("e", EpisodeInfo(), 2)
    for publisher, sequence in (
        (b"one", 6),
        (b"two", 40),
        (b"one", 9),
        (b"two", 41),
        (b"one", 1),
        (b"one", 2),
    ):
        recorder.take(A, 3, text(""), publisher, sequence)
    recorder.take(A, 3, text(""))
    recorder.stop(None, 4)
    assert EpisodeInfo.from_json(open_bag(path).info).counts == {"/a": TopicCounts(9, 9, 2)}


def test_a_queue_that_is_full_drops_and_counts(made: Any) -> None:
    gate: list[int] = []

    def slow(topic: Topic, data: bytes) -> tuple[Topic, bytes]:
        until(lambda: gate)
        return topic, data

    recorder, _ = made(slow, queue_bytes=5 * len(text("x" * 1000)))
    path = recorder.start("e", EpisodeInfo(), 1)
    for _ in range(20):
        recorder.take(A, 2, text("x" * 1000))
    assert recorder.state().queued_bytes <= 5 * len(text("x" * 1000))
    gate.append(1)
    recorder.stop(None, 3)
    counts = EpisodeInfo.from_json(open_bag(path).info).counts["/a"]
    assert counts.received == 20 and 5 <= counts.written < 20
    assert open_bag(path).count("/a") == counts.written


def test_before_an_episode_a_full_queue_keeps_the_newest(made: Any) -> None:
    recorder, _ = made(queue_bytes=3 * len(text("00")))
    for i in range(30):
        recorder.take(A, i, text(f"{i:02d}"))
    path = recorder.start("e", EpisodeInfo(), 50)
    recorder.stop(None, 60)
    assert words_of(path) == ["27", "28", "29"]


def test_a_message_that_cannot_be_written_is_told_and_the_others_go_on(made: Any) -> None:
    recorder, told = made()
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.take(Topic("/odd", "no_such/msg/Thing"), 2, b"\0\1\0\0")
    recorder.take(A, 3, text("fine"))
    recorder.stop(None, 4)
    assert words_of(path) == ["fine"]
    assert len(told) == 1 and "/odd: not recorded" in told[0] and "no_such/msg/Thing" in told[0]
    assert EpisodeInfo.from_json(open_bag(path).info).counts["/odd"] == TopicCounts(1, 0, 0)


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "/tmp/x", ".hidden"])
def test_a_name_that_is_none_is_refused(made: Any, name: str) -> None:
    with pytest.raises(RecorderError, match="expected the name of a new directory"):
        made()[0].start(name, EpisodeInfo(), 1)


def test_a_name_that_no_disk_takes_is_refused_by_its_length(made: Any) -> None:
    with pytest.raises(RecorderError, match=r"name: found 400 bytes \('ä+'\.\.\. .*, expected at most 200"):
        made()[0].start("ä" * 200, EpisodeInfo(), 1)
    words = "ä" * 100
    path = made()[0].start(words, EpisodeInfo(), 1)
    assert path.name == words


def test_what_cannot_be_done_now_is_refused_and_nothing_is_lost(made: Any) -> None:
    recorder, _ = made()
    for act in (
        lambda: recorder.stop(None, 1),
        lambda: recorder.label(Verdict("success")),
        lambda: recorder.discard(1),
    ):
        with pytest.raises(RecorderError, match="no episode"):
            act()
    path = recorder.start("e", EpisodeInfo(), 1)
    with pytest.raises(RecorderError, match="is being recorded"):
        recorder.start("f", EpisodeInfo(), 2)
    recorder.take(A, 3, text("kept"))
    recorder.stop(None, 4)
    with pytest.raises(RecorderError, match="exists already"):
        recorder.start("e", EpisodeInfo(), 5)
    assert words_of(path) == ["kept"]


def test_labels_while_it_is_recorded_and_after(made: Any) -> None:
    recorder, _ = made()
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.label(Verdict("failure", source="ann", at_ns=5))
    recorder.stop(EpisodeInfo(note="x"), 4)
    assert EpisodeInfo.from_json(open_bag(path).info).label == Verdict("failure", source="ann", at_ns=5)
    assert recorder.label(Verdict("success", 0.5, source="bob")) == path
    info = EpisodeInfo.from_json(open_bag(path).info)
    assert [v.source for v in info.verdicts] == ["ann", "bob"] and info.note == "x"


@pytest.fixture
def closing(made: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Recorder, Path, threading.Event]]:
    """An episode that has ended, and whose bag the disk closes once the event is set."""
    began, go_on, close = threading.Event(), threading.Event(), BagWriter.close

    def slow(bag: BagWriter, info: Mapping[str, Any]) -> None:
        began.set()
        assert go_on.wait(WAIT_S)
        close(bag, info)

    monkeypatch.setattr(BagWriter, "close", slow)
    recorder, _ = made()
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.take(A, 2, text("last"))
    recorder.stop(None, 3, wait=False)
    assert began.wait(WAIT_S)
    assert recorder.state().closing
    yield recorder, path, go_on
    go_on.set()


def beside(act: Callable[[], Any], go_on: threading.Event) -> Any:
    """What `act` gives, which waits for an episode's end."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(act)
        with pytest.raises(NotYet):
            result.result(0.1)
        go_on.set()
        return result.result(WAIT_S)


def test_a_label_on_an_episode_that_is_being_closed_is_in_its_bag(
    closing: tuple[Recorder, Path, threading.Event],
) -> None:
    recorder, path, go_on = closing
    assert beside(lambda: recorder.label(Verdict("success", source="ann")), go_on) == path
    assert EpisodeInfo.from_json(open_bag(path).info).label == Verdict("success", source="ann")
    assert words_of(path) == ["last"]


def test_an_episode_that_is_discarded_while_it_is_closed_is_gone(
    closing: tuple[Recorder, Path, threading.Event],
) -> None:
    recorder, path, go_on = closing
    assert beside(lambda: recorder.discard(5), go_on) == path
    assert not path.exists()


def test_a_discarded_episode_is_gone(made: Any) -> None:
    recorder, _ = made()
    running = recorder.start("e", EpisodeInfo(), 1)
    recorder.discard(2)
    assert not running.exists()
    path = recorder.start("e", EpisodeInfo(), 3)
    recorder.stop(None, 4)
    assert recorder.discard(5) == path and not path.exists()
    with pytest.raises(RecorderError, match="no episode"):
        recorder.label(Verdict("success"))


def test_what_is_older_than_the_flush_time_is_on_the_disk(made: Any) -> None:
    recorder, _ = made(flush_s=0.05)
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.take(A, 2, text("safe"))

    def on_disk() -> bool:
        try:
            return open_bag(path).count("/a") == 1
        except BagError:
            return False

    until(on_disk, "the message is not on the disk")
    bag = open_bag(path)
    assert bag.truncated and recorder.state().recording


def test_the_thread_ends_though_the_episode_does_not_get_to_its_end(made: Any) -> None:
    recorder, _ = made()
    path = recorder.start("e", EpisodeInfo(), 1)
    shutil.rmtree(path)  # so that the bag cannot be closed
    with pytest.raises(RecorderError, match="broke off"):
        recorder.close(2)
    assert not recorder._thread.is_alive()


# Disks and processes that fail --------------------------------------------------------------------------


def test_no_episode_begins_on_a_full_disk(made: Any) -> None:
    recorder, _ = made(min_free_bytes=2**60)
    with pytest.raises(RecorderError, match="MiB are free, expected at least"):
        recorder.start("e", EpisodeInfo(), 1)


def test_an_episode_ends_whole_before_the_disk_is_full(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, told = made(min_free_bytes=100, flush_s=0.01)
    path = recorder.start("e", EpisodeInfo(), 1)
    monkeypatch.setattr(recorder, "_free_bytes", lambda: 50)
    recorder.take(A, 2, text("last"))
    until(lambda: not recorder.state().recording, "the episode does not end")
    until(lambda: not open_bag(path).truncated)
    assert words_of(path) == ["last"] and "nearly full" in told[0]
    assert "nearly full" in EpisodeInfo.from_json(open_bag(path).info).ended


def test_a_disk_that_takes_no_more_leaves_what_was_flushed(made: Any) -> None:
    """A limit of the size of files is the system's own way to refuse a write."""
    recorder, told = made(flush_s=0.01)
    path = recorder.start("e", EpisodeInfo(), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = text("x" * 100_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, hard))
        while recorder.state().recording:
            recorder.take(A, 2, data)
            until(lambda: recorder.state().queued_bytes == 0 or not recorder.state().recording)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(told) == 1 and "broke off" in told[0] and "File too large" in told[0]
    bag = open_bag(path)
    assert bag.truncated and 10 <= bag.count("/a") <= 31
    assert all(message.data == data for message in bag.messages())
    recorder.take(A, 3, text("again"))
    second = recorder.start("e2", EpisodeInfo(), 4)
    recorder.stop(None, 5)
    assert words_of(second) == ["again"]


@pytest.mark.parametrize("what", ["the bag", "its file", "the folder of all, with another in its place"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_bag_that_is_removed_or_moved_breaks_off_at_once(
    made: Any, tmp_path: Path, what: str, moved: bool
) -> None:
    """Its file can be written to all the same, and is lost when it is closed."""
    recorder, told = made(flush_s=0.01)
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.take(A, 2, text("before"))
    until(lambda: recorder.state().counts["/a"].written == 1)
    lost = {"the bag": path, "its file": path / "e.mcap"}.get(what, path.parent)
    lost.rename(tmp_path / "elsewhere")
    if not moved:
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    recorder.take(A, 3, text("after"))
    until(lambda: not recorder.state().recording, "it does not break off")
    assert len(told) == 1 and f"{path / 'e.mcap'} was removed or moved, expected it where it" in told[0]
    with pytest.raises(RecorderError, match=r"no episode is being recorded; the last one: .* broke off"):
        recorder.stop(None, 4)
    second = recorder.start("e2", EpisodeInfo(), 4)
    recorder.take(A, 5, text("again"))
    recorder.stop(None, 6)
    assert words_of(second) == ["again"]


def test_a_bag_gets_whole_though_its_note_was_tidied_away(made: Any) -> None:
    recorder, told = made()
    path = recorder.start("e", EpisodeInfo(), 1)
    recorder.take(A, 2, text("all"))
    (path / UNFINISHED).unlink()
    recorder.stop(None, 3)
    assert words_of(path) == ["all"] and not open_bag(path).truncated and not told


def test_a_bag_that_the_disk_does_not_take_is_named(made: Any, tmp_path: Path) -> None:
    recorder, _ = made()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(RecorderError, match=f"{tmp_path}/bags/e: the bag cannot be made: .*too large"):
            recorder.start("e", EpisodeInfo(), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.start("e", EpisodeInfo(), 2)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(
    "bad", [serialize_message(Image(encoding="rgb8")), b"\0\1\0\0\7", b"", serialize_message(Image())]
)
def test_one_bad_image_is_left_out_of_a_recording_that_compresses(made: Any, kind: str, bad: bytes) -> None:
    recorder, told = made(ImageCompression(kind, 90))
    camera = Topic("/c/image_raw", "sensor_msgs/msg/Image")
    good = Image(encoding="rgb8", width=4, height=2, step=12, data=bytes(24))
    path = recorder.start("e", EpisodeInfo(), 1)
    for data in (bad, serialize_message(good)):
        recorder.take(camera, 2, data)
    assert recorder.stop(None, 3) == path
    assert open_bag(path).count("/c/image_raw/compressed") == 1
    assert len(told) == 1 and told[0].startswith("/c/image_raw: not recorded: ")


KILLED = """
import sys, time
from pathlib import Path
from rclpy.serialization import serialize_message
from std_msgs.msg import String
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo
from twinbrain_ros.data.recorder import Recorder, RecorderSettings

recorder = Recorder(Path(sys.argv[1]), RecorderSettings(flush_s=0.1, min_free_bytes=1), print)
recorder.start("e", EpisodeInfo(task="put"), 1)
number = 0
while True:
    data = serialize_message(String(data=str(number)))
    recorder.take(Topic("/a", "std_msgs/msg/String"), time.time_ns(), data)
    number += 1
    if number % 50 == 0:
        print(number, time.time_ns(), flush=True)
    time.sleep(0.002)
"""


def test_a_killed_process_loses_no_more_than_the_last_second(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    for _ in range(12):
        number, at_ns = map(int, process.stdout.readline().split())
    process.send_signal(signal.SIGKILL)
    process.wait()
    bag = open_bag(tmp_path / "e")
    assert bag.truncated and EpisodeInfo.from_json(bag.info).task == "put"
    read = words_of(tmp_path / "e")
    assert read == [str(i) for i in range(len(read))], "without a gap from the beginning"
    assert bag.end_ns > at_ns - 10**9
    assert number - len(read) <= 500


def test_what_is_known_of_an_episode_survives_at_every_column(tmp_path: Path) -> None:
    """Texts with escapes (a robot file, a path) are long, and YAML folds them somewhere."""
    for width in range(100):
        text = "x" * width + " a\nb  \\c 'd' \"e\" # f\t" * 30
        bag = BagWriter(tmp_path / str(width), {})
        bag.close(EpisodeInfo(robot_file=text).to_json())
        assert open_bag(tmp_path / str(width)).episode.robot_file == text
