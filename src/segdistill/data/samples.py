"""What a data set is: samples by index, where their files are, and how many of them have masks."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segdistill.data.images import File, read_image
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import NAME, IndexMasks, MaskReader, SampleFiles
from segdistill.data.transforms import downscale, to_tensor


class Sample(NamedTuple):
    """One image with its mask, at the size of its files unless it was downscaled."""

    image: Tensor
    """3 x H x W uint8 RGB."""
    mask: Tensor
    """H x W uint8, class index or `VOID`; all `VOID` for an unlabelled image."""
    id: str
    native: tuple[int, int]
    """H, W of the image file."""


class Samples(Dataset[Sample], ABC):
    """A data set: what training, evaluation and the caches need of it, whatever its layout on the disk."""

    labels: LabelSet
    """What the class indices of the masks mean."""
    void: str = ""
    """What void is in the mask files, see `MaskReader.void`."""

    @property
    @abstractmethod
    def labelled(self) -> int:
        """How many of the samples, the first ones, have masks."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def files(self, index: int) -> SampleFiles:
        """Id and files of one sample, without opening them."""

    def mask(self, index: int) -> Tensor:
        """The mask of one sample alone (H x W uint8), cheaper than the sample where its file is read."""
        return self[index].mask


class FileSamples(Samples):
    """Images with masks, or without.

    Args:
        labels: what the indices of the masks mean.
        ids: a name for each sample, unique in the data set.
        images: image files, in the order of `ids`.
        masks: mask files in the same order, or None for an unlabelled data set.
        reader: of the mask files; None for files of indices.
        find: turns `str(file)` back into the file, see `FileList.find`.

    Attributes:
        bits: per channel, of image files that have more than 8, see `read_image`.
    """

    bits: int | None = None

    def __init__(
        self,
        labels: LabelSet,
        ids: list[str],
        images: Sequence[File],
        masks: Sequence[File] | None = None,
        reader: MaskReader | None = None,
        find: Callable[[str], File] = Path,
    ) -> None:
        self.labels, self.reader, self.find = labels, reader or IndexMasks(labels), find
        self.void = self.reader.void
        # Arrays of bytes, not lists of objects: forked loader workers would copy the lists page by page.
        self.ids = np.array(ids, dtype=NAME)
        self.images = np.array([str(path) for path in images], dtype=NAME)
        self.masks = None if masks is None else np.array([str(path) for path in masks], dtype=NAME)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> int:
        """All of the samples, or none."""
        return 0 if self.masks is None else len(self)

    def files(self, index: int) -> SampleFiles:
        """Id and files of one sample."""
        mask = None if self.masks is None else self.find(self.masks[index])
        form = "" if mask is None else self.reader.form
        image = self.find(self.images[index])
        return SampleFiles(str(self.ids[index]), image, mask, self.labels.void, form, self.bits)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            FileNotFoundError: a file has vanished.
            ValueError: a file is unreadable, the sizes differ, or the mask has a label outside the set.
        """
        image = to_tensor(read_image(self.find(self.images[index]), self.bits))
        size = (image.shape[1], image.shape[2])
        return Sample(image, self.read_mask(index, size), str(self.ids[index]), size)

    def mask(self, index: int) -> Tensor:
        """The mask of one sample (H x W uint8); that of an unlabelled one is as large as its image."""
        return self[index].mask if self.masks is None else self.read_mask(index)

    def read_mask(self, index: int, size: tuple[int, int] | None = None) -> Tensor:
        """The mask of sample `index` (H x W uint8), which must have the image's `size` (H, W) where given."""
        if self.masks is None:
            assert size is not None
            return torch.full(size, VOID, dtype=torch.uint8)
        return torch.from_numpy(self.reader.read(self.files(index), size))

    def subset(self, kept: NDArray[np.bool_], *, masked: bool = True) -> "FileSamples":
        """The samples marked in `kept`, with their masks or without."""
        images = [self.find(name) for name in self.images[kept]]
        masks = [self.find(name) for name in self.masks[kept]] if masked and self.masks is not None else None
        ids = self.ids[kept].tolist()
        return FileSamples(self.labels, ids, images, masks, self.reader, self.find).with_bits(self.bits)

    def with_bits(self, bits: int | None) -> Self:
        """Itself, with images that are read as of so many bits per channel where they have more than 8."""
        self.bits = bits
        return self

    def read_for(self, *networks: int | None) -> Self:
        """Itself, with the bits of the networks that get its images where the data set itself does not say.

        Args:
            networks: `bits` of each; the first that is not None counts.
        """
        return self.with_bits(self.bits or next(filter(None, networks), None))

    def evenly_spaced(self, count: int) -> "FileSamples":
        """`count` of the samples; all of them for 0, or where there are no more."""
        total = len(self)
        if not 0 < count < total:
            return self
        kept = np.zeros(total, dtype=np.bool_)
        kept[[index * total // count for index in range(count)]] = True
        return self.subset(kept)


class JoinedSamples(Samples):
    """Several data sets of the same classes, one after the other; those with masks must come first.

    Args:
        sets: one or more.
    """

    def __init__(self, sets: Sequence[Samples]) -> None:
        self.sets, self.labels, self.void = list(sets), sets[0].labels, sets[0].void
        self.ends = list(accumulate(len(samples) for samples in sets))
        masked = sum(samples.labelled > 0 for samples in sets)
        assert all(samples.labelled == len(samples) for samples in sets[:masked]), "masks come first"

    @property
    def labelled(self) -> int:
        """The masks of all sets."""
        return sum(samples.labelled for samples in self.sets)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        samples, own = self.locate(index)
        return samples[own]

    def files(self, index: int) -> SampleFiles:
        """Id and files of one sample."""
        samples, own = self.locate(index)
        return samples.files(own)

    def mask(self, index: int) -> Tensor:
        """The mask of one sample (H x W uint8)."""
        samples, own = self.locate(index)
        return samples.mask(own)

    def locate(self, index: int) -> tuple[Samples, int]:
        """The set that a sample is of, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self.ends, index)
        return self.sets[number], index - (self.ends[number - 1] if number else 0)


class DownscaledSamples(Samples):
    """Samples that are downscaled to a long side when they are read.

    Args:
        samples: at the size of their files.
        long_side: in pixels; smaller samples stay as they are, and so do all where it is None.
    """

    def __init__(self, samples: Samples, long_side: int | None) -> None:
        self.samples, self.labels, self.void = samples, samples.labels, samples.void
        self.long_side = long_side

    @property
    def labelled(self) -> int:
        """As many as at the size of the files."""
        return self.samples.labelled

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if self.long_side is None:
            return sample
        image, mask = downscale(sample.image, sample.mask, self.long_side)
        return sample._replace(image=image, mask=mask)

    def files(self, index: int) -> SampleFiles:
        """Id and files of one sample."""
        return self.samples.files(index)
