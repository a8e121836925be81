"""Reads the layout of a PASCAL VOC devkit."""

from pathlib import Path
from typing import Self

from segdistill.data.formats.classes import CLASS_KEYS, ClassMap
from segdistill.data.formats.layout import (
    DESCRIPTION,
    LIST_BYTES,
    MASK_KEYS,
    FileList,
    Layout,
    find_description,
    read_description,
    read_masks,
)
from segdistill.data.images import SUFFIXES
from segdistill.data.labels import VOC, LabelSet
from segdistill.data.masks import IndexMasks, MaskReader
from segdistill.files import read_text

DEVKIT = Path("VOCdevkit", "VOC2012")
"""The devkit, below the folder that its archive is unpacked into."""
SETS = "ImageSets"
"""Folder that a devkit is recognised by."""
LISTS = Path(SETS, "Segmentation")
"""Folder of the lists, in the devkit."""
IMAGES, MASKS, AUGMENTED_MASKS = "JPEGImages", "SegmentationClass", "SegmentationClassAug"
"""Folders of images, of masks, and of SBD's masks, in the devkit."""


class VocLayout(Layout):
    """Images in JPEGImages, masks in SegmentationClass, splits in ImageSets/Segmentation/*.txt.

    Args:
        devkit: the folder that holds these.
        labels: made of VOC's 21 classes where the devkit has no dataset.yaml, or one that names none.
        reader: of the mask files.
    """

    title = "a VOC devkit"
    signs = f"the folder {SETS}, here or in {DEVKIT.as_posix()}"

    def __init__(self, devkit: Path, labels: LabelSet, reader: MaskReader) -> None:
        self.root, self.labels, self.reader = devkit, labels, reader
        self.lists = devkit / LISTS

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The devkit that `folder` is or holds."""
        devkit = find_devkit(folder)
        if devkit is None:
            return None
        described = find_description(description, devkit / DESCRIPTION)
        if described is None:
            return cls(devkit, VOC, IndexMasks(VOC))
        content = read_description(described, MASK_KEYS)
        if content and content.keys() <= CLASS_KEYS:
            classes = ClassMap(content, VOC, str(described))
            return cls(devkit, classes.labels, classes.reader(IndexMasks(VOC)))
        return cls(devkit, *read_masks(content, str(described)))

    def splits(self) -> list[str]:
        """Names of the list files."""
        return sorted(path.stem for path in self.lists.glob("*.txt"))

    def list_files(self, split: str) -> FileList:
        """The samples of a list file; `train_aug` takes its masks from SegmentationClassAug (SBD)."""
        listed = self.list_file(split)
        # The SBD lists name image and mask paths, VOC's own only the id, which may have dots in it.
        lines = (line for line in read_text(listed, LIST_BYTES).splitlines() if line.strip())
        first = [Path(line.split()[0]) for line in lines]
        ids = [path.stem if path.suffix.lower() in SUFFIXES else path.name for path in first]
        images, masks = self.root / IMAGES, self.root / mask_folder(listed.stem)
        others = other_images(images)
        return FileList(
            ids,
            [others.get(name, images / f"{name}.jpg") for name in ids],
            [masks / f"{name}.png" for name in ids],
            self.reader,
        )

    def list_file(self, split: str) -> Path:
        """The list of a split, which may be named by its path.

        Raises:
            UnknownSplitError: there is none.
        """
        listed = Path(split) if split.endswith(".txt") else self.lists / f"{split}.txt"
        if not listed.is_file():
            raise self.no_split(split, f"{listed} does not exist")
        return listed


def find_devkit(folder: Path) -> Path | None:
    """The devkit that `folder` is or holds."""
    return next((path for path in (folder, folder / DEVKIT) if (path / SETS).is_dir()), None)


def mask_folder(split: str) -> str:
    """Name of the folder of a split's masks: SBD's are in one of their own."""
    return AUGMENTED_MASKS if split.endswith("_aug") else MASKS


def other_images(folder: Path) -> dict[str, Path]:
    """The images that are not .jpg files, by id; VOC itself has none."""
    files = folder.iterdir() if folder.is_dir() else iter(())
    return {path.stem: path for path in files if path.suffix != ".jpg" and path.suffix.lower() in SUFFIXES}
