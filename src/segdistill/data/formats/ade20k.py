"""Reads the folders of ADE20K as its scene parsing challenge has them: 150 classes, and 0 for the rest."""

from pathlib import Path
from typing import Self

from segdistill.data.formats.classes import ClassMap
from segdistill.data.formats.layout import FileList, Layout, read_classes_only, require_split
from segdistill.data.images import list_images
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import IdMasks
from segdistill.files import read_text

CLASS_LIST = "objectInfo150.txt"
"""Name of the file with a line for each class, whose columns (Idx, Ratio, Train, Val, ...) tabs divide."""
PARENT = "ADEChallengeData2016"
"""The folder that the archive holds."""
IMAGES, MASKS = "images", "annotations"


class AdeLayout(Layout):
    """Images in images/SPLIT, masks in annotations/SPLIT: class numbers (1, 2, ...), 0 is void.

    Args:
        root: the folder that holds these.
        files: the classes of the mask files.
        classes: which class each of them becomes.
    """

    title = "ADE20K"
    signs = f"{CLASS_LIST} beside the folders images and annotations"

    def __init__(self, root: Path, files: LabelSet, classes: ClassMap) -> None:
        self.root, self.labels = root, classes.labels
        # Value 0 is "other objects", which the challenge does not score.
        self.reader = classes.reader(IdMasks({0: VOID} | {i + 1: i for i in range(len(files))}))

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set that `folder` is or holds; a dataset.yaml with more than `classes` comes first."""
        root = next((path for path in (folder, folder / PARENT) if (path / CLASS_LIST).is_file()), None)
        if root is None or not ((root / IMAGES).is_dir() and (root / MASKS).is_dir()):
            return None
        files = read_class_list(root / CLASS_LIST)
        classes = read_classes_only(root, description, files)
        return None if classes is None else cls(root, files, classes)

    def splits(self) -> list[str]:
        """The folders in images that have masks: training and validation."""
        folders = [path.name for path in (self.root / IMAGES).iterdir() if path.is_dir()]
        return sorted(name for name in folders if (self.root / MASKS / name).is_dir())

    def list_files(self, split: str) -> FileList:
        """The images of a split and their masks."""
        require_split(self, split)
        images, masks = self.root / IMAGES / split, self.root / MASKS / split
        found = list(list_images(images))
        ids = [path.relative_to(images).with_suffix("").as_posix() for path in found]
        return FileList(ids, found, [masks / f"{name}.png" for name in ids], self.reader)


def read_class_list(path: Path) -> LabelSet:
    """The classes of an objectInfo150.txt, each by the first of its names ("building, edifice": building).

    Raises:
        ValueError: its lines are not numbered 1, 2, ..., or the names are impossible.
    """
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    numbers = [line[0].strip() for line in lines[1:]]
    if len(lines) < 2 or lines[0][0].strip() != "Idx" or numbers != [str(i + 1) for i in range(len(numbers))]:
        raise ValueError(
            f"{path} must have a heading that begins with Idx, and then a line for each class: 1, ..."
        )
    try:
        return LabelSet(names=tuple(line[-1].replace(";", ",").split(",")[0].strip() for line in lines[1:]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
