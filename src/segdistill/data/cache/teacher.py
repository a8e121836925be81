"""What a teacher says of whole images (logits, features) in files, and the part that belongs to a view.

K: classes, or channels of features, H, W: rows and columns of an image, h, w: of the coarser grid that all of
it is kept on.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segdistill.data.cache.store import Bytes, ShardStore, ShardWriter
from segdistill.data.transforms import Crop, scaled_size

RECORD = np.dtype([("key", "<u8"), ("offset", "<u8"), ("height", "<u2"), ("width", "<u2"), ("crc", "<u4")])
"""One line of a part's index: whose logits (of which image size) begin at which byte of the part."""


@dataclass(frozen=True, kw_only=True)
class LogitsFormat:
    """How logits are kept; two caches of one format hold the same numbers.

    Attributes:
        classes: K; of features the number of channels.
        square: side in pixels of the square that images are stretched to first; None keeps their proportions.
        scale: enlargement of the image before the teacher looks at it.
        stride: pixels of that view per grid point.
        align_corners: whether the outermost grid points lie on the centres of the outermost pixels (else
            each grid point is the centre of its cell).
        topk: classes kept per grid point; 0 keeps all.
        teacher: its fingerprint, with everything else that decides what it answers.
    """

    classes: int
    square: int | None
    scale: float
    stride: int
    align_corners: bool
    topk: int
    teacher: str

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """H, W of what the teacher sees of an H x W image."""
        return scaled_size((self.square, self.square) if self.square else size, self.scale)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns (h, w) of the grid of an H x W image."""
        height, width = self.seen(size)
        return -(-height // self.stride), -(-width // self.stride)

    def record_bytes(self, size: tuple[int, int]) -> int:
        """Bytes of the logits of an H x W image, mirrored image included."""
        height, width = self.grid(size)
        point = 2 * self.classes if not self.topk else 3 * self.topk + 2
        return 2 * point * height * width

    def encode(self, logits: Tensor) -> bytes:
        """2 x K x h x w logits (of the image, of its mirror image) -> bytes.

        The sparse form keeps the `topk` largest logits, their classes, and one number for all others: the
        logit that each would need for their probabilities to add up to what they did.
        """
        if not self.topk:
            return logits.half().cpu().numpy().tobytes()
        values, classes = logits.float().topk(self.topk, dim=1)
        others = logits.float().scatter(1, classes, -torch.inf).logsumexp(dim=1, keepdim=True)
        others -= float(np.log(self.classes - self.topk))
        kept = torch.cat([values, others], dim=1).half().cpu().numpy().tobytes()
        return kept + classes.to(torch.uint8).cpu().numpy().tobytes()

    def decode(self, data: bytes | Bytes, size: tuple[int, int]) -> Tensor:
        """The bytes of an H x W image -> 2 x K x h x w float16."""
        height, width = self.grid(size)
        raw = torch.from_numpy(np.array(np.frombuffer(data, np.uint8)))
        if not self.topk:
            return raw.view(torch.float16).view(2, self.classes, height, width)
        split = 4 * (self.topk + 1) * height * width
        kept = raw[:split].view(torch.float16).view(2, self.topk + 1, height, width)
        classes = raw[split:].view(2, self.topk, height, width)
        dense = kept[:, -1:].repeat(1, self.classes, 1, 1)
        return dense.scatter_(1, classes.long(), kept[:, :-1])


class LogitsCache(ShardStore):
    """Logits of many images in one folder.

    Args:
        root: holds one folder per format, so that logits of two teachers or views never mix.
        form: the format.
    """

    def __init__(self, root: Path, form: LogitsFormat) -> None:
        self.form = form
        super().__init__(root, form, RECORD)

    def length(self, record: Any) -> int:
        """Bytes of the logits that a line of the index points to."""
        return self.form.record_bytes((int(record["height"]), int(record["width"])))

    def read(self, key: int, size: tuple[int, int]) -> Tensor | None:
        """The logits (2 x K x h x w) of the image `key` of H x W pixels; None where none are whole."""
        for row in self.rows(key):
            record = self.records[row]
            if (record["height"], record["width"]) == tuple(size):
                data = self.data(row)
                if data is not None:
                    return self.form.decode(data, size)
        return None

    def writer(self, rank: int) -> "LogitsWriter":
        """What process `rank` appends with; two processes must not have the same one."""
        return LogitsWriter(self.part(rank), self.form)


class LogitsWriter(ShardWriter):
    """Appends logits to one part of a cache."""

    def __init__(self, path: Path, form: LogitsFormat) -> None:
        super().__init__(path, RECORD)
        self.form = form

    def write(self, key: int, size: tuple[int, int], logits: Tensor) -> None:
        """Append the logits (2 x K x h x w) of the image `key` of H x W pixels."""
        data = self.form.encode(logits)
        assert len(data) == self.form.record_bytes(size), "the grid is not the format's"
        self.append(key, size, data)


@dataclass(frozen=True)
class TeacherCache:
    """What a teacher says of many images: its logits, and its features where losses compare them."""

    logits: LogitsCache
    features: LogitsCache | None = None

    @property
    def all(self) -> list[LogitsCache]:
        """One or both."""
        return [self.logits] if self.features is None else [self.logits, self.features]

    def holds(self, key: int) -> bool:
        """Whether everything of the image `key` is there, whole."""
        return all(cache.holds(key) for cache in self.all)

    def reload(self) -> None:
        """Read the indexes again, after other processes have written."""
        for cache in self.all:
            cache.reload()


def image_key(image_id: str, path: str | Path) -> int:
    """What an image is looked up by: its id and its file's length, so that a replaced image is missed."""
    text = f"{image_id}\0{Path(path).stat().st_size}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def crop_logits(
    logits: Tensor,
    view: Crop,
    size: tuple[int, int],
    native: tuple[int, int],
    canvas: int,
    form: LogitsFormat,
    cells: int | None = None,
) -> Tensor:
    """The logits (or features) of a view, bilinear between the grid points.

    Args:
        logits: 2 x K x h x w float16 or float32, of an image and of its mirror image.
        view: drawn of that image.
        size: H, W of that image in pixels.
        native: H, W of the image that the teacher saw: another one where the view is drawn of a reduced one.
        canvas: S, side of the view's canvas.
        form: where the grid points lie.
        cells: rows and columns of the result, each the centre of a cell of the canvas; None for S.

    Returns:
        K x cells x cells float16; 0 on padding.
    """
    seen = form.seen(native)
    height, width = logits.shape[2:]
    places = (torch.arange(cells or canvas) + 0.5) * canvas / (cells or canvas)
    down, across = places - view.pad_top, places - view.pad_left
    rows = _hats(
        (view.top + down / view.out_height * view.height) / size[0], height, seen[0], form.align_corners
    )
    # A mirrored view is the same box of the mirror image, counted from its other side.
    left = size[1] - view.left - view.width if view.flip else view.left
    columns = _hats(
        (left + across / view.out_width * view.width) / size[1], width, seen[1], form.align_corners
    )
    rows *= ((down >= 0) & (down <= view.out_height))[:, None]
    columns *= ((across >= 0) & (across <= view.out_width))[:, None]
    return (rows @ logits[int(view.flip)].float() @ columns.T).half()


