"""Reads folders of images and masks that a dataset.yaml describes."""

from pathlib import Path

from segdistill.data.formats.voc import find_devkit
from segdistill.data.images import list_images
from segdistill.data.labels import read_yaml

DESCRIPTION = "dataset.yaml"


def description_file(folder: Path, layout: str | Path | None) -> Path:
    """Where the dataset.yaml of a data set is, or would be."""
    return Path(layout) if layout else (find_devkit(folder) or folder) / DESCRIPTION


def require_dataset(root: str | Path, layout: str | Path | None = None) -> None:
    """Raise a `FileNotFoundError` unless a folder holds a data set, without opening it."""
    folder = Path(root)
    if root == "" or not folder.is_dir():
        raise FileNotFoundError(
            f"data.root {str(root)!r} is not a folder; name the data set with --data.root"
        )
    if description_file(folder, layout).is_file():
        return
    if layout:
        raise FileNotFoundError(f"data.layout {layout} does not exist")
    if find_devkit(folder) is None:
        raise FileNotFoundError(
            f"{folder} is neither a VOC devkit (no ImageSets folder) nor described by a {DESCRIPTION}; "
            "docs/own-data.md shows how to write one"
        )


def folder_files(root: Path, split: str, source: Path) -> tuple[list[str], list[Path], list[Path]]:
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
