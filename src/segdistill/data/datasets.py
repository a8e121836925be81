"""Readers of data sets: a VOC devkit, folders of images and masks, folders of images alone."""

from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from torchvision.transforms.v2 import functional as F

from segdistill.config import DataConfig
from segdistill.data.images import SUFFIXES, list_images, read_image, read_mask
from segdistill.data.labels import VOC, VOID, LabelSet, label_set, read_yaml
from segdistill.data.transforms import reduce
from segdistill.files import read_text

DESCRIPTION = "dataset.yaml"
LIST_BYTES = 2**28
"""Largest list of a split: some ten million names."""
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


class SegmentationDataset(Dataset[Sample]):
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

    def part(self, kept: NDArray[np.bool_], *, masked: bool = True) -> "SegmentationDataset":
        """The samples marked in `kept`, with their masks or without."""
        images = [Path(path) for path in self.images[kept]]
        masks = [Path(path) for path in self.masks[kept]] if masked and self.masks is not None else None
        return SegmentationDataset(self.labels, self.ids[kept].tolist(), images, masks)


class ReducedSamples(Dataset[Sample]):
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
        image, mask = reduce(sample.image, sample.mask, self.long_side)
        return sample._replace(image=image, mask=mask)


def open_dataset(
    root: str | Path, split: str, *, layout: str | Path | None = None, strict: bool = True
) -> SegmentationDataset:
    """Open the labelled data set below `root`.

    Args:
        root: a VOC devkit (or a folder that holds VOCdevkit/VOC2012), or a folder with a dataset.yaml.
        split: name of the list file, or what replaces {split} in a folder layout.
        layout: a dataset.yaml that lies elsewhere.
        strict: refuse a data set with a missing file at once; `data check` names them all instead.

    Raises:
        FileNotFoundError: the folder, the list or a file of the data set is missing.
        ValueError: dataset.yaml is wrong.
    """
    folder = Path(root)
    labels = open_labels(root, layout)
    devkit = _devkit(folder)
    if devkit is not None:
        ids, images, masks = _voc_files(devkit, split)
    else:
        ids, images, masks = _folder_files(folder, split, _description(folder, layout))
    if not ids:
        raise FileNotFoundError(f"split {split!r} of {folder} has no images")
    if strict:
        _require_files(images + masks)
    return SegmentationDataset(labels, ids, images, masks)


def open_labels(root: str | Path, layout: str | Path | None = None) -> LabelSet:
    """The label set of the data set below `root`, without looking at its images.

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: dataset.yaml is wrong.
    """
    folder = Path(root)
    if root == "" or not folder.is_dir():
        raise FileNotFoundError(
            f"data.root {str(root)!r} is not a folder; name the data set with --data.root"
        )
    described = _description(folder, layout)
    if described.is_file():
        return label_set(read_yaml(described), str(described))
    if layout:
        raise FileNotFoundError(f"data.layout {layout} does not exist")
    if _devkit(folder) is None:
        raise FileNotFoundError(
            f"{folder} is neither a VOC devkit (no ImageSets folder) nor described by a {DESCRIPTION}; "
            "docs/own-data.md shows how to write one"
        )
    return VOC


def open_unlabelled(folder: str | Path, labels: LabelSet) -> SegmentationDataset:
    """All images below a folder, each with a mask that is void everywhere."""
    images = list(list_images(Path(folder)))
    if not images:
        raise FileNotFoundError(f"{folder} holds no images")
    ids = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
    return SegmentationDataset(labels, ids, images)


def open_training(config: DataConfig, *, taught: bool = True) -> Dataset[Sample]:
    """All that training reads, labelled and unlabelled, as one data set.

    Args:
        config: where the data are, and which share of the masks is used.
        taught: whether a teacher explains the images whose masks are not used; else they are left out.

    Raises:
        ValueError: a further data set has other classes than the first.
    """
    first = open_dataset(config.root, config.split, layout=config.layout)
    sets = [first]
    for source in config.extra:
        root, _, split = source.partition("@")
        further = open_dataset(root, split or config.split)
        if further.labels.names != first.labels.names:
            raise ValueError(
                f"data.extra {source} has the classes {', '.join(further.labels.names)}, "
                f"but {config.root} has {', '.join(first.labels.names)}"
            )
        sets.append(further)
    if config.labelled_share < 1:
        parts = [part_labelled(labelled, config.labelled_share) for labelled in sets]
        sets = [labelled for labelled, _ in parts] + [rest for _, rest in parts if taught]
    sets += [open_unlabelled(folder, first.labels) for folder in config.unlabelled]
    return sets[0] if len(sets) == 1 else ConcatDataset(sets)


