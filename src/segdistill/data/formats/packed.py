"""Keeps the annotations of many images, which one file holds, so that loader processes share them."""

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

from segdistill.data.masks import NAME


class PackedEntries:
    """An entry for each sample, looked up by its id.

    They are bytes, sorted by id, and not a dictionary of objects: forked loader workers would copy that page
    by page. Pickling takes a fifth of JSON's time, and is safe: the bytes never leave these processes.

    Args:
        ids: of the samples, each once.
        entries: one for each of them.
    """

    def __init__(self, ids: list[str], entries: Iterable[Any]) -> None:
        packed = [pickle.dumps(entry) for entry in entries]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.ids = np.array([ids[number] for number in order], dtype=NAME)
        self.packed = b"".join(packed[number] for number in order)
        self.ends = np.cumsum([0, *(len(packed[number]) for number in order)])

    def __getitem__(self, sample_id: str) -> Any:
        row = int(self.ids.searchsorted(sample_id))
        return pickle.loads(self.packed[self.ends[row] : self.ends[row + 1]])
