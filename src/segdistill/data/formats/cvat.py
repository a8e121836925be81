"""Reads what CVAT exports as "Segmentation mask 1.1": a devkit of masks in colours with a labelmap.txt."""

from pathlib import Path
from typing import Self

from segdistill.config.prompts import BACKGROUND
from segdistill.data.formats.layout import LIST_BYTES, FileList, leads_out, read_classes_only
from segdistill.data.formats.voc import IMAGES, MASKS, SETS, VocLayout
from segdistill.data.images import list_images
from segdistill.data.labels import VOC_VOID, LabelSet
from segdistill.data.masks import Colour, ColourMasks
from segdistill.files import read_text

LABEL_MAP = "labelmap.txt"
"""Name of the file with a line `name:R,G,B:parts:actions` for each class."""


class CvatLayout(VocLayout):
    """A devkit with a labelmap.txt: images in JPEGImages, at the same places masks in SegmentationClass."""

    title = "CVAT's Segmentation mask 1.1"
    signs = f"{LABEL_MAP} beside the folder {SETS}"

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The export that `folder` is; a dataset.yaml, here or named, comes first where it names classes."""
        label_map = folder / LABEL_MAP
        if not label_map.is_file() or not (folder / SETS).is_dir():
            return None
        labels = read_label_map(label_map)
        classes = read_classes_only(folder, description, labels)
        if classes is None:
            return None
        try:
            # As in VOC, unless a class has this colour.
            reader = ColourMasks(labels, None if VOC_VOID in labels.palette else VOC_VOID)
        except ValueError as error:
            raise ValueError(f"{label_map}: {error}") from None
        return cls(folder, classes.labels, classes.reader(reader))

    def list_files(self, split: str) -> FileList:
        """The samples of a list file, whose names may have folders, spaces and quotation marks."""
        lines = read_text(self.list_file(split), LIST_BYTES).splitlines()
        ids = [line.strip().strip('"') for line in lines if line.strip()]
        for name in ids:
            if leads_out(name):
                raise ValueError(f"{self.list_file(split)} lists {name!r}, which is outside the data set")
        folder, masks = self.root / IMAGES, self.root / MASKS
        images = list_images(folder) if folder.is_dir() else iter(())
        found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in images}
        return FileList(
            ids,
            [found.get(name, folder / f"{name}.jpg") for name in ids],
            [masks / f"{name}.png" for name in ids],
            self.reader,
        )


def read_label_map(path: Path) -> LabelSet:
    """The classes of a labelmap.txt, in its order, but the background first.

    Raises:
        ValueError: a line has no name or no colour, or the classes are impossible.
    """
    classes: list[tuple[str, Colour]] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(value) for value in rest.partition(":")[0].split(","))
        except ValueError:
            raise ValueError(
                f"line {number} of {path} is {line[:100]!r}, but must be `name:R,G,B::`"
            ) from None
        classes.append((name.strip(), (red, green, blue)))
    classes.sort(key=lambda one: one[0] != BACKGROUND)
    try:
        return LabelSet(names=tuple(name for name, _ in classes), palette=tuple(c for _, c in classes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
