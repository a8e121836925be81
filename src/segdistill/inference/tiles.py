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

from segdistill.config.deploy import TILE, PredictConfig
from segdistill.data.images import MOST_PIXELS, File, write_pixels, write_raw
from segdistill.data.pictures import PictureInMemory
from segdistill.inference.prediction import Prediction
from segdistill.inference.segment import Decide, largest_class, run_network
from segdistill.models.trained import TrainedNetwork

LARGE = 16_000_000
"""Pixels above which an image is cut into tiles without being asked for."""

GRID = 32
"""Tiles start at multiples of it: a network that halves its maps five times then sees the same grid."""

FADE = 0.25
"""Fraction of two tiles' overlap over which one fades into the other; the rest is context for the network."""

OVERLAY = 2048
"""Longest side of the overlay of a tiled image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile along one axis, in pixels, half open.

    Attributes:
        window: the network's input.
        core: what no other tile has; the neighbours' begin where it ends.
        before, after: pixels at either side of the core's ends over which it fades into the neighbour.
    """

    window: tuple[int, int]
    core: tuple[int, int]
    before: int = 0
    after: int = 0

    @property
    def weighted(self) -> slice:
        """Where its logits count, within the window."""
        start, stop = self.core[0] - self.before, self.core[1] + self.after
        return slice(start - self.window[0], stop - self.window[0])

    @property
    def complete(self) -> slice:
        """What needs no logits of a later tile, within the image."""
        return slice(self.core[0] - self.before, self.core[1] - self.after)


@dataclass(frozen=True)
class RawImage:
    """A file of H x W x 3 bytes, of which only the window that is read is mapped, and only meanwhile."""

    path: Path
    shape: tuple[int, int, int]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return np.array(np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)[window])


