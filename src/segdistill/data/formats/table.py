"""The layouts that can be read, and which of them a folder has; PyTorch is not loaded for it."""

from pathlib import Path

from segdistill.config.train import DataConfig
from segdistill.data.formats.ade20k import AdeLayout
from segdistill.data.formats.cityscapes import CityscapesLayout
from segdistill.data.formats.coco import CocoLayout
from segdistill.data.formats.cvat import CvatLayout
from segdistill.data.formats.folders import FolderLayout
from segdistill.data.formats.huggingface import HuggingFaceLayout
from segdistill.data.formats.label_studio import LabelStudioLayout
from segdistill.data.formats.labelme import LabelmeLayout
from segdistill.data.formats.layout import DESCRIPTION, Layout
from segdistill.data.formats.supervisely import SuperviselyLayout
from segdistill.data.formats.voc import VocLayout
from segdistill.data.formats.yolo import YoloLayout

LAYOUTS: tuple[type[Layout], ...] = (
    CvatLayout,
    VocLayout,
    CityscapesLayout,
    AdeLayout,
    SuperviselyLayout,
    CocoLayout,
    LabelStudioLayout,
    YoloLayout,
    HuggingFaceLayout,
    LabelmeLayout,
    FolderLayout,
)
"""The readers, in the order in which a folder is tried."""


def open_layout(root: str | Path, layout: str | Path | None = None) -> Layout:
    """The data set below `root`, without looking at its images.

    Args:
        root: a folder of one of the `LAYOUTS`.
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
        titles = ", ".join(reader.title for reader in LAYOUTS)
        raise FileNotFoundError(
            f"{folder} has none of the layouts that are read ({titles}); docs/own-data.md says what each is "
            f"recognised by, and how a {DESCRIPTION} describes folders"
        )
    return found


def describe_layout(root: str | Path, layout: str | Path | None = None) -> str:
    """Which layout a folder has and why, in words; see `open_layout`."""
    found = open_layout(root, layout)
    return f"{found.title}, recognised by {found.signs}"


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
