"""The folder of a VOC devkit that is written image by image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.data.formats.voc import IMAGES, LISTS, mask_folder
from segdistill.data.label_folder import LabelFolder
from segdistill.data.labels import VOID, LabelSet
from segdistill.files import write_together


class DevkitFolder(LabelFolder):
    """A VOC devkit that is written.

    Args:
        path: need not exist.
        split: whose masks are written.
        bits: of the images, see `Layout.bits`.
    """

    record = "convert.json"
    verb = "data convert"

    def __init__(self, path: str | Path, split: str = "", bits: int | None = None) -> None:
        super().__init__(path)
        self.bits = bits
        self.images, self.masks = self.path / IMAGES, self.path / mask_folder(split)

    def describe(self, labels: LabelSet) -> dict[str, Any]:
        """The content of its dataset.yaml."""
        bits = {"bits": self.bits} if self.bits else {}
        return {**replace(labels, void=VOID).to_dict(), **bits}

    def write_lists(self, lists: dict[str, list[str]]) -> None:
        """Write the names of the images of each split; lists of other splits are deleted."""
        folder = self.path / LISTS
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.txt"):
            if path.stem not in lists:
                path.unlink()
        write_together(
            {
                folder / f"{split}.txt": "".join(f"{name}\n" for name in names)
                for split, names in lists.items()
            }
        )
