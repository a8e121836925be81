"""Reads every pair of a data set and names each file that training would stumble over."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import NamedTuple

from segdistill.data.samples import FileSamples


class Problem(NamedTuple):
    """What is wrong with one sample."""

    id: str
    reason: str


def check(dataset: FileSamples) -> Iterator[Problem | None]:
    """Read every sample, several at once; yields in order, None for a good one, a `Problem` for a bad one.

    A missing, unreadable or truncated file, an image and a mask of different sizes, a mask of colours instead
    of indices, and a label outside the label set are problems.
    """

    def one(index: int) -> Problem | None:
        try:
            dataset[index]
        except (ValueError, OSError) as error:
            return Problem(str(dataset.ids[index]), str(error))
        return None

    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(one, range(len(dataset)))
