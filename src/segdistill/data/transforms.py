"""The random crop that training draws of a sample: scale, box, padding and flip, mask included.

A crop is drawn first (`draw_crop`, a few integers) and applied after (`apply_crop`), so that whatever else
belongs to the pixels, a cached teacher's logits for one, can follow the same geometry. All is computed as
torchvision's transforms do, without them: torchvision takes longer to import than PyTorch itself, which a
prediction of a few images would wait for.
"""

import math
import platform
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from segdistill.config.train import AugmentConfig
from segdistill.data.labels import VOID

# ImageNet's statistics, which nearly every published backbone was trained with (torchvision's weights' meta).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Which box of an image is taken, and where it lies in the S x S crop. All in pixels.

    The source box (top, left, height, width) is resized to (out_height, out_width), mirrored where `flip` is
    set, and laid into the crop of `size` S at (pad_top, pad_left); the rest of the crop is padding.
    """

    size: int

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    pad_top: int
    pad_left: int
    flip: bool


def normalise(
    image: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """... x 3 x H x W RGB (uint8, or from 0 to 1) -> float32, normalised with statistics of RGB in 0 to 1."""
    means, stds = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (mean, std))
    scaled = image.float() if image.is_floating_point() else image.float().mul_(1 / 255)
    return scaled.sub(means).div_(stds)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as 3 x H x W uint8, its channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def draw_crop(height: int, width: int, size: int, augment: AugmentConfig, rng: np.random.Generator) -> Crop:
    """Draw a crop of `size` x `size` pixels of an H x W image."""
    flip = bool(rng.random() < augment.flip)
    if augment.stretch:
        return Crop(
            size=size, top=0, left=0, height=height, width=width, out_height=size, out_width=size,
            pad_top=0, pad_left=0, flip=flip,
        )  # fmt: skip
    low, high = augment.scale
    scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    top, box_height, out_height, pad_top = _draw_extent(height, size, scale, rng)
    left, box_width, out_width, pad_left = _draw_extent(width, size, scale, rng)
    return Crop(
        size=size, top=top, left=left, height=box_height, width=box_width,
        out_height=out_height, out_width=out_width, pad_top=pad_top, pad_left=pad_left, flip=flip,
    )  # fmt: skip


def _draw_extent(length: int, size: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """One axis of a crop: start and extent in the source, extent in the crop, padding before it."""
    out = min(size, max(1, round(length * scale)))
    extent = min(length, max(1, round(out / scale)))
    return int(rng.integers(length - extent + 1)), extent, out, int(rng.integers(size - out + 1))


def apply_crop(image: Tensor, mask: Tensor, crop: Crop) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a crop out of a sample.

    Args:
        image: 3 x H x W uint8.
        mask: H x W uint8.
        crop: drawn for this H x W, of size S.

    Returns:
        image 3 x S x S uint8 (antialiased bilinear, padded with ImageNet's mean colour), mask S x S uint8
        (nearest neighbour, padded with `VOID`), valid S x S bool (False on padding).
    """
    box = (..., slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width))
    out = (crop.out_height, crop.out_width)
    image = resize_image(image[box], out)
    mask = resize_mask(mask[box], out)
    if crop.flip:
        image, mask = image.flip(-1), mask.flip(-1)
    rows = slice(crop.pad_top, crop.pad_top + crop.out_height)
    columns = slice(crop.pad_left, crop.pad_left + crop.out_width)
    size = crop.size
    padded = torch.tensor(IMAGENET_MEAN).mul(255).round().to(torch.uint8)[:, None, None].repeat(1, size, size)
    padded[:, rows, columns] = image
    labels = torch.full((size, size), VOID, dtype=torch.uint8)
    labels[rows, columns] = mask
    valid = torch.zeros(size, size, dtype=torch.bool)
    valid[rows, columns] = True
    return padded, labels, valid


def resize_long_side(image: Tensor, long_side: int | None) -> Tensor:
    """Resize a 3 or N x 3 x H x W uint8 image so that its longer side is `long_side` (None: as it is)."""
    height, width = image.shape[-2:]
    if long_side is None or max(height, width) == long_side:
        return image
    return resize_image(image, scaled_size((height, width), long_side / max(height, width)))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """3 or N x 3 x H x W uint8 of the CPU -> h x w, antialiased bilinear, as torchvision's `resize`."""
    if image.shape[-2:] == size:
        return image
    # The axis N is put before the rows: channels that are last in memory stay last.
    pixels = image if image.ndim == 4 else image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    native = _resizes_bytes()
    pixels = interpolate(
        pixels if native else pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    pixels = pixels if native else pixels.round_().to(torch.uint8)
    return pixels if image.ndim == 4 else pixels[0]


def _resizes_bytes() -> bool:
    """Whether PyTorch resizes uint8 images on this processor faster than floats."""
    vectors = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return vectors or platform.machine() in {"aarch64", "arm64"}


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """H x W uint8 -> h x w, nearest neighbour."""
    if mask.shape == size:
        return mask
    return interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]


def downscale(image: Tensor, mask: Tensor, long_side: int) -> tuple[Tensor, Tensor]:
    """Downscale a sample to a long side of `long_side` pixels; a smaller one stays as it is.

    Args:
        image: 3 x H x W uint8.
        mask: H x W uint8.
        long_side: of the result, in pixels.

    Returns:
        image 3 x h x w (antialiased bilinear, its channels last in memory, as the readers yield them), mask
        h x w (nearest neighbour).
    """
    if max(mask.shape) <= long_side:
        return image, mask
    image = resize_long_side(image, long_side).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return image, resize_mask(mask, (image.shape[1], image.shape[2]))


def scaled_size(
    size: tuple[int, ...], scale: float = 1.0, output_stride: int | None = None
) -> tuple[int, int]:
    """H, W of a network's input for an image of this size: the one place where it is computed.

    Args:
        size: H, W of the image.
        scale: multiplies both sides, which are rounded to one pixel or more.
        output_stride: rounds both to the nearest multiple of it, plus 1, instead; to one multiple at least.
    """
    if output_stride is None:
        height, width = (max(1, round(side * scale)) for side in size)
    else:
        cells = (max(1, round((side * scale - 1) / output_stride)) for side in size)
        height, width = (count * output_stride + 1 for count in cells)
    return height, width


def resize_bilinear(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """N x C x H x W floats -> N x C x h x w, bilinear; unchanged where that is their size."""
    if values.shape[2:] == tuple(size):
        return values
    return interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)
