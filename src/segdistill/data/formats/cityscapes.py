"""Reads the folders of Cityscapes: leftImg8bit, gtFine and gtCoarse."""

from pathlib import Path
from typing import Self

from segdistill.data.formats.classes import ClassMap
from segdistill.data.formats.layout import FileList, Layout, read_classes_only, require_split
from segdistill.data.images import list_images
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import IdMasks, IndexMasks, MaskReader

CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, id in labelIds and colour of the classes that are scored, in the order of their trainIds.

Source: cityscapesscripts/helpers/labels.py, https://github.com/mcordts/cityscapesScripts
"""
LAST_ID = 33
"""The ids from 0 on that are not in `CLASSES` are void."""
LABELS = LabelSet(
    names=tuple(name for name, _, _ in CLASSES), palette=tuple(colour for _, _, colour in CLASSES)
)
IMAGES = "leftImg8bit"
MASKS = ("gtFine", "gtCoarse")
"""Folders of masks, of which the first that has a split is taken."""
READERS: dict[str, MaskReader] = {
    "labelIds": IdMasks(
        dict.fromkeys(range(LAST_ID + 1), VOID) | {number: i for i, (_, number, _) in enumerate(CLASSES)}
    ),
    "labelTrainIds": IndexMasks(LABELS),
}
"""What reads the masks, by the end of their names; the first one that a split has is taken."""


class CityscapesLayout(Layout):
    """Images in leftImg8bit/SPLIT/CITY, masks in gtFine/SPLIT/CITY.

    Args:
        root: the folder that holds these.
        classes: which class each of the 19 becomes.
    """

    title = "Cityscapes"
    signs = "the folders leftImg8bit and gtFine (or gtCoarse)"

    def __init__(self, root: Path, classes: ClassMap) -> None:
        self.root, self.classes, self.labels = root, classes, classes.labels

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set that `folder` is; a dataset.yaml comes first where it holds more than `classes`."""
        if not (folder / IMAGES).is_dir() or not any((folder / masks).is_dir() for masks in MASKS):
            return None
        classes = read_classes_only(folder, description, LABELS)
        return None if classes is None else cls(folder, classes)

    def splits(self) -> list[str]:
        """The folders in leftImg8bit that have masks."""
        folders = [path.name for path in (self.root / IMAGES).iterdir() if path.is_dir()]
        return sorted(name for name in folders if any((self.root / masks / name).is_dir() for masks in MASKS))

    def list_files(self, split: str) -> FileList:
        """The images of a split, by CITY/NAME, and their masks: of labelIds, or else of labelTrainIds."""
        require_split(self, split)
        kind = next(name for name in MASKS if (self.root / name / split).is_dir())
        images, masks = self.root / IMAGES / split, self.root / kind / split
        ending = next((name for name in READERS if next(masks.rglob(f"*_{name}.png"), None)), None)
        if ending is None:
            raise FileNotFoundError(f"{masks} has no masks: neither *_{' nor *_'.join(READERS)}.png")
        found = list(list_images(images))
        ids = [
            path.relative_to(images).with_suffix("").as_posix().removesuffix(f"_{IMAGES}") for path in found
        ]
        return FileList(
            ids,
            found,
            [masks / f"{name}_{kind}_{ending}.png" for name in ids],
            self.classes.reader(READERS[ending]),
        )
