"""Where the points of a strided network's maps lie in the image, and how logits get from there to each pixel.

N: images, C: channels, H, W: rows and columns of the image, h, w: of a coarser map, K: classes.
"""

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


def upsample_grid(
    logits: Tensor, stride: int, size: torch.Size | tuple[int, int], anchor: Anchor = "first"
) -> Tensor:
    """Logits of a strided network at each pixel, bilinear between where its grid points really lie.

    Plain bilinear upsampling takes each for the centre of its cell, which most networks' are half a stride
    away from.

    Args:
        logits: N x K x h x w, stride * h >= H and stride * w >= W.
        stride: pixels per grid point.
        size: H, W.
        anchor: where the points lie.

    Returns:
        N x K x H x W; beyond the outermost points, their values.
    """
    height, width = size
    rows, columns = logits.shape[2:]
    if anchor == "centre":
        full = F.interpolate(logits, size=(rows * stride, columns * stride), mode="bilinear")
        return full.narrow(2, 0, height).narrow(3, 0, width)
    skipped = int(anchor == "last")
    padding = (1, 0, 1, 0) if skipped else (0, 1, 0, 1)
    full = F.interpolate(
        F.pad(logits, padding, mode="replicate"),
        size=(rows * stride + 1, columns * stride + 1),
        mode="bilinear",
        align_corners=True,
    )
    if torch.compiler.is_exporting():
        full = full.contiguous()  # ExecuTorch slices no map that XNNPACK has left with channels last
    return full.narrow(2, skipped, height).narrow(3, skipped, width)
