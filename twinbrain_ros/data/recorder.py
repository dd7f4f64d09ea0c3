"""Episodes into bags: messages in by one thread, to the disk by another; nothing is lost uncounted."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2.errors import WriterError

from twinbrain_ros.data.bag import add_verdict
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo, TopicCounts, Verdict
from twinbrain_ros.data.recorded_episode import Item, RecordedEpisode
from twinbrain_ros.text import shown

# How long messages may wait for the writing thread to look.
LOOK_S = 0.02
CLOSE_TIMEOUT_S = 30.0
STOPPED = "stopped"
# File systems take 255, and what is in a bag is named after it.
NAME_BYTES = 200

Transform = Callable[[Topic, bytes], tuple[Topic, bytes]]


class RecorderError(ValueError):
    """Something asked of the recorder that it cannot do now; says what stands against it."""


@dataclass(frozen=True)
class RecorderSettings:
    """Limits of a recorder.

    Attributes:
        queue_bytes: of messages that wait to be written; what comes beyond is dropped and counted.
        preroll_s: of messages from before an episode's start that go into its bag [s].
        flush_s: what is older than this is on the disk [s].
        min_free_bytes: an episode ends while so much is still free on the disk.
    """

    queue_bytes: int = 512 * 2**20
    preroll_s: float = 1.0
    flush_s: float = 0.5
    min_free_bytes: int = 200 * 2**20


@dataclass(frozen=True)
class RecorderState:
    """What a recorder is doing: `counts` of the present episode, or of the last one.

    An episode is recorded until its bag is whole; `closing`: it has ended, and the rest is being written.
    """

    recording: bool
    bag: Path | None
    seconds: float
    bytes_written: int
    queued_bytes: int
    counts: dict[str, TopicCounts]
    closing: bool = False


class Recorder:
    """Keeps the last moment of all topics, and writes episodes.

    Everything but the writing itself happens in the caller's thread.

    Args:
        directory: of the bags; made if need be.
        tell: called with a sentence when something goes wrong, from either thread.
        transform: what becomes of a message before it is written, such as a compressed image; it runs in the
            writing thread.
    """

    def __init__(
        self,
        directory: Path,
        settings: RecorderSettings,
        tell: Callable[[str], None],
        transform: Transform | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._settings, self._tell, self._transform = directory, settings, tell, transform
        self._lock = threading.Lock()
        # An episode among the items is the end of it.
        self._queue: deque[Item | RecordedEpisode] = deque()
        self._queued_bytes = 0
        self._latched: dict[str, Item] = {}
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._episode: RecordedEpisode | None = None
        self._last: RecordedEpisode | None = None
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    # In the caller's thread ---------------------------------------------------------------------------

    def take(
        self, topic: Topic, log_ns: int, data: bytes, publisher: bytes = b"", sequence: int | None = None
    ) -> None:
        """A message has come.

        Args:
            log_ns: when [ns].
            data: serialized.
            publisher, sequence: who sent it, and its number among what that one has sent on this topic; a gap
                is counted as so many lost messages. None: not known.
        """
        item = Item(topic, log_ns, data, time.monotonic())
        with self._lock:
            missing = self._missing(topic.name, publisher, sequence)
            if topic.latched:
                self._latched[topic.name] = item
            episode = self._episode
            if episode is not None and not episode.ending:
                counter = episode.counter(topic.name)
                counter.lost += missing
                counter.received += 1
            if episode is None:
                self._trim(item)
            if self._queued_bytes + len(data) > self._settings.queue_bytes:
                return  # in an episode: received and never written, the counts say so
            self._queue.append(item)
            self._queued_bytes += len(data)

    def _missing(self, topic: str, publisher: bytes, sequence: int | None) -> int:
        if sequence is None:
            return 0
        last = self._sequences.get((topic, publisher))
        self._sequences[topic, publisher] = sequence
        return max(0, sequence - last - 1) if last is not None else 0

    def _trim(self, item: Item) -> None:
        """Makes room for an item by forgetting what is older than the pre-roll."""
        while self._queue:
            oldest = self._queue[0]
            assert isinstance(oldest, Item)
            full = self._queued_bytes + len(item.data) > self._settings.queue_bytes
            if not full and item.came_s - oldest.came_s <= self._settings.preroll_s:
                return
            self._queued_bytes -= len(oldest.data)
            self._queue.popleft()

    def forget(self) -> None:
        """What has come until now goes into no bag, but for what is latched and still holds."""
        with self._lock:
            if self._episode is None:
                self._queue.clear()
                self._queued_bytes = 0

    def check(self, name: str) -> None:
        """Whether an episode can begin now.

        Raises:
            RecorderError: one is being recorded, the name is taken or no name, or the disk is full.
            OSError: the disk does not say how much of it is free.
        """
        if self._episode is not None:
            doing = "still being closed" if self._episode.ending else "being recorded"
            raise RecorderError(f"an episode is {doing}: {self._episode.bag.path}")
        if not name.strip() or Path(name).name != name or name.startswith(".") or not name.isprintable():
            raise RecorderError(f"name: found {shown(name)}, expected the name of a new directory")
        if len(name.encode()) > NAME_BYTES:
            found = f"{len(name.encode())} bytes ({shown(name, 60)})"
            raise RecorderError(f"name: found {found}, expected at most {NAME_BYTES}")
        if not self._directory.is_dir():
            raise RecorderError(f"{self._directory}: the folder is gone, expected it as it was at configure")
        if (free := self._free_bytes()) < self._settings.min_free_bytes:
            raise RecorderError(
                f"{self._directory}: {free / 2**20:.0f} MiB are free, expected at least "
                f"{self._settings.min_free_bytes / 2**20:.0f}"
            )
        if (path := self._directory / name).exists():
            raise RecorderError(f"{path} exists already")

    def start(self, name: str, info: EpisodeInfo, now_ns: int) -> Path:
        """Begins an episode; returns its bag. Raises as `check` does, or if the bag cannot be made."""
        self.check(name)
        info = dataclasses.replace(info, started_ns=now_ns)
        try:
            bag = BagWriter(self._directory / name, info.to_json())
        except WriterError as error:
            raise RecorderError(str(error)) from error
        except OSError as error:  # of a full disk it names no file
            raise RecorderError(f"{self._directory / name}: the bag cannot be made: {error}") from error
        with self._lock:
            episode = RecordedEpisode(bag, info, time.monotonic())
            # What was said once and still holds: who comes to the bag late must find it at its beginning.
            waiting = [item for item in self._queue if isinstance(item, Item)]
            first_ns = min((item.log_ns for item in waiting), default=now_ns)
            known = {id(item) for item in waiting}
            for item in self._latched.values():
                if id(item) not in known:
                    waiting.insert(0, dataclasses.replace(item, log_ns=first_ns))
                    self._queued_bytes += len(item.data)
            self._queue = deque(waiting)
            for item in waiting:
                episode.counter(item.topic.name).received += 1
            self._episode = self._last = episode
        self._wake.set()
        return bag.path

    def stop(
        self,
        info: EpisodeInfo | None,
        now_ns: int,
        discard: bool = False,
        why: str = STOPPED,
        wait: bool = True,
    ) -> Path:
        """Ends the episode once all that has come is written.

        Args:
            info: what is known of it now, None: as before.
            wait: for the bag to be whole; else `state` says when it is, and `tell` what went wrong.
        Raises:
            RecorderError: none is being recorded, or it did not get to its end.
        """
        episode = self._episode
        if episode is None:
            raise RecorderError(f"no episode is being recorded{self._why_none()}")
        with self._lock:
            if info is not None:
                episode.info = dataclasses.replace(
                    info, started_ns=episode.info.started_ns, verdicts=episode.info.verdicts
                )
            episode.discard = discard
        self._end(episode, why, now_ns)
        if not wait:
            return episode.bag.path
        self._wait_for(episode)
        if episode.failure:
            raise RecorderError(episode.failure)
        return episode.bag.path

    def _why_none(self) -> str:
        """Why the last episode ended, where nobody asked for that."""
        if (last := self._last) is None or last.ending == STOPPED:
            return ""
        return f"; the last one: {last.failure or f'{last.bag.path}: {last.ending}'}"

    def label(self, verdict: Verdict) -> Path:
        """Puts a label on the present episode, or on the last one; returns its bag.

        One that is being closed is waited for: what is known of it may be on the disk already.

        Raises:
            RecorderError: there is none, or it did not get to its end.
            OSError, BagError: it cannot be written.
        """
        episode = self._last_episode()
        with self._lock:
            labelled = episode.info.with_verdict(verdict)
            if episode is self._episode and not episode.ending:
                episode.info = labelled
                return episode.bag.path
        self._wait_for(episode)
        add_verdict(episode.bag.path, verdict)
        return episode.bag.path

    def discard(self, now_ns: int) -> Path:
        """Deletes the present episode, or the last one; raises RecorderError if there is none."""
        episode = self._last_episode()
        with self._lock:
            running = episode is self._episode and not episode.ending
        if running:
            return self.stop(None, now_ns, discard=True)
        self._wait_for(episode)
        shutil.rmtree(episode.bag.path)
        self._last = None
        return episode.bag.path

    def _wait_for(self, episode: RecordedEpisode) -> None:
        """Until an episode that has ended is on the disk."""
        if not episode.done.wait(CLOSE_TIMEOUT_S):
            raise RecorderError(f"{episode.bag.path}: not closed within {CLOSE_TIMEOUT_S:g} s")

    def _last_episode(self) -> RecordedEpisode:
        if self._last is None:
            raise RecorderError("no episode has been recorded yet")
        return self._last

    def state(self) -> RecorderState:
        """What it is doing now."""
        with self._lock:
            episode, running = self._last, self._episode is not None
            if episode is None:
                return RecorderState(False, None, 0.0, 0, self._queued_bytes, {})
            seconds = time.monotonic() - episode.started_s if running else 0.0
            written, counts = episode.bag.bytes_written, episode.counts()
            closing = running and bool(episode.ending)
            return RecorderState(
                running, episode.bag.path, seconds, written, self._queued_bytes, counts, closing
            )

    def close(self, now_ns: int) -> None:
        """Ends an episode that is being recorded, and the thread.

        Raises:
            RecorderError: the episode did not get to its end; the thread ends all the same.
        """
        try:
            if self._episode is not None:
                self.stop(None, now_ns)
        finally:
            self._closing = True
            self._wake.set()
            self._thread.join(CLOSE_TIMEOUT_S)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._directory).free

    # In the writing thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        flushed_s = time.monotonic()
        while not self._closing:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            episode = self._episode
            if episode is None:
                continue
            try:
                flushed_s = self._work(episode, flushed_s)
            except Exception as error:  # a thread that ended here would record nothing any more
                kind = "" if isinstance(error, OSError | WriterError) else f"{type(error).__name__}: "
                self._fail(episode, f"{episode.bag.path}: the recording broke off: {kind}{error}")

    def _work(self, episode: RecordedEpisode, flushed_s: float) -> float:
        """Writes what waits, and ends the episode where it ends. Returns when it was last flushed [s]."""
        with self._lock:
            batch, ended = [], False
            while self._queue and not ended:
                item = self._queue.popleft()
                ended = isinstance(item, RecordedEpisode)
                batch += [item] if isinstance(item, Item) else []
        for item in batch:
            self._write(episode, item)
            with self._lock:
                self._queued_bytes -= len(item.data)
            flushed_s = self._flush(episode, flushed_s)
        if ended:
            self._finish(episode)
            return flushed_s
        return self._flush(episode, flushed_s)

    def _write(self, episode: RecordedEpisode, item: Item) -> None:
        topic, data = item.topic, item.data
        try:
            if self._transform is not None:
                topic, data = self._transform(topic, data)
            episode.bag.write(topic, item.log_ns, data)
        except ValueError as error:
            # Received and not written: the counts say so, and the sentence why.
            self._tell(f"{item.topic.name}: not recorded: {error}")
            return
        with self._lock:
            episode.counter(item.topic.name).written += 1

    def _flush(self, episode: RecordedEpisode, flushed_s: float) -> float:
        """Flushes if it is time; returns when it was last done [s]."""
        now_s = time.monotonic()
        if now_s - flushed_s < self._settings.flush_s:
            return flushed_s
        episode.bag.flush()
        free = self._free_bytes()
        if free < self._settings.min_free_bytes and not episode.ending:
            reason = f"the disk is nearly full: {free / 2**20:.0f} MiB are free"
            self._tell(f"{episode.bag.path}: the episode is ended: {reason}")
            self._end(episode, reason, time.time_ns())
        return now_s

    def _end(self, episode: RecordedEpisode, reason: str, now_ns: int) -> None:
        """What has come until now belongs to the episode, and nothing after it."""
        with self._lock:
            if not episode.ending:
                episode.ending, episode.ended_ns = reason, now_ns
                self._queue.append(episode)
        self._wake.set()

    def _finish(self, episode: RecordedEpisode) -> None:
        with self._lock:
            episode.info = dataclasses.replace(
                episode.info, ended_ns=episode.ended_ns, ended=episode.ending, counts=episode.counts()
            )
        if episode.discard:
            episode.bag.abort()
            shutil.rmtree(episode.bag.path)
            self._last = None
        else:
            episode.bag.close(episode.info.to_json())
        with self._lock:
            self._episode = None
        episode.done.set()

    def _fail(self, episode: RecordedEpisode, failure: str) -> None:
        """What is on the disk stays, as after a power cut."""
        episode.bag.abort()
        with self._lock:
            self._episode = None
            self._queue.clear()
            self._queued_bytes = 0
        episode.failure = failure
        episode.done.set()
        self._tell(failure)
