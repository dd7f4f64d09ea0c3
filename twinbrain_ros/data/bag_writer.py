"""Writes a rosbag2 directory (mcap) from serialized messages; a cut loses no more than the last moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter

from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.definitions import definition, type_hash

# The version of metadata.yaml that ROS 2 Iron and later read and write.
BAG_VERSION: Literal[9] = 9
# Where what is known of an episode is kept: in metadata.yaml's custom_data under this key and, until the bag
# is closed, in this file beside it.
INFO_KEY = "twinbrain"
UNFINISHED = "recording.json"
_FOREVER = QosTime(9223372036, 854775807)


def _qos(topic: Topic) -> Qos:
    """The offered quality of service, as a bag states it."""
    return Qos(
        QosHistory.KEEP_LAST,
        topic.depth,
        QosReliability.RELIABLE if topic.reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if topic.latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


@dataclass
class BagWriter:
    """One bag. Not thread-safe.

    Every `flush` ends an mcap chunk and waits until it is on the disk: what was written before it survives
    whatever happens to this process or to the machine.

    Args:
        path: of the bag, a directory that must not exist yet.
        info: what is known of the episode at its start.
    Raises:
        OSError, rosbags.rosbag2.WriterError: it cannot be made.
    """

    path: Path
    info: Mapping[str, Any]
    bytes_written: int = 0

    def __post_init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._pending = False
        ours = not self.path.exists()
        self._bag = Writer(self.path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        try:
            self._bag.open()
            _write_synced(self.path / UNFINISHED, json.dumps(self.info, indent=1))
            _sync_directory(self.path)
            _sync_directory(self.path.parent)
        except (OSError, WriterError):
            if ours:  # nothing is in it yet
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    @property
    def _storage(self) -> McapWriter:
        storage = self._bag.storage
        assert isinstance(storage, McapWriter)
        return storage

    def write(self, topic: Topic, log_ns: int, data: bytes) -> None:
        """Adds a message.

        Args:
            log_ns: when it was received [ns].
            data: serialized (CDR), as it came.
        Raises:
            DefinitionError: the topic's type is not installed; nothing is written.
            OSError: the disk does not take it.
        """
        connection = self._connections.get(topic.name)
        if connection is None:
            connection = self._bag.add_connection(
                topic.name,
                topic.type,
                msgdef=topic.definition or definition(topic.type),
                rihs01=type_hash(topic.type) or "unknown",
                offered_qos_profiles=[_qos(topic)],
            )
            self._connections[topic.name] = connection
        self._bag.write(connection, log_ns, data)
        self._pending = True
        self.bytes_written += len(data)

    def flush(self) -> None:
        """Puts everything so far on the disk.

        Raises:
            OSError: the disk does not take it, or the bag is no longer where it was made.
        """
        if not self._pending:
            return
        self._check_place()
        storage = self._storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()
        os.fsync(storage.bio.fileno())
        self._pending = False

    def _check_place(self) -> None:
        """A file that was removed or moved can still be written to, and nobody would ever find it."""
        file = self.path / f"{self.path.name}.mcap"
        found = file.stat() if file.exists() else None
        if found is None or not os.path.samestat(found, os.fstat(self._storage.bio.fileno())):
            raise FileNotFoundError(f"{file} was removed or moved, expected it where it was made")

    def close(self, info: Mapping[str, Any]) -> None:
        """Ends the bag: index and metadata.yaml.

        Args:
            info: what is known of the episode now, in place of what was at its start.
        Raises:
            OSError: the disk does not take it; what was flushed stays readable.
        """
        self.flush()
        self._bag.close()
        # rosbags' YAML breaks lines after a backslash, and some texts do not come back as they were.
        put_info(self.path / "metadata.yaml", info)
        _sync(self.path / f"{self.path.name}.mcap")
        _sync(self.path / "metadata.yaml")
        (self.path / UNFINISHED).unlink(missing_ok=True)
        _sync_directory(self.path)

    def abort(self) -> None:
        """Leaves the bag as it is, as a killed process would."""
        with suppress(OSError):
            self._bag.abort()


def put_info(file: Path, info: Mapping[str, Any]) -> None:
    """Puts this in place of what a metadata.yaml says of an episode.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    information = document["rosbag2_bagfile_information"]
    information["custom_data"] = {**(information.get("custom_data") or {}), INFO_KEY: json.dumps(info)}
    temporary = file.with_suffix(".yaml.new")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    temporary.replace(file)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