def part_labelled(
    samples: SegmentationDataset, share: float
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """A labelled data set in two: with the masks of an evenly spaced `share` of it, and without the others'.

    Raises:
        ValueError: nothing would be labelled.
    """
    counts = np.floor(np.arange(len(samples) + 1) * share + 1e-9)
    kept = np.diff(counts) > 0
    if samples.masks is None or not kept.any():
        raise ValueError(
            f"data.labelled_share is {share}, but must leave one or more of {len(samples)} labelled images"
        )
    return samples.part(kept), samples.part(~kept, masked=False)


def source(samples: Dataset[Sample], index: int) -> tuple[SegmentationDataset, int]:
    """Where one sample of what `open_training` returned comes from: its data set, and its index there."""
    if isinstance(samples, ReducedSamples):
        return source(samples.samples, index)
    if isinstance(samples, ConcatDataset):
        part = bisect_right(samples.cumulative_sizes, index)
        before = samples.cumulative_sizes[part - 1] if part else 0
        return source(samples.datasets[part], index - before)
    assert isinstance(samples, SegmentationDataset)
    return samples, index


def image_file(samples: Dataset[Sample], index: int) -> tuple[str, str]:
    """Id and image file of one sample of what `open_training` returned."""
    dataset, own = source(samples, index)
    return str(dataset.ids[own]), str(dataset.images[own])


def labelled_count(samples: Dataset[Sample]) -> int:
    """How many samples of what `open_training` returned have masks; they come first."""
    if isinstance(samples, ReducedSamples):
        return labelled_count(samples.samples)
    if isinstance(samples, ConcatDataset):
        return sum(labelled_count(part) for part in samples.datasets)
    assert isinstance(samples, SegmentationDataset)
    return 0 if samples.masks is None else len(samples)


def splits(root: str | Path, layout: str | Path | None = None) -> list[str]:
    """Names of the splits that a data set has, sorted."""
    folder = Path(root)
    devkit = _devkit(folder)
    if devkit is not None:
        return sorted(path.stem for path in (devkit / "ImageSets" / "Segmentation").glob("*.txt"))
    described = _description(folder, layout)
    named = read_yaml(described).get("images", "") if described.is_file() else ""
    parts = Path(named if isinstance(named, str) else "").parts
    marked = next((part for part in parts if "{split}" in part), None)
    if marked is None or Path(named).is_absolute() or ".." in parts:
        return ["all"] if parts else []
    depth = len(folder.parts) + parts.index(marked)
    found = folder.glob("/".join(parts).replace("{split}", "*"))
    before, after = marked.split("{split}", 1)
    return sorted(
        path.parts[depth].removeprefix(before).removesuffix(after) for path in found if path.is_dir()
    )


def _devkit(folder: Path) -> Path | None:
    """The VOC devkit that `folder` is or holds."""
    return next((d for d in (folder, folder / "VOCdevkit" / "VOC2012") if (d / "ImageSets").is_dir()), None)


def _description(folder: Path, layout: str | Path | None) -> Path:
    """Where the dataset.yaml of a data set is, or would be."""
    return Path(layout) if layout else (_devkit(folder) or folder) / DESCRIPTION


def _voc_files(devkit: Path, split: str) -> tuple[list[str], list[Path], list[Path]]:
    """Ids and files of a VOC split; `train_aug` takes its masks from SegmentationClassAug (SBD)."""
    lists = devkit / "ImageSets" / "Segmentation"
    listed = Path(split) if split.endswith(".txt") else lists / f"{split}.txt"
    if not listed.is_file():
        available = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{listed} does not exist; lists here: {available}")
    # The SBD lists name image and mask paths, VOC's own only the id, which may have dots in it.
    first = [Path(line.split()[0]) for line in read_text(listed, LIST_BYTES).splitlines() if line.strip()]
    ids = [path.stem if path.suffix.lower() in SUFFIXES else path.name for path in first]
    masks = devkit / ("SegmentationClassAug" if listed.stem.endswith("_aug") else "SegmentationClass")
    images = devkit / "JPEGImages"
    return ids, [images / f"{i}.jpg" for i in ids], [masks / f"{i}.png" for i in ids]


def _folder_files(root: Path, split: str, source: Path) -> tuple[list[str], list[Path], list[Path]]:
    """Ids and files of a folder layout: `images` and `masks` are folders, `mask_name` a mask's file name."""
    description = read_yaml(source)
    for key in ("images", "masks"):
        if not isinstance(description.get(key), str):
            raise ValueError(f"{source} has no `{key}` (the folder, where {{split}} stands for the split)")
    name = description.get("mask_name", "{stem}.png")
    for key, value in {
        "images": description["images"],
        "masks": description["masks"],
        "mask_name": name,
    }.items():
        # A description comes with the data, and so from anyone: it names what is inside the data's folder.
        if not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError(f"{source}: {key} is {value!r}, but must be a path below {root}, without ..")
    images = root / description["images"].replace("{split}", split)
    masks = root / description["masks"].replace("{split}", split)
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder (split {split!r} of {root})")
    found = list(list_images(images))
    relative = [path.relative_to(images) for path in found]
    return (
        [path.with_suffix("").as_posix() for path in relative],
        found,
        [masks / path.parent / name.replace("{stem}", path.stem) for path in relative],
    )


def _require_files(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of the data set are missing, the first is {missing[0]}; "
            "`segdistill data check` names them all"
        )
