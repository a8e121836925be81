"""The smallest object of each class, counted by hand."""

import builtins

import numpy as np
import pytest

from segdistill.data import objects
from segdistill.data.objects import make_measure, smallest_objects

pytestmark = pytest.mark.unit


def test_pixels_that_touch_are_one_object() -> None:
    mask = np.array(
        [
            [1, 1, 0, 0, 2],
            [0, 0, 1, 0, 0],
            [0, 0, 0, 0, 2],
            [0, 1, 0, 0, 2],
            [255, 0, 0, 0, 2],
        ],
        np.uint8,
    )
    # 1: three pixels that touch, at a corner too, and one alone; 2: one above, three below.
    assert smallest_objects(mask) == {0: 16, 1: 1, 2: 1}
    mask[3, 1] = mask[0, 4] = 0
    assert smallest_objects(mask) == {0: 18, 1: 3, 2: 3}


def test_without_scipy_there_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: object, **more: object) -> object:
        if name == "scipy":
            raise ImportError
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert objects.find_labeller() is None
    assert make_measure() is None
