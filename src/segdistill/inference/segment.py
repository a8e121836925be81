"""Image -> network input -> logits -> classes at the image's own size: the only copy.

N: images, K: classes, h, w: rows and columns that the network gets, H, W: those of the image or its mask.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.label_map import LabelMap
from segdistill.data.labels import VOID
from segdistill.data.transforms import normalise, resize_bilinear, scaled_size
from segdistill.models.averaging import mean_probability

Network = Callable[[Tensor], Tensor]
"""N x 3 x h x w ImageNet-normalised images -> N x K x h x w logits; any `nn.Module` in eval mode is one."""

Decide = Callable[[Tensor], np.ndarray]
"""K x H x W logits -> H x W uint8 class indices, each pixel by itself."""

STRIP_BYTES = 16 * 2**20
"""Memory for the upsampled logits of a strip of rows."""


def run_network(
    network: Network, images: Tensor, *, flip: bool = False, scales: tuple[float, ...] = (1.0,)
) -> Tensor:
    """The logits of a batch of images at the size that the network gets.

    Args:
        network: in eval mode.
        images: N x 3 x h x w uint8 RGB, on the network's device.
        flip: average the probabilities with those of the mirrored images.
        scales: average the probabilities over the images resized by each of these factors.

    Returns:
        N x K x h x w float32: the network's logits where there is one plain view, otherwise the logarithm
        of the mean probability.
    """
    return _mean_of_views(network, images, images.shape[2:], flip=flip, scales=scales)


def segment(
    network: Network,
    image: Tensor,
    size: torch.Size | tuple[int, int],
    *,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> Tensor:
    """The logits of one image at the size of its mask, for scores and probabilities.

    Each view is resized before views are averaged, so that logits are resized and never probabilities.

    Args:
        network: in eval mode.
        image: 3 x h x w uint8 RGB, on the network's device.
        size: H, W.
        flip, scales: see `run_network`.

    Returns:
        K x H x W float32, as `run_network` gives them.
    """
    return _mean_of_views(network, image[None], size, flip=flip, scales=scales)[0]


@torch.inference_mode()
def _mean_of_views(
    network: Network,
    images: Tensor,
    size: torch.Size | tuple[int, int],
    *,
    flip: bool,
    scales: tuple[float, ...],
) -> Tensor:
    """N x 3 x h x w uint8 -> N x K x H x W float32: one view's logits, or the log of the mean probability."""
    pixels = normalise(images).contiguous(memory_format=torch.channels_last)
    views = []
    for scale in scales:
        view = pixels
        if scale != 1:
            scaled = scaled_size(pixels.shape[2:], scale)
            view = F.interpolate(pixels, size=scaled, mode="bilinear", align_corners=False, antialias=True)
        views.append((1.0, resize_logits(network(view), size)))
        if flip:
            views.append((1.0, resize_logits(network(view.flip(3)).flip(3), size)))
    return mean_probability(views)


