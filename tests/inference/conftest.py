"""Photographs of two shapes, for everything that predicts several."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images, every third of them upright: 0 3 6 9 are 24 x 40 pixels, the others 40 x 24."""
    folder, generator = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for index in range(10):
        shape = (40, 24, 3) if index % 3 == 0 else (24, 40, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    return folder
