"""The shards of a cache: written by one run at a time, and let go of also where loaders were forked."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from filelock import FileLock, Timeout

from segdistill.data.cache.store import LOCK, ShardStore, ShardWriter

pytestmark = pytest.mark.unit
LINE = np.dtype([("key", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])


@dataclass(frozen=True)
class Form:
    layout: int = 1


class Store(ShardStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root, Form(), LINE)

    def length(self, record: np.void) -> int:
        return int(record["length"])

    def writer(self, rank: int = 0) -> ShardWriter:
        return ShardWriter(self.shard(rank), LINE)

    def read(self, key: int) -> list[bytes | None]:
        return [None if found is None else found.tobytes() for found in map(self.data, self.rows(key))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def is_locked(store: Store) -> bool:
    """Whether another process could not write the first shard."""
    lock = FileLock(store.shard(0).with_suffix(LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def test_a_second_run_waits_until_the_first_has_written(store: Store) -> None:
    def write() -> None:
        with store.writer() as second:
            second.append(2, (3,), b"two")

    with store.writer() as first:
        thread = Thread(target=write)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        first.append(1, (3,), b"one")
    thread.join(10)
    store.reload()
    assert [store.read(key) for key in (1, 2)] == [[b"one"], [b"two"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forked loaders here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_forked_loader_does_not_keep_the_lock(store: Store) -> None:
    ready, go = os.pipe(), os.pipe()
    with store.writer():
        child = os.fork()
        if not child:  # lives on, as a loader does, until it is told to end
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        assert is_locked(store)
    try:
        assert not is_locked(store)
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forked loaders here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_killed_run_leaves_no_lock_with_its_loaders(store: Store) -> None:
    ready = os.pipe()
    parent = os.fork()
    if not parent:
        with store.writer():
            loader = os.fork()
            if not loader:
                os.write(ready[1], f"{os.getpid():10}".encode())
                while True:
                    os.read(os.pipe()[0], 1)
            os.waitpid(loader, 0)
        os._exit(0)
    loader = int(os.read(ready[0], 10))
    try:
        assert is_locked(store)
        os.kill(parent, 9)
        os.waitpid(parent, 0)
        assert not is_locked(store)
    finally:
        os.kill(loader, 9)


def test_a_store_is_handed_to_a_process_without_its_maps(store: Store) -> None:
    with store.writer() as writer:
        writer.append(1, (3,), b"one")
    store.reload()
    assert store.read(1) == [b"one"]
    again = pickle.loads(pickle.dumps(store))
    assert not again._maps
    assert again.read(1) == [b"one"]
    assert store.bytes == 3