def resize_logits(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """N x K x h x w -> N x K x H x W float32, bilinear."""
    return resize_bilinear(logits.float(), size)


def class_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """K x ... logits -> K x ... probabilities: the softmax of logits / temperature (Guo et al. 2017).

    The mask is that of the logits themselves, so no temperature changes it, not even where two are nearly
    equal. Of an average of views, `logits` are the logarithm of the mean probability.
    """
    return (logits / temperature).softmax(dim=0)


def largest_class(logits: Tensor) -> np.ndarray:
    """K x H x W -> H x W uint8; along a first axis `max` takes a third of `argmax`'s time on a CPU."""
    return logits.max(dim=0).indices.to(torch.uint8).cpu().numpy()


def decide_above(confidence: float, temperature: float) -> Decide:
    """What makes class indices of logits: `VOID` where the probability of the largest class is too low.

    Args:
        confidence: lowest probability of a class that is not void; 0 leaves nothing void.
        temperature: of the probabilities.
    """
    if confidence == 0:
        return largest_class
    return partial(_sure_class, confidence=confidence, temperature=temperature)


def decide_merged(confidence: float, temperature: float, merge: LabelMap, classes: int) -> Decide:
    """As `decide_above`, of logits whose classes are merged first.

    Args:
        confidence, temperature: see there.
        merge: onto the classes of the masks, probabilities added up; others come after these.
        classes: of the masks: where another one is the largest, the mask is `VOID`.
    """

    def decide(logits: Tensor) -> np.ndarray:
        mask = largest_class(merge(logits[None])[0])
        mask[mask >= classes] = VOID
        if confidence > 0:  # at the temperature probabilities are added up too, not their logits divided
            probabilities = merge(logits[None] / temperature)[0].softmax(dim=0)
            mask[(probabilities.amax(dim=0) < confidence).cpu().numpy()] = VOID
        return mask

    return decide


def _sure_class(logits: Tensor, *, confidence: float, temperature: float) -> np.ndarray:
    """K x H x W -> H x W uint8, `VOID` where the probability is below `confidence`."""
    mask = largest_class(logits)
    unsure = class_probabilities(logits, temperature).amax(dim=0) < confidence
    mask[unsure.cpu().numpy()] = VOID
    return mask


@torch.inference_mode()
def class_mask(
    logits: Tensor, size: torch.Size | tuple[int, int], decide: Decide = largest_class
) -> np.ndarray:
    """K x h x w logits -> H x W uint8 class indices, as `decide(resize_logits(...))` gives them.

    The upsampled logits are never whole in memory: for 21 classes of a photograph they are a gigabyte.
    """
    height, width = size
    if logits.shape[1:] == tuple(size):
        return decide(logits)
    rows, columns = _between(logits.shape[1], height, logits), _between(logits.shape[2], width, logits)
    strip = max(1, STRIP_BYTES // (4 * len(logits) * width))
    bands = [slice(top, top + strip) for top in range(0, height, strip)]
    mask = np.empty((height, width), dtype=np.uint8)
    if decide is largest_class:
        coarse, alike = _uniform_cells(logits)
        for band in bands:
            mask[band] = _largest_between(logits, coarse, alike, rows.part(band), columns)
        return mask
    wide = F.interpolate(logits[None], size=(logits.shape[1], width), mode="bilinear", align_corners=False)[0]
    for band in bands:
        above, below, weight = rows.part(band)
        mask[band] = decide(torch.lerp(wide[:, above], wide[:, below], weight.view(1, -1, 1)))
    return mask


class Neighbours(NamedTuple):
    """Of the pixels along one axis, the two points of a map that each lies between.

    Attributes:
        first, second: their indices; equal beyond the outermost points.
        weight: of the second.
    """

    first: Tensor
    second: Tensor
    weight: Tensor

    def part(self, pixels: slice) -> "Neighbours":
        """Those of some of the pixels."""
        return Neighbours(*(values[pixels] for values in self))


def _between(points: int, pixels: int, like: Tensor) -> Neighbours:
    """Where the pixels of an axis lie, as bilinear resizing without align_corners has it."""
    centre = (torch.arange(pixels, device=like.device) + 0.5) * (points / pixels) - 0.5
    centre = centre.clamp(0, points - 1)
    first = centre.long()
    return Neighbours(first, (first + 1).clamp(max=points - 1), centre - first)


def _uniform_cells(logits: Tensor) -> tuple[Tensor, Tensor]:
    """K x h x w logits -> each point's class, and whether the points right, below and diagonal have it too.

    Between four points with one class every pixel has it: what is largest at all of them is largest in each
    weighted mean of them.
    """
    coarse = logits.max(dim=0).indices.to(torch.uint8)
    alike = torch.ones_like(coarse, dtype=torch.bool)
    alike[:-1] &= coarse[:-1] == coarse[1:]
    alike[:, :-1] &= alike[:, 1:] & (coarse[:, :-1] == coarse[:, 1:])
    return coarse, alike


def _largest_between(
    logits: Tensor, coarse: Tensor, alike: Tensor, rows: Neighbours, columns: Neighbours
) -> np.ndarray:
    """The classes of some rows of pixels; logits are only blended where the points around a pixel differ.

    Args:
        logits: K x h x w.
        coarse, alike: see `_uniform_cells`.
        rows, columns: of the pixels.

    Returns:
        H x W uint8.
    """
    mask = coarse[rows.first].index_select(1, columns.first)
    y, x = (~alike[rows.first].index_select(1, columns.first)).nonzero(as_tuple=True)
    points, width = logits.flatten(1), logits.shape[2]
    left, right = columns.first[x], columns.second[x]

    def blended(row: Tensor) -> Tensor:
        """K x n, between left and right on a row of the map."""
        first, second = (points.index_select(1, row * width + column) for column in (left, right))
        return torch.lerp(first, second, columns.weight[x])

    values = torch.lerp(blended(rows.first[y]), blended(rows.second[y]), rows.weight[y])
    mask[y, x] = values.max(dim=0).indices.to(torch.uint8)
    return mask.cpu().numpy()
