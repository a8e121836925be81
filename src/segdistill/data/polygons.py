"""Draws annotated regions, polygons and run lengths, into masks of class indices; pycocotools rasterises.

H, W: rows and columns of the image. A region's runs are how many pixels, column by column, are outside,
inside, outside, ... of it; they add up to H * W.
"""

import re
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.labels import VOID
from segdistill.data.masks import Mask

FAR = 1
"""How far outside the image a polygon may reach, in lengths of its longer side."""
# In the compressed form a number has characters from P to o while it goes on, and ends with one from 0 to O.
COMPRESSED = re.compile(r"(?:[P-o]{0,5}[0-O])+")

Runs = NDArray[np.int64]


def load_rasteriser() -> Any:
    """The module that rasterises.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise ValueError("polygons need pycocotools: install segdistill[formats]") from None
    return mask


def polygon_runs(polygons: Any, size: tuple[int, int]) -> Runs | None:
    """The union of polygons [x1, y1, x2, y2, ...], in pixels; None where none has three points.

    Args:
        polygons: a list of them.
        size: H, W.

    Raises:
        ValueError: a coordinate is missing, is no number, or is far outside the image.
    """
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("a polygon is not a list of coordinates")
    reach = max(size)
    for value in chain.from_iterable(polygons):
        if not isinstance(value, int | float):
            raise ValueError(f"a polygon has the coordinate {str(value)[:50]!r}, which is no number")
        if not -FAR * reach <= value <= (1 + FAR) * reach:  # neither is nan
            raise ValueError(
                f"a polygon has the coordinate {str(value)[:50]}, far outside the image of "
                f"{size[1]}x{size[0]} pixels"
            )
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has an odd number of coordinates, but each point has two")
    areal = [polygon for polygon in polygons if len(polygon) >= 6]
    if not areal:
        return None
    rasteriser = load_rasteriser()
    return read_counts(rasteriser.merge(rasteriser.frPyObjects(areal, *size))["counts"])


def stored_runs(stored: dict[str, Any], size: tuple[int, int]) -> Runs:
    """Run lengths as COCO stores them, compressed or not.

    Args:
        stored: `size` (H, W) and `counts`: a list, or a string in the compressed form.
        size: H, W.

    Raises:
        ValueError: they are of another size or damaged.
    """
    if stored.get("size") != list(size):
        raise ValueError(
            f"run lengths are for a size (H, W) of {str(stored.get('size'))[:50]}, but the image's is "
            f"{list(size)}"
        )
    counts, most = stored.get("counts"), size[0] * size[1]
    if isinstance(counts, str) and COMPRESSED.fullmatch(counts):
        runs = read_counts(counts.encode())
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count <= most for count in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError(
            "run lengths are damaged: `counts` is neither whole numbers nor their compressed form"
        )
    if runs.min(initial=0) < 0 or runs.sum() != most:
        raise ValueError(f"run lengths are damaged: they do not add up to {most:,} pixels")
    return runs


def read_counts(compressed: bytes) -> Runs:
    """The run lengths of a string in the compressed form of COCO.

    A number has five bits in each character, the lowest first, the last one's highest is the sign. From the
    fourth on it is the difference to the number two before it.
    """
    bits = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    last = bits & 32 == 0
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    places = np.arange(len(bits)) - np.repeat(starts, np.diff(np.r_[starts, len(bits)]))
    counts = np.add.reduceat((bits & 31) << 5 * places, starts)
    counts -= np.where(bits[last] & 16, 32 << 5 * places[last], 0)
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts


def draw(regions: list[tuple[int, Runs]], size: tuple[int, int]) -> Mask:
    """The mask (H x W uint8) of regions, 0 outside all of them.

    A smaller region lies on top of a larger one, of equal ones the later on top; void ones lie below all.

    Args:
        regions: class index, or `VOID`, and runs of each.
        size: H, W.
    """
    columns = np.zeros(size[0] * size[1], np.uint8)
    for index, runs in sorted(regions, key=lambda region: (region[0] != VOID, -region[1][1::2].sum())):
        ends = runs.cumsum()
        for start, end in zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=True):
            columns[start:end] = index
    return np.ascontiguousarray(columns.reshape(size[::-1]).T)
