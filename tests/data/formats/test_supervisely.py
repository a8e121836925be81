"""Supervisely projects: masks as its own package draws them, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.supervisely import SuperviselyLayout
from segdistill.data.formats.table import open_layout, open_training_layout

pytestmark = pytest.mark.unit
WRITTEN = Path(__file__).parents[2] / "fixtures" / "formats" / "supervisely"
POLYGON = {"exterior": [[0, 0], [9, 0], [9, 9]], "interior": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    copied = shutil.copytree(WRITTEN, tmp_path / "project")
    shutil.rmtree(copied / "expected")
    return copied


@pytest.fixture
def spoil(root: Path) -> Callable[[dict[str, Any]], Path]:
    """Gives the only object of the training image these fields."""

    def write(fields: dict[str, Any]) -> Path:
        path = root / "train" / "ann" / "street.png.json"
        content = json.loads(path.read_text())
        content["objects"] = [{"classTitle": "road", "geometryType": "polygon", "points": POLYGON} | fields]
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_those_of_supervisely(root: Path, split: str) -> None:
    """A polygon with a hole, a rectangle, a bitmap and a polygon; the later ones lie on top."""
    expected = np.asarray(Image.open(WRITTEN / "expected" / f"{split}.png"))
    samples = open_dataset(root, split)
    assert isinstance(open_layout(root), SuperviselyLayout)
    assert splits(root) == ["train", "val"]
    assert samples.labels.names == ("background", "road", "car", "roof")
    assert samples.labels.palette == ((0, 0, 0), (128, 64, 128), (0, 0, 142), (200, 30, 30))
    assert list(samples.ids) == ["street.png"]
    assert samples[0].mask.tolist() == samples.mask(0).tolist()
    # OpenCV and PIL round one pixel of a slanting border differently.
    assert (samples.mask(0).numpy() != expected).sum() == {"train": 1, "val": 0}[split]
    assert {2, 3} <= set(np.unique(expected))
    assert list(check(samples)) == [None]


def test_nested_data_sets_are_splits(root: Path) -> None:
    shutil.copytree(root / "val", root / "train" / "datasets" / "rain")
    assert splits(root) == ["train", "train/rain", "val"]
    assert open_dataset(root, "train/rain").mask(0).tolist() == open_dataset(root, "val").mask(0).tolist()


def test_one_data_set_must_be_divided_to_train(root: Path) -> None:
    shutil.rmtree(root / "val")
    with pytest.raises(ValueError, match=r"is one data set of a project.*put validation images into"):
        open_training_layout(DataConfig(root=str(root)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"classTitle": "tree"}, "shape 1 has the class 'tree', but the classes are background, road, car"),
        ({"geometryType": "line"}, r"shape 1 \(road\): the geometry 'line' has no area"),
        ({"points": {"exterior": [[0, 0], [9, 0]]}}, "it has 2 points, but must have 3 or more"),
        ({"points": {"exterior": [[0, 0], [9, 0], [9, "9"]]}}, "the coordinate '9', which is no number"),
        (
            {"points": {"exterior": [[0, 0], [9, 0], [9, 900]]}},
            "the coordinate 900, far outside the image of",
        ),
        ({"points": {"exterior": [0, 1]}}, r"`points` is not a list of \[x, y\]"),
        ({"points": POLYGON | {"interior": 3}}, "`interior` is no list of holes"),
        ({"points": POLYGON | {"interior": [[[1, 1]]]}}, "it has 1 points"),
        ({"points": None}, "`points` is not a list"),
        ({"geometryType": "bitmap", "bitmap": {"data": "AAAA"}}, r"has no `origin` \[x, y\]"),
        ({"geometryType": "bitmap", "bitmap": {"data": "?", "origin": [0, 0]}}, "is not base64 text"),
        (
            {"geometryType": "bitmap", "bitmap": {"data": "AAAA", "origin": [0, 0]}},
            "not an image that can be",
        ),
    ],
)
def test_a_damaged_object_is_named(
    spoil: Callable[[dict[str, Any]], Path], root: Path, fields: dict[str, Any], reason: str
) -> None:
    path = spoil(fields)
    with pytest.raises(ValueError, match=rf"{path}: .*{reason}"):
        open_dataset(root, "train").mask(0)


def test_a_bitmap_outside_the_image_is_named(root: Path) -> None:
    path = root / "val" / "ann" / "street.png.json"
    content = json.loads(path.read_text())
    content["objects"][0]["bitmap"]["origin"] = [38, 5]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"\(38, 5\) reaches beyond the image of 40x30 pixels"):
        open_dataset(root, "val").mask(0)


def test_an_image_of_another_size_is_a_problem(root: Path) -> None:
    Image.new("RGB", (9, 8)).save(root / "train" / "img" / "street.png")
    (problem,) = check(open_dataset(root, "train"))
    assert problem is not None
    assert "is for an image of 40x30 pixels, but" in problem.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"objects"', "is not valid JSON"),
        ("[]", "has no list `objects`: it is no file of annotations"),
        ('{"objects": 3}', "has no list `objects`"),
    ],
)
def test_a_damaged_file_is_named(root: Path, text: str, reason: str) -> None:
    (root / "train" / "ann" / "street.png.json").write_text(text)
    with pytest.raises(ValueError, match=rf"street\.png\.json {reason}"):
        open_dataset(root, "train").mask(0)


def test_missing_annotations_are_named_before_training(root: Path) -> None:
    (root / "train" / "ann" / "street.png.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files .* the first is .*ann/street\.png\.json"):
        open_dataset(root, "train")


@pytest.mark.parametrize("text", ['{"classes": 3}', "[]", '{"classes": [{"name": "x"}]}'])
def test_a_meta_file_of_something_else_is_named(root: Path, text: str) -> None:
    (root / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta\.json has no list `classes` with a `title` each"):
        open_layout(root)
