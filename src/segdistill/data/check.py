"""Reads a data set before training does: names files it would stumble over, counts classes and objects."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segdistill.data.depth import FULL
from segdistill.data.duplicates import Fingerprint, fingerprint
from segdistill.data.images import undeclared_maximum
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import MOST_NAMES, Problem
from segdistill.data.objects import make_measure
from segdistill.data.samples import Samples

MOST_VOID = 0.5
"""Largest fraction of the labelled images' pixels that may be void without a warning."""

Counts = NDArray[np.int64]


class SmallObject(NamedTuple):
    """The smallest object of a class: pixels that touch each other."""

    pixels: int
    id: str
    """Of the sample that it is in."""


@dataclass
class Survey:
    """How often each class occurs in the masks that were counted."""

    labels: LabelSet
    """The K classes."""
    labelled: int
    """How many masks there are."""
    void_note: str = ""
    """What void is in the files, see `MaskReader.void`."""
    masks: int = 0
    """How many were counted."""
    pixels: Counts = field(default_factory=lambda: np.zeros(VOID + 1, np.int64))
    """Pixels of each index: 256, the first K of them the classes'."""
    images: Counts = field(default_factory=lambda: np.zeros(VOID + 1, np.int64))
    """Masks in which each index occurs: 256."""
    smallest: dict[int, SmallObject] = field(default_factory=dict)
    """The smallest object by index, where objects were looked for."""
    deep: int = 0
    """Images that were read of 16 bits per channel of which nothing says how many are used."""
    brightest: int = 0
    """The largest value of these."""

    @classmethod
    def of(cls, samples: Samples) -> "Survey":
        """One that nothing was counted in yet."""
        return cls(samples.labels, samples.labelled, samples.void)

    def add(self, counts: Counts) -> None:
        """Count one more mask, of which `counts` are the pixels of each index (256)."""
        self.masks += 1
        self.pixels += counts
        self.images += counts > 0

    def add_objects(self, name: str, smallest: Mapping[int, int]) -> None:
        """Compare the pixels of the smallest objects, by index, of the sample called `name`."""
        for index, pixels in smallest.items():
            if index not in self.smallest or pixels < self.smallest[index].pixels:
                self.smallest[index] = SmallObject(pixels, name)

    def add_maximum(self, value: int | None) -> None:
        """Compare the largest value of an image, see `undeclared_maximum`."""
        if value is not None:
            self.deep += 1
            self.brightest = max(self.brightest, value)

    @property
    def void(self) -> float:
        """Fraction of the masks' pixels that are void; 0 where there are none."""
        return float(self.pixels[VOID] / max(1, self.pixels.sum()))

    @property
    def record(self) -> dict[str, Any]:
        """JSON form: of all masks, the pixels of each class and of void, and in how many each class is."""
        names = self.labels.names
        total = max(1, int(self.pixels.sum()))
        found: dict[str, Any] = {
            "pixel_shares": {name: float(self.pixels[index] / total) for index, name in enumerate(names)},
            "image_counts": {name: int(self.images[index]) for index, name in enumerate(names)},
            "void_share": self.void,
        }
        if self.smallest:
            found["smallest_objects"] = {
                name: self.smallest[index]._asdict()
                for index, name in enumerate(names)
                if index in self.smallest
            }
        return found

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
            note = f" ({self.void_note})" if self.void_note else ""
            found.append(f"{self.void:.0%} of the pixels of the {read} are void and teach nothing{note}")
        if self.deep and self.brightest < 2 ** (FULL - 1):
            bits = max(9, self.brightest.bit_length())
            found.append(
                f"the brightest of {self.deep:,} images with 16 bits per channel is {self.brightest:,} of "
                f"{2**FULL - 1:,}, so that all are dark: if they were taken with fewer bits, say "
                f"`bits: {bits}` in dataset.yaml"
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
    found = Survey.of(samples)
    for counts in count_masks(samples, indices):
        found.add(counts)
    return found


def count_masks(samples: Samples, indices: Iterable[int]) -> Iterator[Counts]:
    """Pixels of each index in the masks of some samples, in their order; several are read at once.

    Raises:
        FileNotFoundError, ValueError: a mask cannot be read.
    """
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from pool.map(lambda index: count_indices(samples.mask(index)), indices)


def count_indices(mask: Tensor) -> Counts:
    """Pixels of each index, 0 to 255, of an H x W uint8 mask."""
    return np.bincount(mask.numpy().ravel(), minlength=VOID + 1)


class Inspected(NamedTuple):
    """What a good sample was found to hold."""

    counts: Counts
    smallest: Mapping[int, int]
    fingerprint: Fingerprint | None
    maximum: int | None
    """See `undeclared_maximum`."""


def check(
    samples: Samples, counted: Survey | None = None, fingerprints: list[Fingerprint] | None = None
) -> Iterator[Problem | None]:
    """Read every sample, several at once; yields in order, None for a good one, a `Problem` for a bad one.

    A missing, unreadable or truncated file, an image and a mask of different sizes, a mask of colours instead
    of indices, and a label outside the label set are problems.

    Args:
        samples: labelled or not.
        counted: gets the good masks, their objects where scipy is installed, and the images' largest values.
        fingerprints: gets those of the good images.
    """
    measure = None if counted is None else make_measure()

    def one(index: int) -> Problem | Inspected:
        files = samples.files(index)
        try:
            sample = samples[index]
            asked = counted is not None and files.bits is None
            maximum = undeclared_maximum(files.image) if asked else None
        except (ValueError, OSError) as error:
            return Problem(files.id, str(error))
        taken = None if fingerprints is None else fingerprint(files.id, str(files.image), sample.image)
        objects = measure(sample.mask.numpy()) if measure and index < samples.labelled else {}
        return Inspected(count_indices(sample.mask), objects, taken, maximum)

    with ThreadPoolExecutor(cpu_count()) as pool:
        for index, result in enumerate(pool.map(one, range(len(samples)))):
            if isinstance(result, Problem):
                yield result
                continue
            if counted is not None:
                counted.add_maximum(result.maximum)
                if index < samples.labelled:
                    counted.add(result.counts)
                    counted.add_objects(samples.files(index).id, result.smallest)
            if fingerprints is not None and result.fingerprint is not None:
                fingerprints.append(result.fingerprint)
            yield None
