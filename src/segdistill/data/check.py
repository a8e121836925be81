"""Reads a data set before training does: names each file it would stumble over, and counts the classes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import Samples

MOST_VOID = 0.5
"""Largest fraction of the labelled images' pixels that may be void without a warning."""
MOST_NAMES = 10
"""Classes that a warning names."""

Counts = NDArray[np.int64]


class Problem(NamedTuple):
    """What is wrong with one sample."""

    id: str
    reason: str


@dataclass
class Survey:
    """How often each class occurs in the masks that were counted."""

    labels: LabelSet
    """The K classes."""
    labelled: int
    """How many masks there are."""
    masks: int = 0
    """How many were counted."""
    pixels: Counts = field(default_factory=lambda: np.zeros(VOID + 1, np.int64))
    """Pixels of each index: 256, the first K of them the classes'."""
    images: Counts = field(default_factory=lambda: np.zeros(VOID + 1, np.int64))
    """Masks in which each index occurs: 256."""

    def add(self, counts: Counts) -> None:
        """Count one more mask, of which `counts` are the pixels of each index (256)."""
        self.masks += 1
        self.pixels += counts
        self.images += counts > 0

    @property
    def void(self) -> float:
        """Fraction of the masks' pixels that are void; 0 where there are none."""
        return float(self.pixels[VOID] / max(1, self.pixels.sum()))

    @property
    def warnings(self) -> list[str]:
        """What training would learn wrongly from these masks without a word: one line each."""
        found = []
        read = f"{self.masks:,} masks"
        if self.masks < self.labelled:
            read += f" that were read, of {self.labelled:,} (`segdistill data check` reads all)"
        absent = [name for index, name in enumerate(self.labels.names) if not self.images[index]]
        if absent and self.masks:
            names = ", ".join(absent[:MOST_NAMES])
            more = f" and {len(absent) - MOST_NAMES} more" if len(absent) > MOST_NAMES else ""
            found.append(
                f"no pixel of {names}{more} in the {read}: a class that does not occur cannot be learned, "
                "and its IoU is not counted"
            )
        if self.void > MOST_VOID:
            found.append(
                f"{self.void:.0%} of the pixels of the {read} are void (index {self.labels.void}) and teach "
                f"nothing: if {self.labels.void} is meant to be a class, give it the index of its name (0 to "
                f"{len(self.labels) - 1}) in the mask files"
            )
        return found


def survey(samples: Samples, most: int | None = None) -> Survey:
    """Count the classes in the masks of the labelled samples; several are read at once, images are not.

    Args:
        samples: labelled and unlabelled ones; the latter are left out.
        most: how many masks are read, evenly spaced; None for all.

    Raises:
        FileNotFoundError, ValueError: a mask cannot be read.
    """
    count = samples.labelled if most is None else min(most, samples.labelled)
    indices = np.linspace(0, samples.labelled - 1, count).round().astype(int).tolist()
    found = Survey(samples.labels, samples.labelled)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for counts in pool.map(lambda index: count_indices(samples.mask(index)), indices):
            found.add(counts)
    return found


def count_indices(mask: Tensor) -> Counts:
    """Pixels of each index, 0 to 255, of an H x W uint8 mask."""
    return torch.bincount(mask.flatten(), minlength=VOID + 1).numpy()


def check(samples: Samples, counted: Survey | None = None) -> Iterator[Problem | None]:
    """Read every sample, several at once; yields in order, None for a good one, a `Problem` for a bad one.

    A missing, unreadable or truncated file, an image and a mask of different sizes, a mask of colours instead
    of indices, and a label outside the label set are problems. Good masks are added to `counted`.
    """

    def one(index: int) -> Problem | Counts:
        try:
            return count_indices(samples[index].mask)
        except (ValueError, OSError) as error:
            return Problem(samples.files(index).id, str(error))

    with ThreadPoolExecutor(cpu_count()) as pool:
        for index, result in enumerate(pool.map(one, range(len(samples)))):
            if isinstance(result, Problem):
                yield result
                continue
            if counted is not None and index < samples.labelled:
                counted.add(result)
            yield None
