"""A teacher's outputs for whole images (logits, features) in files, and those of a crop, cut out of them.

K: classes, or channels of features, H, W: rows and columns of an image, h, w: of the coarser grid that they
are kept on, S: size of a crop.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.cache.grid_crop import GridCrop
from segdistill.data.cache.store import Bytes, ShardStore, ShardWriter
from segdistill.data.images import File
from segdistill.data.label_map import ABSENT
from segdistill.data.transforms import Crop, scaled_size

LOGITS_RECORD = np.dtype(
    [("key", "<u8"), ("offset", "<u8"), ("height", "<u2"), ("width", "<u2"), ("crc", "<u4")]
)
"""One line of a shard's index: whose outputs (of which image size) begin at which byte of the shard."""

LARGEST = torch.finfo(torch.float16).max
"""Largest value that is kept: 65,504. A larger one would become infinite in float16."""

Grid = Literal["stretched", "strided", "corners"]
"""Where the points of a grid lie in an image of H pixels (of one axis), h = ceil(H / stride) of them:

- stretched: each is the centre of a cell of H / h pixels. So a network's logits are enlarged bilinearly.
- corners: the outermost lie on the centres of the outermost pixels, which is `align_corners=True`.
- strided: each is the centre of a cell of `stride` pixels, whatever H: so the features of an encoder lie.

All are alike where H is a multiple of the stride, corners apart.
"""


