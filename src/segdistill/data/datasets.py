"""Opens data sets of any layout, and joins labelled and unlabelled ones."""

from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from segdistill.config.train import DataConfig
from segdistill.data.formats.folders import description_file, folder_files, require_dataset
from segdistill.data.formats.voc import find_devkit, voc_files
from segdistill.data.images import list_images
from segdistill.data.labels import VOC, LabelSet, label_set, read_yaml
from segdistill.data.samples import FileSamples, Sample


def open_dataset(
    root: str | Path, split: str, *, layout: str | Path | None = None, strict: bool = True
) -> FileSamples:
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
    devkit = find_devkit(folder)
    if devkit is not None:
        ids, images, masks = voc_files(devkit, split)
    else:
        ids, images, masks = folder_files(folder, split, description_file(folder, layout))
    if not ids:
        raise FileNotFoundError(f"split {split!r} of {folder} has no images")
    if strict:
        _require_files(images + masks)
    return FileSamples(labels, ids, images, masks)


def open_labels(root: str | Path, layout: str | Path | None = None) -> LabelSet:
    """The label set of the data set below `root`, without looking at its images.

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: dataset.yaml is wrong.
    """
    folder = Path(root)
    require_dataset(root, layout)
    described = description_file(folder, layout)
    return label_set(read_yaml(described), str(described)) if described.is_file() else VOC


def open_unlabelled(folder: str | Path, labels: LabelSet) -> FileSamples:
    """All images below a folder, each with a mask that is void everywhere."""
    images = list(list_images(Path(folder)))
    if not images:
        raise FileNotFoundError(f"{folder} holds no images")
    ids = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
    return FileSamples(labels, ids, images)


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


def part_labelled(samples: FileSamples, share: float) -> tuple[FileSamples, FileSamples]:
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


def splits(root: str | Path, layout: str | Path | None = None) -> list[str]:
    """Names of the splits that a data set has, sorted."""
    folder = Path(root)
    devkit = find_devkit(folder)
    if devkit is not None:
        return sorted(path.stem for path in (devkit / "ImageSets" / "Segmentation").glob("*.txt"))
    described = description_file(folder, layout)
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


def _require_files(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of the data set are missing, the first is {missing[0]}; "
            "`segdistill data check` names them all"
        )
