"""ADE20K's folders: class numbers from 1 on, 0 is void, and names from objectInfo150.txt."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.ade20k import AdeLayout, read_class_list
from segdistill.data.formats.table import open_layout

pytestmark = pytest.mark.unit
# The first lines of the published file, with the spaces that some of its lines have (# here).
# https://github.com/CSAILVision/sceneparsing/blob/master/objectInfo150.txt
CLASSES = """Idx\tRatio\tTrain\tVal\tName
1\t0.1576\t11664\t1172\twall
2\t0.1072\t6046\t612\tbuilding, edifice
3\t0.0878\t8265\t796\tsky
4\t0.0621\t9336\t917\tfloor, flooring
5\t0.0480\t6678\t641\ttree
6\t0.0450\t6604\t643\tceiling
7\t0.0398\t4023\t408\troad, route
8\t0.0231\t1906\t199\tbed#
9 \t0.0198\t4688\t460\twindowpane, window#
""".replace("#", " ")
NAMES = ("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The unpacked archive: a folder in the folder."""
    data = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        for folder, suffix in (("images", "jpg"), ("annotations", "png")):
            (data / folder / split).mkdir(parents=True)
            Image.fromarray(np.arange(10, dtype=np.uint8)[None]).save(
                data / folder / split / f"{name}.{suffix}"
            )
    (data / "objectInfo150.txt").write_text(CLASSES)
    return tmp_path


def test_zero_is_void_and_classes_begin_at_one(root: Path) -> None:
    layout = open_layout(root)
    samples = open_dataset(root, "training")
    assert isinstance(layout, AdeLayout)
    assert layout.labels.names == NAMES
    assert splits(root) == ["training", "validation"]
    assert list(samples.ids) == ["ADE_train_00000001"]
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == [[255, *range(9)]]
    assert list(check(samples)) == [None]
    assert open_dataset(root / "ADEChallengeData2016", "validation").mask(0).tolist() == [[255, *range(9)]]


def test_a_class_number_beyond_the_list_is_named(root: Path) -> None:
    path = root / "ADEChallengeData2016" / "annotations" / "training" / "ADE_train_00000001.png"
    Image.fromarray(np.full((1, 10), 10, np.uint8)).save(path)
    (problem,) = check(open_dataset(root, "training"))
    assert problem is not None
    assert problem.reason.startswith(f"{path} has the id 10 at pixel (x, y) = (0, 0)")


def test_classes_are_merged(root: Path) -> None:
    (root / "ADEChallengeData2016" / "dataset.yaml").write_text("classes: {inside: [wall, floor, ceiling]}\n")
    samples = open_dataset(root, "training")
    assert samples.labels.names == ("inside", "building", "sky", "tree", "road", "bed", "windowpane")
    assert samples.mask(0).tolist() == [[255, 0, 1, 2, 0, 3, 0, 4, 5, 6]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must have a heading"),
        (CLASSES.replace("Idx", "Index"), "must have a heading"),
        (CLASSES.replace("5\t0.0480", "6\t0.0480"), "then a line for each class: 1, "),
        (CLASSES.replace("tree", "sky"), "class names repeat"),
    ],
)
def test_a_damaged_class_list_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "objectInfo150.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"objectInfo150\.txt.*{reason}"):
        read_class_list(path)
