"""Drawn pictures and the masks that PyTorch computes of them: what a page compares itself with.

H, W: rows and columns of a picture.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from segdistill.data.shapes import draw
from segdistill.inference.prediction import predict_image
from segdistill.models.trained import TrainedNetwork

SIZES = ((300, 400), (240, 180))
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
        return {"picture": data_url(self.picture), "mask": data_url(Image.fromarray(self.mask))}


def data_url(image: Image.Image) -> str:
    """An image as the data URL of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_tests(network: TrainedNetwork, longest: int) -> list[SelfTest]:
    """A picture of each of `SIZES` with its mask.

    Args:
        network: in PyTorch, on the CPU.
        longest: long side of the network's input in pixels, where it has no size.
    """
    tests = []
    for height, width in SIZES:
        side = max(height, width)
        pictures = [draw(0, index, side)[0].crop((0, 0, width, height)) for index in range(CANDIDATES)]
        size = network.size or min(side, longest)
        masks = [predict_image(network, each, size=size, probabilities=False).mask for each in pictures]
        best = max(range(CANDIDATES), key=lambda index: entropy(masks[index]))
        tests.append(SelfTest(pictures[best], masks[best]))
    return tests


def entropy(mask: np.ndarray) -> float:
    """Of the fractions of the classes, in nats: a mask of one class has 0, and would compare little."""
    fractions = np.bincount(mask.ravel()) / mask.size
    fractions = fractions[fractions > 0]
    return float(-(fractions * np.log(fractions)).sum())
