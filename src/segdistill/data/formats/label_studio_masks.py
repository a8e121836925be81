"""Draws the regions of Label Studio: brush strokes, polygons and rectangles."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segdistill.data.formats.packed import PackedEntries
from segdistill.data.images import read_bitmap
from segdistill.data.labels import class_name
from segdistill.data.masks import Mask, MaskReader, SampleFiles, drawn_size, require_size
from segdistill.data.polygons import Region, load_rasteriser, overlay, polygon_runs, runs_to_region

REGION_LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
"""Keys of a region's value that list its classes."""
SHAPE_KEYS = {"rle", "points", "width", "radiusX"}
"""Keys of a region's value of which one says that it has a shape."""


class Layer(NamedTuple):
    """Brush strokes of one class in a PNG file: a type of its own, which no JSON file can hold."""

    label: str
    path: Path


Annotation = dict[str, Any] | Layer
"""A region as the JSON file has it, or a PNG file of brush strokes."""


class LabelStudioMasks(MaskReader):
    """Masks that are drawn from regions when they are read, the later ones on top.

    Args:
        names: of the classes.
        ids: of the samples.
        regions: of each of them.

    Raises:
        ValueError: there are polygons, and pycocotools is not installed.
    """

    def __init__(self, names: Sequence[str], ids: list[str], regions: Sequence[Sequence[Annotation]]) -> None:
        self.indices = {name: index for index, name in enumerate(names)}
        self.form = f"label studio {list(names)}"
        packed = [pack(one) for one in regions]
        if any(not isinstance(one, Layer) and "rle" not in one["value"] for entry in packed for one in entry):
            load_rasteriser()  # for polygons: missing now rather than in the middle of a training
        self.entries = PackedEntries(ids, packed)

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The regions of an image; where there is none it is background."""
        assert files.mask is not None
        height, width = drawn_size(files, size)
        return overlay(self.regions(files, (height, width)), (height, width))

    def regions(self, files: SampleFiles, size: tuple[int, int]) -> Iterator[tuple[int, Region]]:
        """Class index and pixels of each region of an image of `size` (H, W)."""
        for number, one in enumerate(self.entries[files.id], start=1):
            known = number if isinstance(one, Layer) else one.get("id", number)
            where = f"{files.mask}: region {known} of {files.image.name}"
            name = region_label(one)
            if name is None:
                raise ValueError(f"{where} has no class, or several")
            if name not in self.indices:
                raise ValueError(
                    f"{where} has the class {name[:100]!r}, but the classes are {', '.join(self.indices)}: "
                    "add it to `names`"
                )
            try:
                yield self.indices[name], draw_region(one, size)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None


def pack(regions: Sequence[Annotation]) -> list[Annotation]:
    """Regions without what is not drawn, and with brush strokes as bytes instead of lists of numbers."""
    packed: list[Annotation] = []
    for one in regions:
        if isinstance(one, Layer):
            packed.append(one)
            continue
        value = one.get("value")
        if not (isinstance(value, dict) and value.keys() & SHAPE_KEYS):
            continue  # a choice, a text, a relation
        if is_bytes(value.get("rle")):
            one = {**one, "value": {**value, "rle": bytes(value["rle"])}}
        packed.append(one)
    return packed


def is_bytes(value: Any) -> bool:
    """Whether a list of a JSON file holds bytes, and nothing else."""
    return isinstance(value, list) and all(type(one) is int and 0 <= one <= 255 for one in value)


def region_label(region: Annotation) -> str | None:
    """The class of a region; None where it has none or several."""
    if isinstance(region, Layer):
        return region.label
    value = region.get("value")
    value = value if isinstance(value, dict) else {}
    labels: list[Any] = next((value[key] for key in REGION_LABELS if isinstance(value.get(key), list)), [])
    return class_name(labels[0]) if len(labels) == 1 else None


def draw_region(region: Annotation, size: tuple[int, int]) -> Region:
    """The pixels of a region in an image of `size` (H, W).

    Raises:
        ValueError: it is damaged, turned, for another size, or has a shape that cannot be drawn.
    """
    if isinstance(region, Layer):
        pixels = read_bitmap(region.path)
        require_size(region.path, pixels.shape, size)
        return pixels
    stored = (region.get("original_height"), region.get("original_width"))
    if stored != size:
        raise ValueError(
            f"it is for an image of {stored[1]}x{stored[0]} pixels, but this one is {size[1]}x{size[0]}"
        )
    if region.get("image_rotation"):
        raise ValueError(
            f"the image was turned by {region['image_rotation']} degrees in Label Studio: turn its file"
        )
    value = region["value"]
    if "rle" in value:
        return decode_brush(value["rle"], size)
    if "points" in value:
        points = value["points"]
    elif "radiusX" in value:
        raise ValueError("it is an ellipse: draw a polygon or use the brush")
    else:
        points = rectangle_points(value, size)
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise ValueError("`points` is not a list of [x, y]")
    # Percent of width and height.
    flat = [scaled(one, side) for point in points for one, side in zip(point, size[::-1], strict=True)]
    runs = polygon_runs([flat], size)
    if runs is None:
        raise ValueError(f"a polygon has {len(points)} points, but must have 3 or more")
    return runs_to_region(runs, size)


def scaled(percent: Any, side: int) -> Any:
    """Percent of a side as pixels; what is no number stays as it is, for the polygon's own error."""
    return percent / 100 * side if isinstance(percent, int | float) else percent


