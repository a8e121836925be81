"""Images too large for one pass, or for memory: cut into tiles that overlap, and put together again.

H, W: rows and columns of the image, K: classes.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segdistill.config_deploy import PredictConfig
from segdistill.data.images import MOST_PIXELS, image_size, write_raw
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise
from segdistill.deploy.predict import Prediction
from segdistill.models.trained import TrainedNetwork

LARGE = 16_000_000
"""Pixels above which an image is cut into tiles without being asked for."""
GRID = 32
"""Tiles start at multiples of it: a network that halves its maps five times then sees the same grid."""
OVERLAY = 2048
"""Longest side of the overlay of a tiled image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile along one axis: what the network sees, and the part of it that is used. In pixels, half open."""

    seen: tuple[int, int]
    used: tuple[int, int]


@dataclass(frozen=True)
class RawImage:
    """A file of H x W x 3 bytes, of which only the part that is asked for is mapped, and only meanwhile."""

    path: Path
    shape: tuple[int, int, int]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        return np.array(np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)[part])


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along an axis: at most `tile` long, half of `overlap` or more between what is used and the cut.

    Raises:
        ValueError: the tile leaves nothing between the overlaps on the grid.
    """
    margin = -(-overlap // (2 * GRID)) * GRID
    step = (tile - 2 * margin) // GRID * GRID
    if length <= tile:
        return [Span(seen=(0, length), used=(0, length))]
    if step <= 0:
        raise ValueError(
            f"tile is {tile}, but must be {2 * margin + GRID} or more for an overlap of {overlap} pixels"
        )
    return [
        Span(
            seen=(max(0, start - margin), min(length, start + step + margin)),
            used=(start, min(length, start + step)),
        )
        for start in range(0, length, step)
    ]


def needs_tiles(path: Path, network: TrainedNetwork, config: PredictConfig) -> bool:
    """Whether an image is cut into tiles: where that was asked for, or it is large and is not reduced.

    One of more than `MOST_PIXELS` must be asked for: a small file can claim to be enormous.
    """
    if config.tile:
        return True
    reduced = config.size or network.size
    width, height = image_size(path)
    fits = LARGE < width * height <= MOST_PIXELS
    return not reduced and fits and not (config.probabilities or config.flip)


@torch.inference_mode()
def segment_tiles(
    network: TrainedNetwork,
    image: np.ndarray | RawImage,
    tile: int,
    overlap: int,
    device: torch.device | None = None,
) -> np.ndarray:
    """H x W x 3 uint8 RGB -> H x W uint8 mask, one tile in memory at a time.

    Each pixel takes its class from the tile in whose inner part it lies, where `overlap` / 2 pixels or more
    lie between it and a cut. A network that looks no further, and halves its maps up to five times, answers
    exactly as it does to the whole image.
    """
    height, width = image.shape[:2]
    mask = np.empty((height, width), dtype=np.uint8)
    for row in spans(height, tile, overlap):
        for column in spans(width, tile, overlap):
            window = np.array(image[slice(*row.seen), slice(*column.seen)])
            pixels = normalise(torch.from_numpy(window).permute(2, 0, 1).to(device or torch.device("cpu")))
            logits = network(pixels[None].contiguous(memory_format=torch.channels_last))[0]
            top, left = row.used[0] - row.seen[0], column.used[0] - column.seen[0]
            answer = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
            part = mask[slice(*row.used), slice(*column.used)]
            part[:] = answer[top : top + part.shape[0], left : left + part.shape[1]]
    return mask


def predict_tiles(
    network: TrainedNetwork,
    path: Path,
    *,
    tile: int,
    overlap: int,
    scratch: Path,
    device: torch.device | None = None,
) -> tuple[np.ndarray, Prediction]:
    """Segment a large image file; its pixels go through a file in `scratch` and are never all in memory here.

    Another process decodes it, for a decoder needs the whole picture at once: 4 bytes per pixel where it is
    upright 8-bit RGB, twice that or more for other kinds.

    Args:
        network: on `device`.
        path: the image.
        tile, overlap: in pixels.
        scratch: a folder with room for 3 bytes per pixel.
        device: None for the CPU.

    Returns:
        The H x W mask, and a reduced prediction for the overlay (every n-th pixel of image and mask).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tiles-") as folder:
        raw = Path(folder) / "pixels"
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            width, height = pool.submit(write_raw, path, raw).result()
        pixels = RawImage(raw, (height, width, 3))
        mask = segment_tiles(network, pixels, tile, overlap, device)
        step = -(-max(height, width) // OVERLAY)
        rows = [pixels[slice(top, top + 1), slice(None, None, step)] for top in range(0, height, step)]
        small = Image.fromarray(np.concatenate(rows))
    reduced = Prediction(
        image=small, mask=mask[::step, ::step], probabilities=np.empty(0, np.float32), labels=network.labels
    )
    return mask, reduced


def write_mask(mask: np.ndarray, labels: LabelSet, path: Path) -> None:
    """Write a large mask as a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(labels.file_palette)
    image.save(path)
