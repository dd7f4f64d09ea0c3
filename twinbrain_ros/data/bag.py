"""Opens rosbag2 recordings: whole ones of any storage, and mcap files that were cut off."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, DataEnd, McapRecord, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap_ros2.decoder import DecoderFactory
from rosbags.interfaces import Connection, ConnectionExtRosbag2, QosDurability
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError

from twinbrain_ros.data.bag_writer import INFO_KEY, UNFINISHED, put_info
from twinbrain_ros.data.definitions import DefinitionError, definition
from twinbrain_ros.data.episode_info import EpisodeInfo, Verdict

METADATA, TRANSIENT_LOCAL = "metadata.yaml", "transient_local"
STORAGES = ("*.mcap", "*.db3")
# No record of ours is nearly as long; the length of a record that was torn may say anything.
LONGEST_RECORD = 2**31
# What reading a file that was cut or damaged can end with.
TORN = (McapError, struct.error, zlib.error, EOFError, ValueError, KeyError, OverflowError)


class BagError(ValueError):
    """A bag that cannot be read; the message names it, what was found and what was expected."""


class Message(NamedTuple):
    """A recorded message: its topic and type, when it was received [ns], and its serialized data."""

    topic: str
    type: str
    log_ns: int
    data: bytes


@dataclass(frozen=True)
class BagTopic:
    """What a bag says of a topic.

    Attributes:
        count: of its messages.
        definition: the type's text, "" if it is not in the bag.
        latched: whether it was offered to those who come late.
    """

    type: str
    count: int
    definition: str = ""
    latched: bool = False


@dataclass
class Bag:
    """A recording.

    Attributes:
        path: its directory, or its only file.
        topics: by name.
        info: what the recorder knew of the episode (`data/episode_info.py`); empty in bags of others.
        start_ns, end_ns: when the first and the last message were received; 0 in an empty bag.
        truncated: how it was cut off; "" if it was not.
    """

    path: Path
    topics: Mapping[str, BagTopic]
    info: Mapping[str, Any]
    start_ns: int
    end_ns: int
    truncated: str
    _read: Callable[[Collection[str]], Iterator[Message]]
    _decoders: dict[str, Callable[[bytes], Any]] = field(default_factory=dict)

    @cached_property
    def episode(self) -> EpisodeInfo:
        """`info`, read; raises InfoError where it cannot be."""
        return EpisodeInfo.from_json(self.info)

    @property
    def message_count(self) -> int:
        return sum(topic.count for topic in self.topics.values())

    def count(self, topic: str) -> int:
        """How many messages of a topic there are; 0 if it is not in the bag."""
        entry = self.topics.get(topic)
        return entry.count if entry else 0

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """The messages of these topics, or of all, in the order of receipt; in bounded memory.

        Raises:
            BagError: the file turns out to be damaged on the way.
        """
        wanted = self.topics.keys() if topics is None else set(topics) & self.topics.keys()
        try:
            yield from self._read(wanted)
        except (ReaderError, *TORN) as error:
            raise BagError(f"{self.path}: damaged: {error}") from error

    def decode(self, message: Message) -> Any:
        """The message with its fields as attributes, named as in ROS; arrays of bytes come as `bytes`.

        Raises:
            BagError: its type is known neither to the bag nor to this machine, or its data do not fit it.
        """
        try:
            return self._decoder(message.topic, message.type)(message.data)
        except (*TORN, IndexError, TypeError) as error:
            if isinstance(error, BagError):
                raise
            raise BagError(
                f"{message.topic}: {len(message.data)} bytes cannot be read as {message.type}: {error}"
            ) from error

    def _decoder(self, topic: str, kind: str) -> Callable[[bytes], Any]:
        if kind not in self._decoders:
            text = self.topics[topic].definition
            try:
                text = text or definition(kind)
            except DefinitionError as error:
                raise BagError(f"{topic}: unknown message type {kind}: {error}") from error
            try:
                decoder = DecoderFactory().decoder_for("cdr", Schema(1, text.encode(), "ros2msg", kind))
            except Exception as error:  # its parser raises many kinds at a damaged text
                raise BagError(f"{topic}: the definition of {kind} cannot be read: {error}") from error
            if decoder is None:
                raise BagError(f"{topic}: message type {kind} cannot be decoded")
            self._decoders[kind] = decoder
        return self._decoders[kind]


def is_bag(path: Path) -> bool:
    """Whether this is a recording: a storage file, or a directory that holds one or its metadata."""
    if path.is_file():
        return path.suffix in (".mcap", ".db3")
    return (path / METADATA).is_file() or any(any(path.glob(pattern)) for pattern in STORAGES)


def open_bag(path: str | Path) -> Bag:
    """Opens a recording; of one that was cut off, what is there.

    Raises:
        BagError: it is none, or nothing of it can be read.
        FileNotFoundError: there is nothing of this name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such bag")
    if not is_bag(path):
        raise BagError(f"{path}: found no {METADATA}, .mcap or .db3, expected a rosbag2 recording")
    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    torn = len(files) == 1 and files[0].suffix == ".mcap"
    if not path.is_file() and not (path / METADATA).is_file():
        if torn:
            return _open_torn(path, files[0])
        raise BagError(
            f"{path}: no {METADATA}, and {len(files)} .mcap files, expected one: `ros2 bag reindex` may help"
        )
    try:
        return _open_whole(path)
    except (ReaderError, *TORN) as error:
        # Not closed as it should be, whatever its metadata say: what is there is there.
        if torn:
            return _open_torn(path, files[0])
        raise BagError(f"{path}: {error}") from error