def to_grid(logits: Tensor, grid: tuple[int, int], align_corners: bool) -> Tensor:
    """N x K x H x W logits -> N x K x h x w: the grid whose bilinear enlargement comes closest to them.

    Where they are such an enlargement, as most networks' are, this is what was enlarged.
    """
    rows, columns = (
        torch.linalg.pinv(enlargement(points, seen, align_corners).to(logits.device))
        for points, seen in zip(grid, logits.shape[2:], strict=True)
    )
    return rows @ logits @ columns.T


@lru_cache(maxsize=64)
def enlargement(points: int, seen: int, align_corners: bool) -> Tensor:
    """Weights (seen x points) of the grid points for each pixel of one axis of the teacher's view."""
    return _hats((torch.arange(seen) + 0.5) / seen, points, seen, align_corners)


def _hats(at: Tensor, points: int, seen: int, align_corners: bool) -> Tensor:
    """Weights (out x points) of the grid points at the places `at` (0 to 1) of one axis."""
    at = (at * seen - 0.5) * (points - 1) / max(1, seen - 1) if align_corners else at * points - 0.5
    at = at.clamp(0, points - 1)
    # A hat function of width 1 around each grid point: linear interpolation between the two nearest.
    return (1 - (at[:, None] - torch.arange(points)).abs()).clamp(min=0)
