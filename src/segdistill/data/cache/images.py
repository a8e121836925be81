"""The decoded training images in memory-mapped files: for small crops, decoding costs more than the step.

H, W: rows and columns of an image file, h, w: of the image as it is kept (downscaled, where it is).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segdistill.data.cache.store import ShardStore, ShardWriter
from segdistill.data.labels import VOID
from segdistill.data.samples import DownscaledSamples, Sample, Samples

IMAGE_RECORD = np.dtype(
    [
        ("key", "<u8"),
        ("offset", "<u8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("native_height", "<u4"),
        ("native_width", "<u4"),
        ("planes", "<u4"),
        ("crc", "<u4"),
    ]
)
"""One line of a shard's index; planes is 4 for an image with a mask, 3 for one without."""


@dataclass(frozen=True, kw_only=True)
class DecodedFormat:
    """What decides the bytes of a decoded image beside its files.

    Attributes:
        long_side: that images are downscaled to; None keeps their size.
        layout: number of the layout of the bytes.
        pillow: version of the library that decodes.
        torchvision: version of the library that resizes.
        torch: version of the library beneath it.
    """

    long_side: int | None
    layout: int = 2
    pillow: str = version("pillow")
    torchvision: str = version("torchvision")
    torch: str = version("torch")


class DecodedCache(ShardStore):
    """Decoded images and masks of many samples in one folder.

    Args:
        root: holds one folder per format.
        form: the format.
    """

    def __init__(self, root: Path, form: DecodedFormat) -> None:
        super().__init__(root, form, IMAGE_RECORD)

    def length(self, record: Any) -> int:
        """Bytes of the image, and of the mask where it has one."""
        return int(record["height"]) * int(record["width"]) * int(record["planes"])

    def read(self, key: int) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
        """Image (3 x h x w), mask (h x w) and H, W of the sample `key`; None where none are whole."""
        for row in self.rows(key):
            data = self.data(row)
            if data is not None:
                record = self.records[row]
                height, width = int(record["height"]), int(record["width"])
                pixels, rest = np.split(data, [3 * height * width])
                image = torch.from_numpy(pixels.reshape(height, width, 3)).permute(2, 0, 1)
                mask = torch.full((height, width), VOID, dtype=torch.uint8)
                if len(rest):
                    mask = torch.from_numpy(rest.reshape(height, width))
                return image, mask, (int(record["native_height"]), int(record["native_width"]))
        return None

    def writer(self, rank: int) -> ShardWriter:
        """What process `rank` appends with; two processes must not have the same one."""
        return ShardWriter(self.shard(rank), IMAGE_RECORD)


class DecodedSamples(DownscaledSamples):
    """Samples that are read from a cache where it holds them, and decoded where it does not.

    Args:
        samples: at the size of their files, as `open_training` returns them.
        long_side: that they are downscaled to, in pixels; None keeps their size.
        root: folder of the cache.
    """

    def __init__(self, samples: Samples, long_side: int | None, root: Path) -> None:
        super().__init__(samples, long_side)
        self.cache = DecodedCache(root, DecodedFormat(long_side=long_side))
        self.keys = np.fromiter((sample_key(samples, i) for i in range(len(self))), np.uint64, len(self))

    def __getitem__(self, index: int) -> Sample:
        kept = self.cache.read(int(self.keys[index]))
        if kept is None:
            return super().__getitem__(index)
        image, mask, native = kept
        return Sample(image, mask, self.files(index).id, native)

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Those of the samples `indices` that the cache does not hold, or whose bytes there are damaged."""
        return [index for index in indices if not self.cache.holds(int(self.keys[index]))]

    def kept(self) -> int:
        """How many of the samples the cache holds."""
        return int(np.isin(self.keys, self.cache.records["key"]).sum())

    def write(self, writer: ShardWriter, index: int, sample: Sample, room: float) -> int:
        """Append a sample as it was read, if it takes `room` bytes at most; returns the bytes it took."""
        masked = self.files(index).mask is not None
        planes = [sample.image.permute(1, 2, 0), *([sample.mask[..., None]] if masked else [])]
        data = np.concatenate([plane.numpy().ravel() for plane in planes])
        if len(data) > room:
            return 0
        fields = (*sample.mask.shape, *sample.native, sum(plane.shape[2] for plane in planes))
        writer.append(int(self.keys[index]), fields, data.data)
        return len(data)


def sample_key(samples: Samples, index: int) -> int:
    """What a sample is looked up by: its id, its files with length and time, and how they are read."""
    files = samples.files(index)
    facts = [files.id, str(len(samples.labels)), str(files.void)] + [files.form] * bool(files.form)
    facts += [f"{files.bits} bits"] * bool(files.bits)
    for path in (files.image, files.mask):
        if path is not None:
            state = path.stat() if path.exists() else None  # a mask that appears is another mask
            facts += [str(path.absolute()), *([str(state.st_size), str(state.st_mtime_ns)] if state else [])]
    return int.from_bytes(hashlib.blake2b("\0".join(facts).encode(), digest_size=8).digest(), "little")
