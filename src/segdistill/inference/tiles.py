"""Images too large for one pass, or for memory: cut into tiles that overlap, and put together again.

H, W: rows and columns of the image, h, w: of a tile, K: classes.
"""

import math
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.config.deploy import PredictConfig
from segdistill.data.images import MOST_PIXELS, image_size, write_raw
from segdistill.inference.prediction import Prediction
from segdistill.inference.segment import largest_class, run_network
from segdistill.models.trained import TrainedNetwork

LARGE = 16_000_000
"""Pixels above which an image is cut into tiles without being asked for."""

GRID = 32
"""Tiles start at multiples of it: a network that halves its maps five times then sees the same grid."""

BLENDED = 0.25
"""Share of what two tiles share over which one takes over from the other; the rest is seen, and not used."""

OVERLAY = 2048
"""Longest side of the overlay of a tiled image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile along one axis, in pixels, half open.

    Attributes:
        seen: what the network sees.
        used: what is its own; the neighbours begin where it ends.
        before, after: pixels at either side of its ends over which it is blended with the neighbour.
    """

    seen: tuple[int, int]
    used: tuple[int, int]
    before: int = 0
    after: int = 0

    @property
    def said(self) -> slice:
        """What it has a say in, within what it sees."""
        return slice(self.used[0] - self.before - self.seen[0], self.used[1] + self.after - self.seen[0])

    @property
    def final(self) -> slice:
        """What is settled once it and the neighbours before it are known, within the image."""
        return slice(self.used[0] - self.before, self.used[1] - self.after)


@dataclass(frozen=True)
class RawImage:
    """A file of H x W x 3 bytes, of which only the part that is asked for is mapped, and only meanwhile."""

    path: Path
    shape: tuple[int, int, int]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        return np.array(np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)[part])


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along an axis: at most `tile` long, half of `overlap` or more between what is used and a cut.

    Where two meet, they are blended over `BLENDED` of what they share, three at no place.

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
    starts = list(range(0, max(1, length - margin), step))  # what is left after them the last one sees too
    blended = min(int(BLENDED * margin), step // 2)
    return [
        Span(
            seen=(max(0, start - margin), min(length, start + step + margin)),
            used=(start, start + step if start < starts[-1] else length),
            before=blended if start else 0,
            after=blended if start < starts[-1] else 0,
        )
        for start in starts
    ]


def needs_tiles(path: Path, network: TrainedNetwork, config: PredictConfig) -> bool:
    """Whether an image is cut into tiles: where that was asked for, or it is large and is not reduced.

    Large is also what an exported file does not take whole.

    One of more than `MOST_PIXELS` must be asked for: a small file can claim to be enormous.
    """
    if config.tile:
        return True
    reduced = config.size or network.size
    width, height = image_size(path)
    large = width * height > LARGE or max(width, height) > (network.largest_side or math.inf)
    wanted = large and not (reduced or config.probabilities or config.flip)
    return wanted and width * height <= MOST_PIXELS


@torch.inference_mode()
def segment_tiles(
    network: TrainedNetwork,
    image: np.ndarray | RawImage,
    tile: int,
    overlap: int,
    device: torch.device | None = None,
) -> np.ndarray:
    """H x W x 3 uint8 RGB -> H x W uint8 mask, one tile in memory at a time.

    Around the line where two tiles meet, the logits of one fade into those of the other. A pixel has no say
    of a tile where less than (1 - `BLENDED`) / 2 of `overlap` lies between it and the tile's cut: a network
    that looks no further, and halves its maps up to five times, answers exactly as to the whole image. Beside
    the tile, the logits of the rows that fade into those below are in memory: K x (`BLENDED` * `overlap`) x W
    floats.
    """
    height, width = image.shape[:2]
    mask = np.empty((height, width), dtype=np.uint8)
    above: Tensor | None = None
    for row in spans(height, tile, overlap):
        beside: Tensor | None = None
        for column in spans(width, tile, overlap):
            window = np.array(image[slice(*row.seen), slice(*column.seen)])
            pixels = torch.from_numpy(window).permute(2, 0, 1).to(device or torch.device("cpu"))
            logits = run_network(network, pixels[None])[0]
            logits = logits[:, row.said, column.said]
            logits, beside = fade(logits, beside, column, axis=2)
            if above is None:
                above = logits.new_empty(len(logits), 2 * row.after, width)
            shared = above[..., column.final]
            logits, below = fade(logits, shared, row, axis=1)
            if row.after:
                shared.copy_(below)
            mask[row.final, column.final] = largest_class(logits)
    return mask


def fade(logits: Tensor, earlier: Tensor | None, span: Span, axis: int) -> tuple[Tensor, Tensor]:
    """Fade in the beginning of what a tile says, and fade out its end.

    Args:
        logits: K x h x w; changed.
        earlier: what the tile before it returned last; None where there is none.
        span: the tile along the axis.
        axis: 1 for rows, 2 for columns.

    Returns:
        What is settled, and what the next tile's beginning is to be added to.
    """
    if span.before:
        assert earlier is not None
        logits.narrow(axis, 0, 2 * span.before).mul_(_ramp(span.before, axis, logits)).add_(earlier)
    kept = logits.shape[axis] - 2 * span.after
    settled, end = logits.narrow(axis, 0, kept), logits.narrow(axis, kept, 2 * span.after)
    return settled, end * (1 - _ramp(span.after, axis, logits))


def _ramp(half: int, axis: int, like: Tensor) -> Tensor:
    """Weights that rise from 0 to 1 over twice `half` pixels of an axis."""
    places = torch.arange(2 * half, device=like.device)
    return ((places + 0.5) / (2 * half)).view(-1, *[1] * (2 - axis))


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
    reduced = Prediction(image=small, mask=mask[::step, ::step], probabilities=None, labels=network.labels)
    return mask, reduced