def check_tile(tile: int, overlap: int) -> tuple[int, int]:
    """The margin of a tile on the grid, at least half of the overlap, and the step from tile to tile.

    Raises:
        ValueError: the tile leaves nothing between the overlaps on the grid.
    """
    margin = -(-overlap // (2 * GRID)) * GRID
    step = (tile - 2 * margin) // GRID * GRID
    if step <= 0:
        raise ValueError(
            f"tile is {tile}, but must be {2 * margin + GRID} or more for an overlap of {overlap} pixels"
        )
    return margin, step


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along an axis: at most `tile` long, with a margin of `overlap` / 2 or more around each core.

    Where two meet, they fade over `FADE` of their overlap; nowhere do three.

    Raises:
        ValueError: as `check_tile`, where one tile does not suffice.
    """
    if length <= tile:
        return [Span(window=(0, length), core=(0, length))]
    margin, step = check_tile(tile, overlap)
    starts = list(range(0, max(1, length - margin), step))  # what is left after them is in the last window
    half = min(int(FADE * margin), step // 2)
    return [
        Span(
            window=(max(0, start - margin), min(length, start + step + margin)),
            core=(start, start + step if start < starts[-1] else length),
            before=half if start else 0,
            after=half if start < starts[-1] else 0,
        )
        for start in starts
    ]


def needs_tiles(size: tuple[int, int], network: TrainedNetwork, config: PredictConfig) -> bool:
    """Whether an image of W, H pixels is cut into tiles: where asked for, or large and not downscaled.

    Large is also what an exported file does not take whole. One of more than `MOST_PIXELS` must be asked for:
    a small file can claim to be enormous.
    """
    if config.tile:
        return True
    pixels = size[0] * size[1]
    large = pixels > LARGE or max(size) > (network.largest_side or math.inf)
    whole = network.long_side(config.size) or config.probabilities or config.flip
    return large and not whole and pixels <= MOST_PIXELS


@torch.inference_mode()
def segment_tiles(
    network: TrainedNetwork,
    image: np.ndarray | RawImage,
    tile: int,
    overlap: int,
    device: torch.device | None = None,
    decide: Decide = largest_class,
) -> np.ndarray:
    """H x W x 3 uint8 RGB -> H x W uint8 mask, one tile in memory at a time.

    Around the line where two tiles meet, the logits of one fade into those of the other. A tile counts
    nowhere within (1 - `FADE`) / 2 of `overlap` of its cut: a network with no larger receptive field, and
    which halves its maps up to five times, gives exactly the mask of the whole image. Beside the tile, the
    logits of the rows that fade into those below are in memory: K x (`FADE` * `overlap`) x W floats.
    """
    height, width = image.shape[:2]
    mask = np.empty((height, width), dtype=np.uint8)
    above: Tensor | None = None
    for row in spans(height, tile, overlap):
        beside: Tensor | None = None
        for column in spans(width, tile, overlap):
            pixels = np.array(image[slice(*row.window), slice(*column.window)])
            given = torch.from_numpy(pixels).permute(2, 0, 1).to(device or torch.device("cpu"))
            logits = run_network(network, given[None])[0, :, row.weighted, column.weighted]
            logits, beside = fade(logits, beside, column, axis=2)
            if above is None:
                above = logits.new_empty(len(logits), 2 * row.after, width)
            shared = above[..., column.complete]
            logits, below = fade(logits, shared, row, axis=1)
            if row.after:
                shared.copy_(below)
            mask[row.complete, column.complete] = decide(logits)
    return mask


def fade(logits: Tensor, previous: Tensor | None, span: Span, axis: int) -> tuple[Tensor, Tensor]:
    """Fade in the beginning of a tile's logits, and fade out their end.

    Args:
        logits: K x h x w; changed.
        previous: the faded end of the tile before it; None where there is none.
        span: the tile along the axis.
        axis: 1 for rows, 2 for columns.

    Returns:
        The logits that are complete, and the faded end, which the next tile's beginning is added to.
    """
    if span.before:
        assert previous is not None
        logits.narrow(axis, 0, 2 * span.before).mul_(_ramp(span.before, axis, logits)).add_(previous)
    length = logits.shape[axis] - 2 * span.after
    complete, end = logits.narrow(axis, 0, length), logits.narrow(axis, length, 2 * span.after)
    return complete, end * (1 - _ramp(span.after, axis, logits))


def _ramp(half: int, axis: int, like: Tensor) -> Tensor:
    """Weights that rise from 0 to 1 over twice `half` pixels of an axis."""
    pixels = torch.arange(2 * half, device=like.device)
    return ((pixels + 0.5) / (2 * half)).view(-1, *[1] * (2 - axis))


def predict_tiles(
    network: TrainedNetwork,
    source: File | PictureInMemory,
    config: PredictConfig,
    *,
    device: torch.device | None = None,
    decide: Decide = largest_class,
) -> tuple[np.ndarray, Prediction]:
    """Segment a large image; the pixels of a file go through another one in `out`, never all in memory here.

    Another process decodes a file, for a decoder needs the whole picture at once: 4 bytes per pixel where it
    is upright 8-bit RGB, twice that or more for other kinds.

    Args:
        network: on `device`.
        source: the image.
        config: `tile` and `overlap` in pixels; `out`, a folder with room for 3 bytes per pixel.
        device: None for the CPU.
        decide: makes classes of logits.

    Returns:
        The H x W mask, and a downscaled prediction for the overlay (every n-th pixel of image and mask).
    """
    tile = config.tile or min(TILE, network.largest_side or TILE)
    scratch = Path(config.out)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tiles-") as folder:
        raw = Path(folder) / "pixels"
        width, height = _write_pixels(source, raw, network.bits)
        pixels = RawImage(raw, (height, width, 3))
        mask = segment_tiles(network, pixels, tile, config.overlap, device, decide)
        step = -(-max(height, width) // OVERLAY)
        rows = [pixels[slice(top, top + 1), slice(None, None, step)] for top in range(0, height, step)]
        small = Image.fromarray(np.concatenate(rows))
    small_mask = mask[::step, ::step]
    return mask, Prediction(image=small, mask=small_mask, probabilities=None, labels=network.labels)


def _write_pixels(source: File | PictureInMemory, raw: Path, bits: int | None) -> tuple[int, int]:
    """Write the H x W x 3 bytes of an image into `raw`; returns W, H."""
    if isinstance(source, PictureInMemory):
        image = source.decode(bits)
        write_pixels(image, raw)
        return image.size
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(write_raw, source, raw, bits=bits).result()
