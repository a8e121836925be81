"""A data set of any layout of which one split is divided into training and validation."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Self

from segdistill.data.formats.layout import FileList, Layout

TRAIN, VAL = "train", "val"


def divisible_split(found: Sequence[str]) -> str | None:
    """Of a data set's splits the one that `val: FRACTION` divides; None where that is not clear."""
    if TRAIN in found or not found:
        return TRAIN
    return found[0] if len(found) == 1 else None


class DividedLayout(Layout):
    """The splits of a data set, with `val` held out of `train`, or of the one split that there is.

    Args:
        whole: the data set, whose `division` has a fraction.
        source: its description's file.

    Raises:
        ValueError: it has a split `val` already, or none that can be divided.
    """

    def __init__(self, whole: Layout, source: Path) -> None:
        self.whole, self.source = whole, source
        self.title, self.signs = whole.title, whole.signs
        self.root, self.labels, self.division = whole.root, whole.labels, whole.division
        self.bits = whole.bits
        found = whole.splits()
        if VAL in found and not whole.one_split:
            raise ValueError(
                f"{source}: `val: {self.division.val}` would hold images out, but there is a split "
                f"{VAL!r} already: remove the line"
            )
        divided = divisible_split(found)
        if divided is None:
            raise ValueError(
                f"{source}: `val: {self.division.val}` divides the split {TRAIN!r}, but the splits are "
                f"{', '.join(found)}: remove the line, and name two of them as data.split and "
                "data.val_split"
            )
        self.divided = divided

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """None: `open_layout` makes it of what another reader has found."""
        return None

    def splits(self) -> list[str]:
        """Names of the splits, the two new ones instead of the one that is divided."""
        return sorted({TRAIN, VAL, *self.whole.splits()} - ({self.divided} - {TRAIN}))

    def list_files(self, split: str) -> FileList:
        """The samples of a split, without opening their files."""
        if split not in {TRAIN, VAL}:
            return self.whole.list_files(split)
        files = self.whole.list_files(self.divided)
        if not files.ids:
            return files
        try:
            held_out = self.division.held_out(files.ids, self.division.val, "val", self.divided)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None
        kept = (held_out if split == VAL else ~held_out).tolist()
        return files._replace(
            ids=list(compress(files.ids, kept)),
            images=list(compress(files.images, kept)),
            masks=list(compress(files.masks, kept)),
        )