def rectangle_points(value: dict[str, Any], size: tuple[int, int]) -> list[list[float]]:
    """The corners of a rectangle, turned clockwise around the first, in percent of width and height (H, W).

    Raises:
        ValueError: a side is missing.
    """
    numbers: list[Any] = [value.get(key, 0) for key in ("x", "y", "width", "height", "rotation")]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("a rectangle needs the numbers `x`, `y`, `width` and `height`")
    x, y, width, height, turn = numbers
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    aspect = size[0] / size[1]  # the turn is one of pixels
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return [[x + dx * cos - dy * sin * aspect, y + dx * sin / aspect + dy * cos] for dx, dy in corners]


def decode_brush(stored: Any, size: tuple[int, int]) -> Region:
    """The pixels of a brush stroke in an image of `size` (H, W): where its alpha channel is not 0.

    The bytes are H x W x 4 values in the form of rle-pack: how many values (32 bits), bits of a value (5),
    four bit widths of lengths (4 each); then blocks of a bit that is 1 for a run, a width's number (2 bits),
    a length, and the one value of a run or all values of the block.
    https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack

    Raises:
        ValueError: they are damaged, or of another size.
    """
    count = size[0] * size[1] * 4
    if not isinstance(stored, bytes) or len(stored) < 8:
        raise ValueError("a brush stroke's `rle` is no list of bytes")
    bits = np.unpackbits(np.frombuffer(stored, np.uint8))
    text = "".join(map(str, bits.tolist()))
    if int(text[:32], 2) != count:
        raise ValueError(
            f"a brush stroke has {int(text[:32], 2):,} values, not {count:,} as {size[1]}x{size[0]} pixels"
        )
    word = int(text[32:37], 2) + 1
    widths = [int(text[start : start + 4], 2) + 1 for start in range(37, 53, 4)]
    place, done = 53, 0
    values = np.zeros(count, bool)
    while done < count:
        width = widths[int(text[place + 1 : place + 3] or "0", 2)]
        length = int(text[place + 3 : place + 3 + width] or "0", 2) + 1
        start, repeated = place + 3 + width, text[place : place + 1] == "1"
        place = start + word * (1 if repeated else length)
        if place > len(text) or done + length > count:
            raise ValueError(
                "a brush stroke is damaged: its bytes end too early, or stand for too many pixels"
            )
        words = bits[start:place].reshape(-1, word)
        values[done : done + length] = words.any(axis=1)
        done += length
    return values.reshape(*size, 4)[..., 3]
