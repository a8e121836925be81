"""The layouts that can be read, and which of them a folder has; PyTorch is not loaded for it."""

from pathlib import Path

from segdistill.config.train import DataConfig
from segdistill.data.depth import read_bits
from segdistill.data.formats.ade20k import AdeLayout
from segdistill.data.formats.cityscapes import CityscapesLayout
from segdistill.data.formats.coco import CocoLayout
from segdistill.data.formats.cvat import CvatLayout
from segdistill.data.formats.divided import DividedLayout
from segdistill.data.formats.division import read_division
from segdistill.data.formats.folders import FolderLayout
from segdistill.data.formats.huggingface import HuggingFaceLayout
from segdistill.data.formats.label_studio import LabelStudioLayout
from segdistill.data.formats.labelme import LabelmeLayout
from segdistill.data.formats.layout import DESCRIPTION, Layout, find_description
from segdistill.data.formats.supervisely import SuperviselyLayout
from segdistill.data.formats.voc import VocLayout
from segdistill.data.formats.yolo import YoloLayout
from segdistill.data.labels import read_yaml

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
            f"data.root {str(root)!r} is not a folder: name that of the data set as data.root"
        )
    description = Path(layout) if layout else None
    found = next(filter(None, (reader.find(folder, description) for reader in LAYOUTS)), None)
    if found is None:
        titles = ", ".join(reader.title for reader in LAYOUTS)
        raise FileNotFoundError(
            f"{folder} has none of the layouts that are read ({titles}); docs/own-data.md says what each is "
            f"recognised by, and how a {DESCRIPTION} describes folders"
        )
    return divide(found, description)


def divide(layout: Layout, named: Path | None) -> Layout:
    """The data set as its description, `named` or its own, divides it; with the `bits` that this says.

    Raises:
        ValueError: the description is wrong.
    """
    described = find_description(named, layout.root / layout.described_by)
    if described is None:
        return layout
    content = read_yaml(described)
    if layout.val_is_path and isinstance(content.get("val"), str | list):
        content.pop("val")
    layout.bits = read_bits(content, str(described))
    layout.division = read_division(content, str(described))
    return DividedLayout(layout, described) if layout.division.val else layout


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
            "validation would read the same ones: hold some out with data.val_share 0.2 "
            f"(or `val: 0.2` in {layout.described_by}), or "
            f"{layout.to_divide}"
        )
    return layout
