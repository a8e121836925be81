"""Byte strings by key in a folder of shards: written by several processes, read by any number."""

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from segdistill.files import write_atomic

FORMAT_FILE = "index.json"
"""What the folder holds, for people: the format."""
DATA, INDEX, LOCK = ".bin", ".idx", ".lock"
"""Suffixes of a shard's files."""

Bytes = NDArray[np.uint8]


class ShardStore(ABC):
    """Records of many keys in one folder.

    Each process appends to a shard of its own: the data to `shard-N.bin`, then a line to `shard-N.idx` that
    points to it. What a process that died left half written is not in an index, or fails its checksum, and
    counts as absent. Reading maps the files into memory, so that all processes share their pages.

    Args:
        root: holds one folder per format, so that what differs in anything never mixes.
        form: a dataclass with everything that decides the bytes.
        line: type of a line of the index, with the fields `key`, `offset` and `crc` at least.
    """

    def __init__(self, root: Path, form: Any, line: np.dtype[Any]) -> None:
        self.description = json.dumps(asdict(form), sort_keys=True)
        self.folder = root / hashlib.sha256(self.description.encode()).hexdigest()[:16]
        self.line = line
        self.reload()

    @abstractmethod
    def length(self, record: Any) -> int:
        """Bytes of the data that a line of the index points to."""

    def reload(self) -> None:
        """Read the indexes again, after other processes have written."""
        self.shards = sorted(self.folder.glob(f"shard-*{DATA}"))
        found = [read_index(shard, self.line) for shard in self.shards]
        numbers = [np.full(len(records), number) for number, records in enumerate(found)]
        records = np.concatenate(found) if found else np.empty(0, self.line)
        order = np.argsort(records["key"], kind="stable")
        self.records = records[order]
        self.shard_of = (np.concatenate(numbers) if found else np.empty(0, np.int64))[order]
        self._maps: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self.records)

    @property
    def bytes(self) -> int:
        """Length of all shards together."""
        return sum(shard.stat().st_size for shard in self.shards)

    def holds(self, key: int) -> bool:
        """Whether there is whole data of `key`."""
        return any(self.data(row) is not None for row in self.rows(key))

    def rows(self, key: int) -> range:
        """Where the records of a key are; several where a first one was torn."""
        keys = self.records["key"]
        return range(*(int(np.searchsorted(keys, np.uint64(key), side)) for side in ("left", "right")))

    def data(self, row: int) -> Bytes | None:
        """A copy of the bytes of a record; None where they are torn or their checksum is wrong."""
        number, record = int(self.shard_of[row]), self.records[row]
        if number not in self._maps:
            shard = self.shards[number]
            empty = shard.stat().st_size == 0  # cannot be mapped
            self._maps[number] = np.empty(0, np.uint8) if empty else np.memmap(shard, np.uint8, "r")
        length, offset = self.length(record), int(record["offset"])
        data = np.array(self._maps[number][offset : offset + length])
        return data if len(data) == length and zlib.crc32(data.data) == record["crc"] else None

    def shard(self, rank: int) -> Path:
        """The shard that process `rank` appends to, in a folder that is there; two must not have the same."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            text = json.dumps(json.loads(self.description), indent=2) + "\n"
            write_atomic(self.folder / FORMAT_FILE, text)
        return self.folder / f"shard-{rank:05d}{DATA}"

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers map the files themselves."""
        return self.__dict__ | {"_maps": {}}


def read_index(shard: Path, line: np.dtype[Any]) -> NDArray[Any]:
    """The whole lines of a shard's index; none where it has no index yet."""
    index = shard.with_suffix(INDEX)
    raw = index.read_bytes() if index.is_file() else b""
    return np.frombuffer(raw[: len(raw) // line.itemsize * line.itemsize], line)


class ShardWriter:
    """Appends to one shard; a context manager. A second run that would write the same shard waits for it.

    The lock is a file of its own beside the shard. It is let go of when the writer is closed and when its
    process ends, also where loader processes that were forked meanwhile go on.

    Args:
        path: the shard.
        line: type of a line of its index.
    """

    def __init__(self, path: Path, line: np.dtype[Any]) -> None:
        self.line = line
        self.lock = FileLock(path.with_suffix(LOCK))
        self.lock.acquire()
        self.file = path.open("ab")
        self.file.seek(0, 2)
        index = path.with_suffix(INDEX)
        torn = index.stat().st_size % line.itemsize if index.is_file() else 0
        if torn:
            with index.open("r+b") as file:
                file.truncate(index.stat().st_size - torn)
        self.index = index.open("ab")

    def append(self, key: int, fields: tuple[int, ...], data: bytes | memoryview) -> None:
        """Append the data of `key`; `fields` are those of its line between `offset` and `crc`."""
        line = np.array([(key, self.file.tell(), *fields, zlib.crc32(data))], self.line)
        self.file.write(data)
        self.file.flush()  # before the line that points to it
        self.index.write(line.tobytes())
        self.index.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()
            self.index.close()
        finally:
            self.lock.release()