def _open_whole(path: Path) -> Bag:
    reader = Reader(path)
    reader.open()
    try:
        topics = {
            entry.topic: BagTopic(entry.msgtype, entry.msgcount, entry.msgdef.data, _latched(entry))
            for entry in reader.connections
        }
        custom = reader.storage.metadata.custom or {}
        info = _info(custom.get(INFO_KEY, "{}"))
        empty = not reader.message_count
        start_ns, end_ns = (0, 0) if empty else (reader.start_time, reader.end_time - 1)
    finally:
        reader.close()

    def read(wanted: Collection[str]) -> Iterator[Message]:
        with Reader(path) as opened:
            connections = [entry for entry in opened.connections if entry.topic in wanted]
            if not connections:
                return
            for connection, log_ns, data in opened.messages(connections=connections):
                yield Message(connection.topic, connection.msgtype, log_ns, bytes(data))

    return Bag(path, topics, info, start_ns, end_ns, "", read)


def _open_torn(path: Path, file: Path) -> Bag:
    """A file without metadata: read from its beginning to where it ends, or is torn."""
    counts: Counter[str] = Counter()
    start_ns, end_ns = 2**63, 0
    scan = Scan(file)
    for topic, _, message in scan:
        counts[topic] += 1
        start_ns, end_ns = min(start_ns, message.log_time), max(end_ns, message.log_time)
    if not scan.opened:
        raise BagError(f"{path}: nothing can be read: {scan.torn}")
    topics = {
        channel.topic: BagTopic(
            schema.name if schema else "",
            counts[channel.topic],
            schema.data.decode(errors="replace") if schema else "",
            TRANSIENT_LOCAL in channel.metadata.get("offered_qos_profiles", ""),
        )
        for channel, schema in scan.channels.values()
    }
    try:
        info = _info((path / UNFINISHED).read_text(encoding="utf-8"))
    except OSError:  # a bag of others, or one that is being closed at this moment
        info = {}
    start_ns = start_ns if counts else 0

    def read(wanted: Collection[str]) -> Iterator[Message]:
        for topic, kind, message in Scan(file):
            if topic in wanted:
                yield Message(topic, kind, message.log_time, message.data)

    return Bag(path, topics, info, start_ns, end_ns, scan.torn, read)


class Scan:
    """Messages of an mcap file in the order of the file, with topic and type.

    Attributes, once it has been gone through:
        opened: whether it is an mcap file at all.
        channels: by number, each with its schema.
        torn: how the file ends before its end; "" if it does not.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.opened = False
        self.channels: dict[int, tuple[Channel, Schema | None]] = {}
        self.torn = ""

    def __iter__(self) -> Iterator[tuple[str, str, McapMessage]]:
        schemas: dict[int, Schema] = {}
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                self.channels[record.id] = (record, schemas.get(record.schema_id))
            elif isinstance(record, McapMessage) and record.channel_id in self.channels:
                channel, schema = self.channels[record.channel_id]
                yield channel.topic, schema.name if schema else "", record

    def _records(self) -> Iterator[McapRecord]:
        size = self._file.stat().st_size
        with self._file.open("rb") as stream:
            good = 0
            reader = StreamReader(stream, emit_chunks=True, record_size_limit=min(size, LONGEST_RECORD))
            try:
                for record in reader.records:
                    self.opened, good = True, stream.tell()
                    if isinstance(record, DataEnd):
                        # What follows is index only; a file torn there has lost none of its messages.
                        continue
                    yield from breakup_chunk(record, True) if isinstance(record, Chunk) else (record,)
            except TORN as error:
                reason = f"{type(error).__name__} {error}".strip()
                self.torn = f"the last {size - good} of {size} bytes are not whole ({reason})"


def _latched(connection: Connection) -> bool:
    extension = connection.ext
    return isinstance(extension, ConnectionExtRosbag2) and any(
        entry.durability is QosDurability.TRANSIENT_LOCAL for entry in extension.offered_qos_profiles
    )


def _info(text: str) -> Mapping[str, Any]:
    """What the recorder wrote about the episode; a torn or foreign text is none."""
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def add_verdict(path: Path, verdict: Verdict) -> None:
    """Puts a label beside those that a bag has by now, in place of one of its source.

    Raises:
        BagError, InfoError, OSError: the bag cannot be read, was not closed, or cannot be written.
    """
    rewrite_info(path, open_bag(path).episode.with_verdict(verdict).to_json())


def rewrite_info(path: Path, info: Mapping[str, Any]) -> None:
    """Puts this in place of what is known of an episode, in metadata.yaml; the messages stay as they are.

    Raises:
        BagError: the bag was not closed: repair it first.
        OSError: it cannot be written; the old one stays.
    """
    file = path / METADATA
    if not file.is_file():
        raise BagError(f"{path}: found no {METADATA}: was it cut off? `twinbrain bag repair` mends it")
    put_info(file, info)
