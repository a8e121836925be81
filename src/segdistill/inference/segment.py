"""Image -> network input -> logits -> classes at the image's own size: the only copy."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.data.transforms import normalise


@torch.inference_mode()
def segment(
    network: nn.Module,
    image: Tensor,
    size: torch.Size | tuple[int, int],
    *,
    device: torch.device | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> Tensor:
    """What a network sees in one image.

    Args:
        network: on `device`, in eval mode.
        image: 3 x h x w uint8 RGB, at the size that the network is to see.
        size: H, W that is asked for.
        device: where to compute; None for the CPU.
        flip: also look at the mirrored image, and average the probabilities.
        scales: look at the image at each of these relative sizes, and average the probabilities.

    Returns:
        K x H x W float32: with one plain view the network's logits, resized bilinearly; otherwise the
        logarithm of the mean probability.
    """
    pixels = normalise(image.to(device or torch.device("cpu")))[None]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    views = []
    for scale in scales:
        seen = pixels
        if scale != 1:
            wanted = [max(1, round(side * scale)) for side in pixels.shape[2:]]
            seen = F.interpolate(pixels, size=wanted, mode="bilinear", align_corners=False, antialias=True)
        views.append(resize_logits(network(seen), size))
        if flip:
            views.append(resize_logits(network(seen.flip(3)).flip(3), size))
    if len(views) == 1:
        return views[0][0]
    total = torch.stack([view.log_softmax(dim=1) for view in views]).logsumexp(dim=0)[0]
    return total - math.log(len(views))


def resize_logits(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """N x K x h x w -> N x K x H x W float32, bilinear."""
    logits = logits.float()
    if logits.shape[2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def largest_class(logits: Tensor) -> np.ndarray:
    """K x H x W -> H x W uint8; along a first axis `max` takes a third of `argmax`'s time on a CPU."""
    return logits.max(dim=0).indices.to(torch.uint8).cpu().numpy()


STRIP_BYTES = 16 * 2**20
"""Memory for the enlarged logits of a strip of rows."""


def class_mask(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """K x h x w logits -> H x W uint8 class indices, as `resize_logits(...).argmax()` gives them.

    The enlarged logits are never whole in memory: for 21 classes of a photograph they are a gigabyte.
    """
    height, width = size
    if logits.shape[1:] == size:
        return largest_class(logits)
    rows = logits.shape[1]
    wide = F.interpolate(logits[None], size=(rows, width), mode="bilinear", align_corners=False)[0]
    centre = (torch.arange(height, device=logits.device) + 0.5) * (rows / height) - 0.5
    centre = centre.clamp(0, rows - 1)
    above = centre.long()
    below = (above + 1).clamp(max=rows - 1)
    weight = (centre - above).view(1, -1, 1)
    strip = max(1, STRIP_BYTES // (4 * len(logits) * width))
    mask = np.empty(size, dtype=np.uint8)
    for top in range(0, height, strip):
        part = slice(top, top + strip)
        blended = torch.lerp(wide[:, above[part]], wide[:, below[part]], weight[:, part])
        mask[part] = largest_class(blended)
    return mask