@dataclass(frozen=True, kw_only=True)
class LogitsFormat:
    """How logits are kept, or features; two caches of one format hold the same numbers.

    Attributes:
        classes: K, those of the student's classes that the teacher has; of features the number of channels.
        square: side in pixels of the square that images are stretched to first; None keeps their proportions.
        scale: of the teacher's input (of several the largest), as a multiple of the image's size.
        output_stride: both sides of that input are a multiple of it, plus 1; None for any.
        stride: pixels of the teacher's input per grid point.
        grid: where the grid points lie.
        topk: classes kept per grid point; 0 keeps all.
        teacher: its fingerprint, with everything else that decides its outputs.
        layout: number of the layout of the bytes.
    """

    classes: int
    square: int | None
    scale: float
    stride: int
    grid: Grid
    topk: int
    teacher: str
    output_stride: int | None = None
    layout: int = 2

    def unscaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """H, W that an H x W image is stretched to before it is scaled; its own where it is not."""
        return (self.square, self.square) if self.square else size

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """H, W of the teacher's input for an H x W image."""
        return scaled_size(self.unscaled_size(size), self.scale, self.output_stride)

    def grid_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns (h, w) of the grid of an H x W image."""
        height, width = self.input_size(size)
        return -(-height // self.stride), -(-width // self.stride)

    def record_bytes(self, size: tuple[int, int]) -> int:
        """Bytes of the outputs of an H x W image, mirrored image included."""
        height, width = self.grid_size(size)
        point = 2 * self.classes if not self.topk else 3 * self.topk + 2
        return 2 * point * height * width

    def encode(self, logits: Tensor) -> bytes:
        """2 x K x h x w logits (of the image, of its mirror image) -> bytes.

        Values beyond `LARGEST` are clamped to it. The sparse form keeps the `topk` largest logits, their
        classes, and one number for all others: the logit that each would need for their probabilities to add
        up to what they did.
        """
        if not self.topk:
            return to_half(logits).cpu().numpy().tobytes()
        values, classes = logits.float().topk(self.topk, dim=1)
        others = logits.float().scatter(1, classes, -torch.inf).logsumexp(dim=1, keepdim=True)
        others -= float(np.log(self.classes - self.topk))
        kept = to_half(torch.cat([values, others], dim=1)).cpu().numpy().tobytes()
        return kept + classes.to(torch.uint8).cpu().numpy().tobytes()

    def decode(self, data: bytes | Bytes, size: tuple[int, int]) -> Tensor:
        """The bytes of an H x W image -> 2 x K x h x w float16."""
        height, width = self.grid_size(size)
        raw = torch.from_numpy(np.array(np.frombuffer(data, np.uint8)))
        if not self.topk:
            return raw.view(torch.float16).view(2, self.classes, height, width)
        split = 4 * (self.topk + 1) * height * width
        kept = raw[:split].view(torch.float16).view(2, self.topk + 1, height, width)
        classes = raw[split:].view(2, self.topk, height, width)
        dense = kept[:, -1:].repeat(1, self.classes, 1, 1)
        return dense.scatter_(1, classes.long(), kept[:, :-1])


def to_half(values: Tensor) -> Tensor:
    """Values as float16, those beyond its range as its largest ones; NaN stays what it is."""
    return values.clamp(-LARGEST, LARGEST).half()


class LogitsCache(ShardStore):
    """Logits of many images in one folder, or features.

    Args:
        root: holds one folder per format, so that outputs of two teachers or input sizes never mix.
        form: the format.
        shared: indices of the student's classes that the teacher has and the format holds; None for all.
        classes: how many the student has, where `shared` are not all.
    """

    def __init__(
        self, root: Path, form: LogitsFormat, shared: Sequence[int] | None = None, classes: int = 0
    ) -> None:
        self.form, self.shared, self.classes = form, shared, classes
        super().__init__(root, form, LOGITS_RECORD)

    def length(self, record: Any) -> int:
        """Bytes of the outputs that a line of the index points to."""
        return self.form.record_bytes((int(record["height"]), int(record["width"])))

    def read(self, key: int, size: tuple[int, int]) -> Tensor | None:
        """The outputs of the image `key` of H x W pixels; None where none are whole.

        Returns:
            2 x K x h x w, of all of the student's classes: those that the teacher lacks get the logits that
            `LabelMap` gives them.
        """
        for row in self.rows(key):
            record = self.records[row]
            if (record["height"], record["width"]) == tuple(size):
                data = self.data(row)
                if data is not None:
                    return self._with_absent(self.form.decode(data, size))
        return None

    def _with_absent(self, kept: Tensor) -> Tensor:
        """Logits of the shared classes as those of all classes."""
        if self.shared is None:
            return kept
        absent = kept.float().logsumexp(dim=1, keepdim=True) - ABSENT
        logits = to_half(absent).repeat(1, self.classes, 1, 1)
        logits[:, self.shared] = kept
        return logits

    def writer(self, rank: int) -> "LogitsWriter":
        """What process `rank` appends with; two processes must not have the same one."""
        return LogitsWriter(self.shard(rank), self.form)


class LogitsWriter(ShardWriter):
    """Appends logits, or features, to one shard of a cache.

    Attributes:
        clamped: how many of the images had values beyond `LARGEST`, which were clamped.
    """

    def __init__(self, path: Path, form: LogitsFormat) -> None:
        super().__init__(path, LOGITS_RECORD)
        self.form, self.clamped = form, 0

    def write(self, key: int, size: tuple[int, int], logits: Tensor) -> None:
        """Append the outputs (2 x K x h x w) of the image `key` of H x W pixels."""
        self.clamped += bool((logits.abs() > LARGEST).any())
        data = self.form.encode(logits)
        assert len(data) == self.form.record_bytes(size), "the grid is not the format's"
        self.append(key, size, data)


@dataclass(frozen=True)
class TeacherCache:
    """A teacher's outputs for many images: its logits, its features where losses compare them, or both."""

    logits: LogitsCache | None
    features: LogitsCache | None = None
    stride: int = 1
    """Pixels of a crop per feature that is compared: that of the student's features."""

    @property
    def all(self) -> list[LogitsCache]:
        """One or both."""
        return [cache for cache in (self.logits, self.features) if cache is not None]

    def holds(self, key: int) -> bool:
        """Whether everything of the image `key` is there, whole."""
        return all(cache.holds(key) for cache in self.all)

    def reload(self) -> None:
        """Read the indexes again, after other processes have written."""
        for cache in self.all:
            cache.reload()


