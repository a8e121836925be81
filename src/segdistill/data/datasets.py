"""Opens data sets of any layout, joins labelled and unlabelled ones, and holds samples out for validation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdistill.config.train import DataConfig
from segdistill.data.formats.divided import TRAIN, DividedLayout
from segdistill.data.formats.huggingface import IMAGE_COLUMN, is_table, open_table_images
from segdistill.data.formats.layout import Layout, UnknownSplitError
from segdistill.data.formats.table import open_layout, open_training_layout
from segdistill.data.formats.tar import find_tars
from segdistill.data.images import File, list_images
from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples, JoinedSamples, Samples
from segdistill.data.tar_samples import open_tars, tell_apart


def open_dataset(
    root: str | Path, split: str, *, layout: str | Path | None = None, strict: bool = True
) -> FileSamples:
    """Open one split of the labelled data set below `root`.

    Args:
        root, layout: see `open_layout`.
        split: name of the list file, or what replaces {split} in a folder layout.
        strict: refuse a data set with a missing file at once; `data check` names them all instead.

    Raises:
        FileNotFoundError: the folder, the split or a file of the data set is missing.
        ValueError: dataset.yaml is wrong.
    """
    return open_split(open_layout(root, layout), split, strict=strict)


def splits(root: str | Path, layout: str | Path | None = None) -> list[str]:
    """Names of the splits of the data set below `root`, sorted; see `open_layout`."""
    return open_layout(root, layout).splits()


def open_unlabelled(source: str | Path, labels: LabelSet, bits: int | None = None) -> Samples:
    """All images of a source, each with a mask that is void everywhere.

    Args:
        source: a folder of images (also below it) or of tar files, a tar file, a pattern of such, or the
            folder of a Hugging Face data set, whose split `train` (or the only one) is taken.
        labels: what the masks would be of.
        bits: per channel, of images that have more than 8, see `read_image`.

    Raises:
        FileNotFoundError: there is no image, or no such file or folder.
        ValueError: a Hugging Face data set or a tar file cannot be read.
    """
    tars = find_tars(source)
    if tars:
        return open_tars(tars, labels, bits)
    folder = Path(source)
    if is_table(folder):
        rows = open_table_images(folder)
        files = rows.files(IMAGE_COLUMN)
        return FileSamples(labels, rows.ids(IMAGE_COLUMN), files, find=rows.find).with_bits(bits)
    images = list(list_images(folder))
    if not images:
        raise FileNotFoundError(f"{folder} holds no images, nor tar files of them")
    ids = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
    return FileSamples(labels, ids, images).with_bits(bits)


def open_training(config: DataConfig, *, distils: bool = True) -> Samples:
    """All that training reads, labelled and unlabelled, as one data set.

    Args:
        config: where the data are, what is held out, and which fraction of the masks is used.
        distils: whether a teacher gives the images whose masks are not used their soft loss; else they are
            left out.

    Raises:
        FileNotFoundError, ValueError: see `open_dataset`.
        ValueError: a further data set has other classes than the first, or nothing is left to train on.
    """
    layout = open_layout(config.root, config.layout)
    first = open_split(layout, config.split)
    if config.val_share:
        first = first.subset(~_held_out(layout, first, config))
    labelled = [evenly(first, config.max_images)]
    for source in config.extra:
        root, _, split = source.partition("@")
        further = open_dataset(root, split or config.split)
        if further.labels.names != first.labels.names:
            raise ValueError(
                f"data.extra {source} has the classes {', '.join(further.labels.names)}, "
                f"but {config.root} has {', '.join(first.labels.names)}"
            )
        labelled.append(evenly(further, config.max_images))
    sets: list[Samples] = [*labelled]
    if config.labelled_share < 1:
        halves = [split_labelled(samples, config.labelled_share) for samples in labelled]
        sets = [*(masked for masked, _ in halves), *(rest for _, rest in halves if distils)]
    unlabelled = [open_unlabelled(source, first.labels, layout.bits) for source in config.unlabelled]
    tell_apart(unlabelled)
    sets += [evenly(one, config.max_images) if isinstance(one, FileSamples) else one for one in unlabelled]
    return sets[0] if len(sets) == 1 else JoinedSamples(sets)


def open_validation(config: DataConfig) -> FileSamples:
    """What a training is evaluated on: its validation split, or what `data.val_share` holds out.

    Raises:
        FileNotFoundError, ValueError: see `open_dataset`.
        ValueError: training would read the same images.
    """
    layout = open_training_layout(config)
    if config.val_share:
        samples = open_split(layout, config.split)
        return evenly(samples.subset(_held_out(layout, samples, config)), config.max_images)
    try:
        return evenly(open_split(layout, config.val_split), config.max_images)
    except UnknownSplitError as error:
        raise UnknownSplitError(
            f"{error}; name another as data.val_split, or hold images of {config.split!r} out: "
            "data.val_share 0.2"
        ) from None


def split_labelled(samples: FileSamples, share: float) -> tuple[FileSamples, FileSamples]:
    """A labelled data set in two: with the masks of an evenly spaced `share` of it, and without the others'.

    Raises:
        ValueError: nothing would be labelled.
    """
    kept = _evenly_spaced(len(samples), share)
    if samples.masks is None or not kept.any():
        raise ValueError(
            f"data.labelled_share is {share}, but must leave one or more of {len(samples)} labelled images"
        )
    return samples.subset(kept), samples.subset(~kept, masked=False)


def evenly(samples: FileSamples, most: int | None) -> FileSamples:
    """At most so many of the samples, evenly spaced; all of them without a limit."""
    count = len(samples)
    return samples if most is None or count <= most else samples.subset(_evenly_spaced(count, most / count))


def _evenly_spaced(count: int, share: float) -> NDArray[np.bool_]:
    """Which of `count` items an evenly spaced `share` of them is (N)."""
    return np.diff(np.floor(np.arange(count + 1) * share + 1e-9)) > 0


def open_split(layout: Layout, split: str, *, strict: bool = True) -> FileSamples:
    """Open one split of a data set; see `open_dataset`."""
    files = layout.list_files(split)
    if not files.ids:
        raise UnknownSplitError(f"split {split!r} of {layout.root} has no images")
    if strict:
        _require_files([*files.images, *([] if files.reader.optional else files.masks)])
    return FileSamples(layout.labels, *files).with_bits(layout.bits)


def _held_out(layout: Layout, samples: FileSamples, config: DataConfig) -> NDArray[np.bool_]:
    """Which of the samples `data.val_share` holds out (N)."""
    again = isinstance(layout, DividedLayout) and config.split == TRAIN
    return layout.division.held_out(
        samples.ids, config.val_share, "data.val_share", config.split, again=again
    )


def _require_files(paths: Sequence[File]) -> None:
    # Each once: the masks of many images may lie in one file.
    missing = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of the data set are missing, the first is {missing[0]}; "
            "`segdistill data check` names them all"
        )
