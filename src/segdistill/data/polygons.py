"""Draws annotated regions, polygons, bitmaps and run lengths, into masks of class indices.

pycocotools rasterises the polygons of COCO, YOLO and Label Studio; PIL those of labelme and Supervisely.

H, W: rows and columns of the image. A region's runs are COCO's: how many pixels, column by column, it
leaves out, covers, leaves out, ...; they add up to H * W.
"""

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segdistill.data.labels import VOID
from segdistill.data.masks import Mask

FAR = 1
"""How far outside the image a polygon may reach, in lengths of its longer side."""
# In the compressed form a number has characters from P to o while it goes on, and ends with one from 0 to O.
COMPRESSED = re.compile(r"(?:[P-o]{0,5}[0-O])+")

Runs = NDArray[np.int64]
Region = NDArray[np.bool_]
Points = list[tuple[float, float]]


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
    require_coordinates(chain.from_iterable(polygons), size)
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has an odd number of coordinates, but each point has two")
    areal = [polygon for polygon in polygons if len(polygon) >= 6]
    if not areal:
        return None
    rasteriser = load_rasteriser()
    return read_counts(rasteriser.merge(rasteriser.frPyObjects(areal, *size))["counts"])


def require_coordinates(values: Iterable[Any], size: tuple[int, int]) -> None:
    """Refuse what is no number, or far outside an image of `size` (H, W).

    Raises:
        ValueError: there is such a coordinate.
    """
    reach = max(size)
    for value in values:
        if not isinstance(value, int | float):
            raise ValueError(f"a polygon has the coordinate {str(value)[:50]!r}, which is no number")
        if not -FAR * reach <= value <= (1 + FAR) * reach:  # neither is nan
            raise ValueError(
                f"a polygon has the coordinate {str(value)[:50]}, far outside the image of "
                f"{size[1]}x{size[0]} pixels"
            )


def read_points(points: Any, size: tuple[int, int], least: int = 3) -> Points:
    """The points [[x, y], ...] of a shape, in pixels.

    Args:
        points: as a file has them.
        size: H, W.
        least: how many there must be.

    Raises:
        ValueError: they are of another form, too few, or far outside the image.
    """
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise ValueError("`points` is not a list of [x, y]")
    if len(points) < least:
        raise ValueError(f"it has {len(points)} points, but must have {least} or more")
    require_coordinates(chain.from_iterable(points), size)
    return [(x, y) for x, y in points]


def fill_polygon(points: Points, size: tuple[int, int]) -> Region:
    """A polygon of corners x, y, in pixels, as PIL fills it; the size is H, W."""
    region = Image.new("1", size[::-1])
    ImageDraw.Draw(region).polygon(points, fill=1)
    return np.array(region)


def fill_with_border(points: Points, holes: list[Points], size: tuple[int, int]) -> Region:
    """A polygon with all pixels that its border touches, without its holes and those of their borders.

    Args:
        points: x, y of each corner, in pixels.
        holes: the same for each hole.
        size: H, W.
    """
    region = Image.new("1", size[::-1])
    draw_on = ImageDraw.Draw(region)
    for polygon, value in [(points, 1), *((hole, 0) for hole in holes)]:
        draw_on.polygon(polygon, fill=value)
        draw_on.line([*polygon, polygon[0]], fill=value)
    return np.array(region)


def fill_circle(centre: tuple[float, float], radius: float, size: tuple[int, int]) -> Region:
    """A circle around x, y as PIL fills it; all in pixels, the size is H, W."""
    region = Image.new("1", size[::-1])
    (x, y), r = centre, radius
    ImageDraw.Draw(region).ellipse((x - r, y - r, x + r, y + r), fill=1)
    return np.array(region)


def place_bitmap(bitmap: Region, x: int, y: int, size: tuple[int, int]) -> Region:
    """A bitmap (h x w) whose upper left pixel is (x, y), in an image of `size` (H, W).

    Raises:
        ValueError: it reaches beyond the image.
    """
    height, width = bitmap.shape
    if x < 0 or y < 0 or y + height > size[0] or x + width > size[1]:
        raise ValueError(
            f"a bitmap of {width}x{height} pixels at (x, y) = ({x}, {y}) reaches beyond the image of "
            f"{size[1]}x{size[0]} pixels"
        )
    region = np.zeros(size, bool)
    region[y : y + height, x : x + width] = bitmap
    return region


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


def runs_to_region(runs: Runs, size: tuple[int, int]) -> Region:
    """The pixels (H x W) of runs in an image of `size` (H, W)."""
    covered = np.arange(len(runs)) % 2 == 1
    return np.repeat(covered, runs).reshape(size[::-1]).T


def overlay(regions: Iterable[tuple[int, Region]], size: tuple[int, int]) -> Mask:
    """The mask (H x W uint8) of regions in the order in which they were drawn: a later one lies on top.

    Args:
        regions: class index, or `VOID`, and pixels of each.
        size: H, W.
    """
    mask = np.zeros(size, np.uint8)
    for index, region in regions:
        mask[region] = index
    return mask