def image_key(image_id: str, path: File, bits: int | None = None) -> int:
    """What an image is looked up by: its id, its file's length and the bits that it is read with.

    So that a replaced image, or one that is scaled otherwise, is missed.
    """
    text = f"{image_id}\0{path.stat().st_size}" + (f"\0{bits} bits" if bits else "")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def cut_logits(
    logits: Tensor,
    crop: Crop,
    size: tuple[int, int],
    native: tuple[int, int],
    form: LogitsFormat,
    cells: int | None = None,
) -> GridCrop:
    """The logits (or features) of a crop, with the weights that interpolate them between the grid points.

    Args:
        logits: 2 x K x h x w float16 or float32, of an image and of its mirror image.
        crop: drawn of that image.
        size: H, W of that image in pixels.
        native: H, W of the image file: another one where the crop is drawn of a downscaled image.
        form: where the grid points lie.
        cells: rows and columns of the result, each the centre of a cell of the crop; None for S.
    """
    pixels = form.input_size(native)
    height, width = logits.shape[2:]
    cells = cells or crop.size
    centres = (torch.arange(cells) + 0.5) * crop.size / cells
    down, across = centres - crop.pad_top, centres - crop.pad_left
    rows = _bilinear(
        (crop.top + down / crop.out_height * crop.height) / size[0], height, pixels[0], form.grid, form.stride
    )
    # A mirrored crop is the same box of the mirror image, counted from its other side.
    left = size[1] - crop.left - crop.width if crop.flip else crop.left
    columns = _bilinear(
        (left + across / crop.out_width * crop.width) / size[1], width, pixels[1], form.grid, form.stride
    )
    rows *= ((down >= 0) & (down <= crop.out_height))[:, None]
    columns *= ((across >= 0) & (across <= crop.out_width))[:, None]
    return GridCrop(logits[int(crop.flip)], rows, columns)


def to_grid(logits: Tensor, grid: tuple[int, int], align_corners: bool) -> Tensor:
    """N x K x H x W logits -> N x K x h x w: the grid whose bilinear upsampling comes closest to them.

    Where they are upsampled so, as most networks' are, this is what was upsampled.
    """
    rows, columns = (
        downsampling(points, pixels, align_corners).to(logits.device)
        for points, pixels in zip(grid, logits.shape[2:], strict=True)
    )
    return rows @ logits @ columns.T


def fit_features(features: Tensor, form: LogitsFormat, size: tuple[int, int]) -> Tensor:
    """A network's features of an H x W image -> those at the points of the strided grid of `form`.

    Encoders round the last, incomplete cell up or down: where it is missing, the one before it is repeated,
    and what is too much is cut. A map of another resolution, as of a network that resizes its input to one
    fixed size, is taken as stretched over the image.

    Args:
        features: N x C x any rows x any columns.
        form: whose grid is strided.
        size: H, W.

    Returns:
        N x C x h x w.
    """
    grid, found = form.grid_size(size), features.shape[2:]
    rows, columns = (points - length for points, length in zip(grid, found, strict=True))
    if max(abs(rows), abs(columns)) <= 1:
        inner = features[:, :, : grid[0], : grid[1]]
        return F.pad(inner, (0, max(0, columns), 0, max(0, rows)), mode="replicate")
    down, across = (
        _bilinear((torch.arange(points) + 0.5) * form.stride / pixels, length, pixels, "stretched")
        for points, length, pixels in zip(grid, found, form.input_size(size), strict=True)
    )
    return down.to(features) @ features @ across.T.to(features)


@lru_cache(maxsize=256)
def downsampling(points: int, pixels: int, align_corners: bool) -> Tensor:
    """Weights (points x pixels) of an axis's pixels for each grid point: the inverse of `upsampling`."""
    return torch.linalg.pinv(upsampling(points, pixels, align_corners))


@lru_cache(maxsize=64)
def upsampling(points: int, pixels: int, align_corners: bool) -> Tensor:
    """Weights (pixels x points) of the grid points for each pixel of one axis of the teacher's input."""
    at = (torch.arange(pixels) + 0.5) / pixels
    return _bilinear(at, points, pixels, "corners" if align_corners else "stretched")


def _bilinear(at: Tensor, points: int, pixels: int, grid: Grid, stride: int = 1) -> Tensor:
    """Weights (out x points) of the grid points at the positions `at` (0 to 1) of one axis of `pixels`."""
    if grid == "corners":
        at = (at * pixels - 0.5) * (points - 1) / max(1, pixels - 1)
    elif grid == "strided":
        at = at * pixels / stride - 0.5
    else:
        at = at * points - 0.5
    at = at.clamp(0, points - 1)
    # A hat function of width 1 around each grid point: linear interpolation between the two nearest.
    return (1 - (at[:, None] - torch.arange(points)).abs()).clamp(min=0)
