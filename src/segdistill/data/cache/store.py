"""Byte strings by key in a folder of part files: written by several processes, read by any number."""

import fcntl
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segdistill.files import write_atomic

INDEX = "index.json"

Bytes = NDArray[np.uint8]


class ShardStore(ABC):
    """Records of many keys in one folder.

    Each process appends to a part of its own: the data to `part-N.bin`, then a line to `part-N.idx` that
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
        self.parts = sorted(self.folder.glob("part-*.bin"))
        found, size = [], self.line.itemsize
        for number, part in enumerate(self.parts):
            raw = part.with_suffix(".idx").read_bytes() if part.with_suffix(".idx").is_file() else b""
            records = np.frombuffer(raw[: len(raw) // size * size], self.line)
            found.append((np.full(len(records), number), records))
        part_of = np.concatenate([numbers for numbers, _ in found]) if found else np.empty(0, np.int64)
        records = np.concatenate([records for _, records in found]) if found else np.empty(0, self.line)
        order = np.argsort(records["key"], kind="stable")
        self.records, self.part_of = records[order], part_of[order]
        self._maps: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self.records)

    def holds(self, key: int) -> bool:
        """Whether there is whole data of `key`."""
        return any(self.data(row) is not None for row in self.rows(key))

    def rows(self, key: int) -> range:
        """Where the records of a key are; several where a first one was torn."""
        keys = self.records["key"]
        return range(*(int(np.searchsorted(keys, np.uint64(key), side)) for side in ("left", "right")))

    def data(self, row: int) -> Bytes | None:
        """A copy of the bytes of a record; None where they are torn or their checksum is wrong."""
        part, record = int(self.part_of[row]), self.records[row]
        if part not in self._maps:
            empty = self.parts[part].stat().st_size == 0  # cannot be mapped
            self._maps[part] = np.empty(0, np.uint8) if empty else np.memmap(self.parts[part], np.uint8, "r")
        length, offset = self.length(record), int(record["offset"])
        data = np.array(self._maps[part][offset : offset + length])
        return data if len(data) == length and zlib.crc32(data.data) == record["crc"] else None

    def part(self, rank: int) -> Path:
        """The part that process `rank` appends to, in a folder that is there; two must not have the same."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            text = json.dumps(json.loads(self.description), indent=2) + "\n"
            write_atomic(self.folder / INDEX, text)
        return self.folder / f"part-{rank:05d}.bin"

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers open the files themselves."""
        return self.__dict__ | {"_maps": {}}


class ShardWriter:
    """Appends to one part; a context manager. A second run that would write the same part waits for it.

    Args:
        path: the part.
        line: type of a line of its index.
    """

    def __init__(self, path: Path, line: np.dtype[Any]) -> None:
        self.line = line
        self.file = path.open("ab")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.file.seek(0, 2)  # what another run wrote while this one waited
        index = path.with_suffix(".idx")
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
        self.file.close()
        self.index.close()
