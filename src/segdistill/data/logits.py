"""The teacher's logits of whole images in a file, and the part of them that belongs to a view.

K: classes, H, W: rows and columns of an image, h, w: of the coarser grid that its logits are kept on.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.transforms import View, scaled_size
from segdistill.files import write_atomic

INDEX = "index.json"
RECORD = np.dtype([("key", "<u8"), ("offset", "<u8"), ("height", "<u2"), ("width", "<u2"), ("crc", "<u4")])
"""One line of a part's index: whose logits (of which image size) begin at which byte of the part."""


@dataclass(frozen=True, kw_only=True)
class LogitsFormat:
    """How logits are kept; two caches of one format hold the same numbers.

    Attributes:
        classes: K.
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

    def decode(self, data: bytes, size: tuple[int, int]) -> Tensor:
        """The bytes of an H x W image -> 2 x K x h x w float32."""
        height, width = self.grid(size)
        if not self.topk:
            values = np.frombuffer(data, np.float16).reshape(2, self.classes, height, width)
            return torch.from_numpy(values.astype(np.float32))
        split = 4 * (self.topk + 1) * height * width
        values = np.frombuffer(data[:split], np.float16).reshape(2, self.topk + 1, height, width)
        classes = np.frombuffer(data[split:], np.uint8).reshape(2, self.topk, height, width)
        kept = torch.from_numpy(values.astype(np.float32))
        dense = kept[:, -1:].repeat(1, self.classes, 1, 1)
        return dense.scatter_(1, torch.from_numpy(classes.astype(np.int64)), kept[:, :-1])


class LogitsCache:
    """Logits of many images in one folder, written by several processes, read by any number.

    Each process appends to a part of its own: the logits to `part-N.bin`, then a record to `part-N.idx`. What
    a process that died left half written is not in an index, or fails its checksum, and counts as absent.

    Args:
        root: holds one folder per format, so that logits of two teachers or views never mix.
        form: the format.
    """

    def __init__(self, root: Path, form: LogitsFormat) -> None:
        self.form = form
        digest = hashlib.sha256(json.dumps(asdict(form), sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:16]
        self.reload()

    def reload(self) -> None:
        """Read the indexes again, after other processes have written."""
        self.parts = sorted(self.folder.glob("part-*.bin"))
        found = []
        for number, part in enumerate(self.parts):
            raw = part.with_suffix(".idx").read_bytes() if part.with_suffix(".idx").is_file() else b""
            records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
            found.append((np.full(len(records), number), records))
        part_of = np.concatenate([numbers for numbers, _ in found]) if found else np.empty(0, np.int64)
        records = np.concatenate([records for _, records in found]) if found else np.empty(0, RECORD)
        order = np.argsort(records["key"], kind="stable")
        self.records, self.part_of = records[order], part_of[order]
        self._maps: dict[int, np.ndarray[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self.records)

    def holds(self, key: int) -> bool:
        """Whether there are whole logits of the image `key`."""
        return any(self._data(row) is not None for row in self._rows(key))

    def read(self, key: int, size: tuple[int, int]) -> Tensor | None:
        """The logits (2 x K x h x w) of the image `key` of H x W pixels; None where none are whole."""
        for row in self._rows(key):
            record = self.records[row]
            if (record["height"], record["width"]) == tuple(size):
                data = self._data(row)
                if data is not None:
                    return self.form.decode(data, size)
        return None

    def _rows(self, key: int) -> range:
        """Where the records of a key are; several where a first one was torn."""
        keys = self.records["key"]
        return range(*(int(np.searchsorted(keys, np.uint64(key), side)) for side in ("left", "right")))

    def _data(self, row: int) -> bytes | None:
        """The logits that a record points to, None where they are torn or their checksum is wrong."""
        part, record = int(self.part_of[row]), self.records[row]
        if part not in self._maps:
            empty = self.parts[part].stat().st_size == 0  # cannot be mapped
            self._maps[part] = np.empty(0, np.uint8) if empty else np.memmap(self.parts[part], np.uint8, "r")
        length = self.form.record_bytes((int(record["height"]), int(record["width"])))
        offset = int(record["offset"])
        data = self._maps[part][offset : offset + length].tobytes()
        return data if len(data) == length and zlib.crc32(data) == record["crc"] else None

    def writer(self, rank: int) -> "LogitsWriter":
        """What process `rank` appends with; two processes must not have the same one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            write_atomic(self.folder / INDEX, json.dumps(asdict(self.form), indent=2) + "\n")
        return LogitsWriter(self.folder / f"part-{rank:05d}.bin", self.form)

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers open the files themselves."""
        return self.__dict__ | {"_maps": {}}


class LogitsWriter:
    """Appends to one part of a cache; a context manager."""

    def __init__(self, path: Path, form: LogitsFormat) -> None:
        self.form = form
        index = path.with_suffix(".idx")
        torn = index.stat().st_size % RECORD.itemsize if index.is_file() else 0
        if torn:
            with index.open("r+b") as file:
                file.truncate(index.stat().st_size - torn)
        self.data, self.index = path.open("ab"), index.open("ab")

    def write(self, key: int, size: tuple[int, int], logits: Tensor) -> None:
        """Append the logits (2 x K x h x w) of the image `key` of H x W pixels."""
        data = self.form.encode(logits)
        assert len(data) == self.form.record_bytes(size), "the grid is not the format's"
        record = np.array([(key, self.data.tell(), *size, zlib.crc32(data))], RECORD)
        self.data.write(data)
        self.data.flush()  # before the record that points to it
        self.index.write(record.tobytes())
        self.index.flush()

    def __enter__(self) -> "LogitsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.data.close()
        self.index.close()


def image_key(image_id: str, path: str | Path) -> int:
    """What an image is looked up by: its id and its file's length, so that a replaced image is missed."""
    text = f"{image_id}\0{Path(path).stat().st_size}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def cut_view(logits: Tensor, view: View, size: tuple[int, int], canvas: int, form: LogitsFormat) -> Tensor:
    """The logits of a view, bilinear between the grid points.

    Args:
        logits: 2 x K x h x w, of an image and of its mirror image.
        view: drawn of that image.
        size: its H, W in pixels.
        canvas: S, side of the view's canvas.
        form: where the grid points lie.

    Returns:
        K x S x S float16; 0 on padding.
    """
    seen = form.seen(size)
    height, width = logits.shape[2:]
    rows = _hats(
        _places(view.top, view.height, view.out_height) / size[0], height, seen[0], form.align_corners
    )
    across = _places(view.left, view.width, view.out_width) / size[1]
    if view.flip:  # the view runs backwards, and so does the mirror image
        across = 1 - across.flip(0)
    columns = _hats(across, width, seen[1], form.align_corners)
    cut = rows @ logits[int(view.flip)] @ columns.T
    right = canvas - view.pad_left - view.out_width
    below = canvas - view.pad_top - view.out_height
    return F.pad(cut, (view.pad_left, right, view.pad_top, below)).half()


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
    return _hats(_places(0, seen, seen) / seen, points, seen, align_corners)


def _places(start: int, extent: int, out: int) -> Tensor:
    """Where in the image the centres of `out` pixels lie that cover `extent` of its own from `start` on."""
    return start + (torch.arange(out) + 0.5) / out * extent


def _hats(at: Tensor, points: int, seen: int, align_corners: bool) -> Tensor:
    """Weights (out x points) of the grid points at the places `at` (0 to 1) of one axis."""
    at = (at * seen - 0.5) * (points - 1) / max(1, seen - 1) if align_corners else at * points - 0.5
    at = at.clamp(0, points - 1)
    # A hat function of width 1 around each grid point: linear interpolation between the two nearest.
    return (1 - (at[:, None] - torch.arange(points)).abs()).clamp(min=0)
