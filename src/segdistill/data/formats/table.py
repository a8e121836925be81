"""The layouts that can be read, and which of them a folder has; PyTorch is not loaded for it."""

from pathlib import Path

from segdistill.config.train import DataConfig
from segdistill.data.formats.coco import CocoLayout
from segdistill.data.formats.cvat import CvatLayout
from segdistill.data.formats.folders import FolderLayout
from segdistill.data.formats.layout import DESCRIPTION, Layout
from segdistill.data.formats.voc import VocLayout
from segdistill.data.formats.yolo import DATA, YoloLayout

LAYOUTS: tuple[type[Layout], ...] = (CvatLayout, VocLayout, CocoLayout, YoloLayout, FolderLayout)
"""The readers, in the order in which a folder is tried."""


def open_layout(root: str | Path, layout: str | Path | None = None) -> Layout:
    """The data set below `root`, without looking at its images.

    Args:
        root: a VOC devkit (or a folder that holds VOCdevkit/VOC2012), an export of CVAT, or a folder with a
            dataset.yaml or YOLO's data.yaml.
        layout: a dataset.yaml that lies elsewhere.

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: dataset.yaml is wrong.
    """
    folder = Path(root)
    if root == "" or not folder.is_dir():
        raise FileNotFoundError(
            f"data.root {str(root)!r} is not a folder; name the data set with --data.root"
        )
    description = Path(layout) if layout else None
    found = next(filter(None, (reader.find(folder, description) for reader in LAYOUTS)), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} is neither a VOC devkit (no ImageSets folder) nor described by a {DESCRIPTION} "
            f"(or YOLO's {DATA}); "
            "docs/own-data.md shows how to write one"
        )
    return found


def open_training_layout(config: DataConfig) -> Layout:
    """The data set of a training, which must have images to validate on that are not trained on.

    Raises:
        FileNotFoundError, ValueError: see `open_layout`.
        ValueError: training and validation would read the same images.
    """
    layout = open_layout(config.root, config.layout)
    if layout.one_split and not config.val_share:
        raise ValueError(
            f"the data set in {config.root} {layout.same_images}, so that training and "
            "validation would read the same ones: hold some out with --data.val_share 0.2, or "
            f"{layout.to_divide}"
        )
    return layout
