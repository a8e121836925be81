"""Drawn pictures and the masks that PyTorch computes of them: what a page compares itself with.

H, W: rows and columns of a picture.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segdistill.data.shapes import draw
from segdistill.files import data_url
from segdistill.inference.prediction import predict_image
from segdistill.models.trained import TrainedNetwork

PICTURE_SIZES = ((300, 400), (240, 180))
"""H, W of the pictures: one across and one upright."""

CANDIDATES = 8
"""Pictures that are drawn for each size; that with the most evenly spread classes is taken."""


@dataclass(frozen=True)
class SelfTest:
    """A picture and its H x W mask of class indices."""

    picture: Image.Image
    mask: np.ndarray

    def to_urls(self) -> dict[str, str]:
        """Both as data URLs of PNG files; the mask is grey."""
        urls = {}
        for name, image in {"picture": self.picture, "mask": Image.fromarray(self.mask)}.items():
            buffer = io.BytesIO()
            image.save(buffer, "PNG", optimize=True)
            urls[name] = data_url(buffer.getvalue(), "image/png")
        return urls


def draw_tests(network: TrainedNetwork, longest: int) -> list[SelfTest]:
    """A picture of each of `PICTURE_SIZES` with its mask.

    Args:
        network: in PyTorch, on the CPU.
        longest: long side of the network's input in pixels, where it has no size.
    """
    tests = []
    for height, width in PICTURE_SIZES:
        side = max(height, width)
        pictures = [draw(0, index, side)[0].crop((0, 0, width, height)) for index in range(CANDIDATES)]
        size = network.size or min(side, longest)
        masks = [predict_image(network, each, size=size, probabilities=False).mask for each in pictures]
        best = max(range(CANDIDATES), key=lambda index: Image.fromarray(masks[index]).entropy())
        tests.append(SelfTest(pictures[best], masks[best]))
    return tests
