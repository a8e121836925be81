"""Random colours of training crops: drawn by the loader, applied to whole batches on the device.

Brightness, contrast, saturation and hue are linear in a pixel's RGB, so that all four of an image are one
3 x 3 matrix and one offset. N: images, H, W: rows and columns.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from segdistill.config.train import AugmentConfig

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue seem (ITU-R BT.601)."""


def draw_colour(augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """4 numbers: brightness, contrast and saturation (1 changes nothing), turn of the hue (0 does not)."""
    colour = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    # What is switched off draws no number, so that older settings keep their crops.
    if augment.jitter:
        colour[:3] = rng.uniform(1 - augment.jitter, 1 + augment.jitter, 3)
    if augment.hue:
        colour[3] = rng.uniform(-augment.hue, augment.hue)
    if augment.grey and rng.random() < augment.grey:
        colour[2] = 0
    return torch.from_numpy(colour)


def recolour(image: Tensor, colour: Tensor) -> Tensor:
    """Give each image of a batch its colours.

    Contrast is about the image's mean grey, saturation about each pixel's own, and the hue turns about the
    axis of the greys, which it leaves alone.

    Args:
        image: N x 3 x H x W RGB from 0 to 1.
        colour: N x 4, as `draw_colour` draws them.

    Returns:
        N x 3 x H x W from 0 to 1.
    """
    brightness, contrast, saturation, turn = (factor[:, None, None] for factor in colour.unbind(dim=1))
    grey = image.new_tensor([LUMA]).expand(3, 3)
    same = torch.eye(3, device=image.device)
    axis = torch.full((3, 3), 1 / 3, device=image.device)
    cross = image.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    angle = 2 * math.pi * turn
    hue = angle.cos() * same + (1 - angle.cos()) * axis + angle.sin() * cross  # Rodrigues' rotation
    matrix = contrast * brightness * hue @ (saturation * same + (1 - saturation) * grey)
    mean = (image.new_tensor(LUMA) * image.mean(dim=(2, 3))).sum(dim=1)[:, None, None, None]
    offset = ((1 - contrast) * brightness)[..., None] * mean
    return (torch.einsum("nij,njhw->nihw", matrix, image) + offset).clamp(0, 1)


def blur(image: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """A 3 x H x W uint8 image, now and then out of focus."""
    if rng.random() >= augment.blur:
        return image
    sigma = float(rng.uniform(0.1, 2.0))
    return F.gaussian_blur(image, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma, sigma])
