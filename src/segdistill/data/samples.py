"""What a data set is: samples by index, where their files are, and how many of them have masks."""

from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from torchvision.transforms.v2 import functional as F

from segdistill.data.images import read_image, read_mask
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.transforms import downscale

NAME = np.dtypes.StringDType()
"""Strings of any length, kept as UTF-8 beside each other."""


class Sample(NamedTuple):
    """One image with its mask, at the size of its files unless it was reduced."""

    image: Tensor
    """3 x H x W uint8 RGB."""
    mask: Tensor
    """H x W uint8, class index or `VOID`; all `VOID` for an unlabelled image."""
    id: str
    native: tuple[int, int]
    """H, W of the image file."""


class FileSamples(Dataset[Sample]):
    """Images with masks, or without.

    Args:
        labels: what the indices of the mask files mean.
        ids: a name for each sample, unique in the data set.
        images: image files, in the order of `ids`.
        masks: mask files in the same order, or None for an unlabelled data set.
    """

    def __init__(
        self, labels: LabelSet, ids: list[str], images: list[Path], masks: list[Path] | None = None
    ) -> None:
        self.labels = labels
        # Arrays of bytes, not lists of objects: forked loader workers would copy the lists page by page.
        self.ids = np.array(ids, dtype=NAME)
        self.images = np.array([str(path) for path in images], dtype=NAME)
        self.masks = None if masks is None else np.array([str(path) for path in masks], dtype=NAME)
        self._from_file = np.full(256, VOID - 1, dtype=np.uint8)  # VOID - 1 marks what is outside the set
        self._from_file[: len(labels)] = np.arange(len(labels), dtype=np.uint8)
        self._from_file[[VOID, labels.void]] = VOID

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            FileNotFoundError: a file has vanished.
            ValueError: a file is unreadable, the sizes differ, or the mask has a label outside the set.
        """
        image = F.pil_to_tensor(read_image(Path(self.images[index])))
        size = (image.shape[1], image.shape[2])
        return Sample(image, self.read_mask(index, size), str(self.ids[index]), size)

    def read_mask(self, index: int, size: tuple[int, ...]) -> Tensor:
        """The mask of sample `index` (H x W uint8), which must have the image's `size` (H, W)."""
        if self.masks is None:
            return torch.full(size, VOID, dtype=torch.uint8)
        path = self.masks[index]
        stored = read_mask(Path(path))
        if stored.shape != tuple(size):
            raise ValueError(
                f"{path} is {stored.shape[1]}x{stored.shape[0]} pixels, but its image is {size[1]}x{size[0]}"
            )
        mask = self._from_file[stored]
        if (mask == VOID - 1).any():
            wrong = sorted({int(value) for value in np.unique(stored[mask == VOID - 1])})
            raise ValueError(
                f"{path} holds the label {', '.join(map(str, wrong[:5]))}, but labels are 0 to "
                f"{len(self.labels) - 1} and void is {self.labels.void}"
            )
        return torch.from_numpy(mask)

    def part(self, kept: NDArray[np.bool_], *, masked: bool = True) -> "FileSamples":
        """The samples marked in `kept`, with their masks or without."""
        images = [Path(path) for path in self.images[kept]]
        masks = [Path(path) for path in self.masks[kept]] if masked and self.masks is not None else None
        return FileSamples(self.labels, self.ids[kept].tolist(), images, masks)


class DownscaledSamples(Dataset[Sample]):
    """Samples that are reduced to a long side when they are read.

    Args:
        samples: at the size of their files.
        long_side: in pixels; smaller samples stay as they are, and so do all where it is None.
    """

    def __init__(self, samples: Dataset[Sample], long_side: int | None) -> None:
        self.samples, self.long_side = samples, long_side

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if self.long_side is None:
            return sample
        image, mask = downscale(sample.image, sample.mask, self.long_side)
        return sample._replace(image=image, mask=mask)


def source(samples: Dataset[Sample], index: int) -> tuple[FileSamples, int]:
    """Where one sample of what `open_training` returned comes from: its data set, and its index there."""
    if isinstance(samples, DownscaledSamples):
        return source(samples.samples, index)
    if isinstance(samples, ConcatDataset):
        part = bisect_right(samples.cumulative_sizes, index)
        before = samples.cumulative_sizes[part - 1] if part else 0
        return source(samples.datasets[part], index - before)
    assert isinstance(samples, FileSamples)
    return samples, index


def image_file(samples: Dataset[Sample], index: int) -> tuple[str, str]:
    """Id and image file of one sample of what `open_training` returned."""
    dataset, own = source(samples, index)
    return str(dataset.ids[own]), str(dataset.images[own])


def labelled_count(samples: Dataset[Sample]) -> int:
    """How many samples of what `open_training` returned have masks; they come first."""
    if isinstance(samples, DownscaledSamples):
        return labelled_count(samples.samples)
    if isinstance(samples, ConcatDataset):
        return sum(labelled_count(part) for part in samples.datasets)
    assert isinstance(samples, FileSamples)
    return 0 if samples.masks is None else len(samples)
