"""Where the points of a strided network's maps lie in the image, and how logits get from there to each pixel.

N: images, C: channels, H, W: rows and columns of the image, h, w: of a coarser map, K: classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Anchor = Literal["first", "centre", "last"]
"""Where in its cell of pixels a point of a strided network's map lies (of each axis):

- first: on the first pixel, where convolutions of stride 2 are padded on both sides.
- last: on the last pixel, where TensorFlow's padding lets them begin without any.
- centre: where images are cut into patches.
"""


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """N x C x H x W with zeros right and below, so that both sides are multiples."""
    height, width = image.shape[2:]
    # OpenVINO converts no remainders of sizes, and its division rounds negative numbers upwards.
    more = multiple - 1
    right, below = ((side + more) // multiple * multiple - side for side in (width, height))
    return F.pad(image, (0, right, 0, below))


FIRST_POINT: dict[Anchor, Callable[[int], float]] = {
    "first": lambda stride: 0.0,
    "centre": lambda stride: (stride - 1) / 2,
    "last": lambda stride: stride - 1.0,
}
"""Pixel of the first point, by the stride."""


def upsample_grid(
    logits: Tensor, stride: int, size: torch.Size | tuple[int, int], anchor: Anchor = "first"
) -> Tensor:
    """Logits of a strided network at each pixel, bilinear between where its grid points really lie.

    Plain bilinear upsampling takes each for the centre of its cell, which most networks' are half a stride
    away from. As two products of matrices it gives H x W pixels at once, whatever the padding, and its
    backward pass is many times faster on a CPU than that of `F.interpolate`.

    Args:
        logits: N x K x h x w, stride * h >= H and stride * w >= W.
        stride: pixels per grid point.
        size: H, W.
        anchor: where the points lie.

    Returns:
        N x K x H x W; beyond the outermost points, their values.
    """
    first = FIRST_POINT[anchor](stride)
    rows, columns = (
        linear_weights(pixels, points, stride, first).to(logits)
        for pixels, points in zip(size, logits.shape[2:], strict=True)
    )
    return rows @ (logits @ columns.T)


def linear_weights(pixels: int, points: int, stride: int, first: float) -> Tensor:
    """Of each pixel of a row, the weight of each grid point: pixels x points, each row's sum is 1."""
    position = ((torch.arange(pixels) - first) / stride).clamp(0, points - 1)
    return (1 - (position[:, None] - torch.arange(points)).abs()).clamp(min=0)
