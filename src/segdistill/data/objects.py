"""Measures the objects of a mask: the connected regions of each class. H, W: rows and columns of a mask."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.labels import VOID
from segdistill.data.masks import Mask

TOUCHING = np.ones((3, 3), np.uint8)
"""Pixels are of one object where they touch, be it at a corner."""


def find_labeller() -> Any:
    """`scipy.ndimage`, which finds connected regions; None where it is not installed."""
    try:
        from scipy import ndimage
    except ImportError:
        return None
    return ndimage


def make_measure() -> Callable[[Mask], dict[int, int]] | None:
    """`smallest_objects`, or None where scipy is not installed."""
    return None if find_labeller() is None else smallest_objects


def smallest_objects(mask: Mask) -> dict[int, int]:
    """Pixels of the smallest object of each class that an H x W mask has, by the class's index."""
    ndimage = find_labeller()
    smallest: dict[int, int] = {}
    # The boxes of all classes are found in one pass; a class's regions are then looked for in its box alone.
    boxes = ndimage.find_objects(mask.astype(np.int32) + 1, max_label=VOID)
    for index, box in enumerate(boxes):
        if box is not None:
            regions: NDArray[np.int32] = ndimage.label(mask[box] == index, TOUCHING)[0]
            smallest[index] = int(np.bincount(regions.ravel())[1:].min())
    return smallest
