"""Brings PASCAL VOC 2012 through torchvision's own downloader, which checks what it got."""

from pathlib import Path
from urllib.error import URLError

from torchvision.datasets import VOCSegmentation

from segdistill.data.formats.voc import AUGMENTED_MASKS, DEVKIT, LISTS


def download_voc(root: Path) -> Path:
    """Download and unpack VOC 2012 (2 GB) below `root`; what is already there is checked and kept.

    Returns:
        The devkit folder.

    Raises:
        ValueError: it could not be downloaded, or its checksum is wrong.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        VOCSegmentation(str(root), year="2012", image_set="train", download=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"PASCAL VOC 2012 could not be downloaded ({error}). Where there is no network, bring "
            f"VOCtrainval_11-May-2012.tar and put it into {root}; it is checked and unpacked from there"
        ) from None
    devkit = root / DEVKIT
    write_augmented_list(devkit)
    return devkit


def write_augmented_list(devkit: Path) -> Path | None:
    """Write ImageSets/Segmentation/train_aug.txt where SegmentationClassAug (SBD's masks) is present.

    It lists every image with such a mask that is not in VOC's `val`: 10,582 for the usual archive
    (Hariharan et al. 2011).

    Returns:
        The list, or None where the folder is absent.
    """
    masks = devkit / AUGMENTED_MASKS
    if not masks.is_dir():
        return None
    lists = devkit / LISTS
    val = set((lists / "val.txt").read_text().split())
    ids = sorted(path.stem for path in masks.glob("*.png") if path.stem not in val)
    path = lists / "train_aug.txt"
    path.write_text("".join(f"{i}\n" for i in ids))
    return path
