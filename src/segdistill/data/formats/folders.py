"""Reads folders of images and masks that a dataset.yaml describes."""

from pathlib import Path
from typing import Any, Self

from segdistill.data.formats.layout import (
    DESCRIPTION,
    MASK_KEYS,
    SPLIT,
    FileList,
    Layout,
    find_description,
    find_splits,
    read_description,
    read_masks,
    read_path,
)
from segdistill.data.images import list_images

STEM = "{stem}"
"""Stands, in `mask_name`, for the image's name without its suffix."""
KEYS = MASK_KEYS | {"images", "masks", "mask_name"}


class FolderLayout(Layout):
    """Folders of images and masks.

    Args:
        root: the folder that the description's paths are below.
        source: the description's file.
        description: `images` and `masks` are folders, `mask_name` is a mask's file name.
    """

    title = "folders of images and masks"
    signs = f"{DESCRIPTION} with `images` and `masks`"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        self.root, self.source, self.description = root, source, description
        self.labels, self.reader = read_masks(description, str(source))
        self.one_split = SPLIT not in str(description.get("images"))

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set whose description lies in `folder`, or is named."""
        described = find_description(description, folder / DESCRIPTION)
        return None if described is None else cls(folder, described, read_description(described, KEYS))

    def splits(self) -> list[str]:
        """What `{split}` can stand for in the path of the images; [ALL] where it is not in it."""
        try:
            images = self.path("images")
        except ValueError:
            return []
        return find_splits(self.root, images, folders=True)

    def list_files(self, split: str) -> FileList:
        """The images below the folder of a split, and their masks at the same places."""
        paths = {key: self.path(key) for key in ("images", "masks")}
        name = self.path("mask_name", default=f"{STEM}.png")
        images, masks = (self.root / path.replace(SPLIT, split) for path in paths.values())
        for folder in (images, masks):
            if not folder.is_dir():
                raise self.no_split(split, f"{folder} is not a folder")
        found = list(list_images(images))
        relative = [path.relative_to(images) for path in found]
        return FileList(
            [path.with_suffix("").as_posix() for path in relative],
            found,
            [masks / path.parent / name.replace(STEM, path.stem) for path in relative],
            self.reader,
        )

    def path(self, key: str, default: str | None = None) -> str:
        """A path of the description; see `read_path`."""
        return read_path(self.description, key, self.source, self.root, default)
