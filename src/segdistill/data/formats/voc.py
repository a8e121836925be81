"""Reads the layout of a PASCAL VOC devkit."""

from pathlib import Path

from segdistill.data.images import SUFFIXES
from segdistill.files import read_text

LIST_BYTES = 2**28
"""Largest list of a split: some ten million names."""


def find_devkit(folder: Path) -> Path | None:
    """The VOC devkit that `folder` is or holds."""
    return next((d for d in (folder, folder / "VOCdevkit" / "VOC2012") if (d / "ImageSets").is_dir()), None)


def voc_files(devkit: Path, split: str) -> tuple[list[str], list[Path], list[Path]]:
    """Ids and files of a VOC split; `train_aug` takes its masks from SegmentationClassAug (SBD)."""
    lists = devkit / "ImageSets" / "Segmentation"
    listed = Path(split) if split.endswith(".txt") else lists / f"{split}.txt"
    if not listed.is_file():
        available = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{listed} does not exist; lists here: {available}")
    # The SBD lists name image and mask paths, VOC's own only the id, which may have dots in it.
    first = [Path(line.split()[0]) for line in read_text(listed, LIST_BYTES).splitlines() if line.strip()]
    ids = [path.stem if path.suffix.lower() in SUFFIXES else path.name for path in first]
    masks = devkit / ("SegmentationClassAug" if listed.stem.endswith("_aug") else "SegmentationClass")
    images = devkit / "JPEGImages"
    return ids, [images / f"{i}.jpg" for i in ids], [masks / f"{i}.png" for i in ids]
