"""Cityscapes' folders: the 19 classes that cityscapesScripts gives its ids, and everything else void."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.cityscapes import CityscapesLayout
from segdistill.data.formats.table import open_layout

pytestmark = pytest.mark.unit
WRITTEN = Path(__file__).parents[2] / "fixtures" / "formats" / "cityscapes"
NAME = "aachen/aachen_000000_000019"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(WRITTEN, tmp_path / "cityscapes")


def mask_file(root: Path, form: str) -> Path:
    return root / "gtFine" / "train" / f"{NAME}_gtFine_{form}.png"


def test_ids_are_read_as_cityscapesscripts_maps_them(root: Path) -> None:
    """The train ids of the same polygons were written by cityscapesScripts."""
    expected = np.asarray(Image.open(mask_file(root, "labelTrainIds")))
    assert set(np.unique(expected)) == {*range(19), 255}
    samples = open_dataset(root, "train")
    assert isinstance(open_layout(root), CityscapesLayout)
    assert (splits(root), list(samples.ids)) == (["train"], [NAME])
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == expected.tolist()
    assert samples.labels.names[13] == "car"
    assert samples.labels.palette[13] == (0, 0, 142)
    assert list(check(samples)) == [None]


def test_train_ids_are_read_where_there_are_no_ids(root: Path) -> None:
    expected = open_dataset(root, "train").mask(0).tolist()
    mask_file(root, "labelIds").unlink()
    assert open_dataset(root, "train").mask(0).tolist() == expected


def test_coarse_masks_are_read_where_there_are_no_fine_ones(root: Path) -> None:
    expected = open_dataset(root, "train").mask(0).tolist()
    shutil.copytree(root / "leftImg8bit" / "train", root / "leftImg8bit" / "train_extra")
    coarse = root / "gtCoarse" / "train_extra" / f"{NAME}_gtCoarse_labelIds.png"
    coarse.parent.mkdir(parents=True)
    shutil.copy(mask_file(root, "labelIds"), coarse)
    assert splits(root) == ["train", "train_extra"]
    assert open_dataset(root, "train_extra").mask(0).tolist() == expected


def test_an_unknown_id_is_named(root: Path) -> None:
    stored = np.asarray(Image.open(mask_file(root, "labelIds"))).copy()
    stored[3, 5] = 34
    Image.fromarray(stored).save(mask_file(root, "labelIds"))
    (problem,) = check(open_dataset(root, "train"))
    assert problem is not None
    assert problem.reason.startswith(
        f"{mask_file(root, 'labelIds')} has the id 34 at pixel (x, y) = (5, 3), which is neither a class's"
    )
    assert problem.reason.endswith("ids are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (34 of them, up to 33)")


def test_a_split_without_masks_is_named(root: Path) -> None:
    mask_file(root, "labelIds").unlink()
    mask_file(root, "labelTrainIds").unlink()
    with pytest.raises(FileNotFoundError, match=r"train has no masks: neither \*_labelIds nor \*_labelTrain"):
        open_dataset(root, "train")
    with pytest.raises(FileNotFoundError, match=r"has no split 'val'; splits here: train"):
        open_dataset(root, "val")


def test_an_image_without_a_mask_is_named(root: Path) -> None:
    (image,) = (root / "leftImg8bit").rglob("*.png")
    shutil.copy(image, image.with_name("aachen_000001_000019_leftImg8bit.png"))
    with pytest.raises(FileNotFoundError, match=r"the first is .*aachen_000001_000019_gtFine_labelIds"):
        open_dataset(root, "train")


def test_classes_are_merged_and_another_description_comes_first(root: Path) -> None:
    (root / "dataset.yaml").write_text("classes: {vehicle: [car, truck, bus], ignore: [sky]}\n")
    samples = open_dataset(root, "train")
    assert len(samples.labels) == 16
    assert samples.labels.names.index("vehicle") == 12
    assert (samples.mask(0) == 255).sum() > (open_dataset(WRITTEN, "train").mask(0) == 255).sum()
    (root / "dataset.yaml").write_text("names: [x, y]\nimages: a\nmasks: b\n")
    assert not isinstance(open_layout(root), CityscapesLayout)
