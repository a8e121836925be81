"""COCO's JSON: the masks are those of pycocotools, and everything else in the file is checked."""

import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rasteriser
from pycocotools.coco import COCO

from segdistill.data.cache.images import sample_key
from segdistill.data.check import check
from segdistill.data.datasets import open_dataset, splits
from segdistill.data.formats.table import open_layout
from segdistill.data.samples import FileSamples

# pycocotools' own decoder, which only these tests call, warns under NumPy 2.
pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore:__array__ implementation")]
H, W = 24, 37
CATEGORIES = [{"id": 7, "name": "roof"}, {"id": 3, "name": "road"}, {"id": 90, "name": "car"}]
SQUARE = [[2, 2, 10, 2, 10, 10, 2, 10]]
DESCRIPTION = "annotations: 'annotations/instances_{split}.json'\nimages: '{split}'\n"
Make = Callable[..., Path]


def annotation(segmentation: Any, category: int = 3, image: int = 5, **fields: Any) -> dict[str, Any]:
    return {"id": 11, "image_id": image, "category_id": category, "segmentation": segmentation, **fields}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a data set of the images 5 (sub/a.jpg) and 6 (b.png), of H x W pixels."""

    def write(items: list, description: str = DESCRIPTION, split: str = "train", **content: Any) -> Path:
        images = [{"id": 6, "file_name": "b.png", "height": H, "width": W}]
        images += [{"id": 5, "file_name": "sub/a.jpg", "height": H, "width": W}]
        for image in images:
            path = tmp_path / split / str(image["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (W, H)).save(path)
        stored = {"images": images, "annotations": items, "categories": CATEGORIES, **content}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(stored))
        (tmp_path / "dataset.yaml").write_text(description)
        return tmp_path

    return write


def opened(root: Path) -> FileSamples:
    return open_dataset(root, "train")


def runs(rng: np.random.Generator, *, compressed: bool) -> dict[str, Any]:
    """A random blob as run lengths."""
    pixels = np.zeros((H, W), np.uint8)
    (y, x), (h, w) = rng.integers(0, (H - 1, W - 1)), rng.integers(1, 15, 2)
    pixels[y : y + h, x : x + w] = rng.integers(0, 2, pixels[y : y + h, x : x + w].shape)
    pixels[y, x] = 1
    if compressed:
        return {"size": [H, W], "counts": rasteriser.encode(np.asfortranarray(pixels))["counts"].decode()}
    flat = np.concatenate([[0], pixels.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat.astype(int)))
    return {"size": [H, W], "counts": np.diff([0, *changes[:-1], H * W]).tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_of_pycocotools(make: Make, seed: int) -> None:
    """Random polygons (also outside the image) and runs, in the order of their areas."""
    rng = np.random.default_rng(seed)
    polygons = [
        [rng.uniform(-4, 40, 8).round(2).tolist() for _ in range(rng.integers(1, 3))] for _ in range(6)
    ]
    segmentations = [*polygons, *(runs(rng, compressed=number % 2 == 0) for number in range(6))]
    annotations = [
        annotation(
            one, [3, 7, 90][number % 3], id=number + 1, area=1, bbox=[0, 0, 1, 1], iscrowd=int(number == 11)
        )
        for number, one in enumerate(segmentations)
    ]
    root = make(annotations)
    theirs = COCO(root / "annotations" / "instances_train.json")
    drawn = [(theirs.annToMask(one).astype(bool), one) for one in annotations]
    expected = np.zeros((H, W), int)
    for pixels, _ in drawn[11:]:
        expected[pixels] = 255
    for pixels, one in sorted(drawn[:11], key=lambda pair: -pair[0].sum()):
        expected[pixels] = {3: 1, 7: 2, 90: 3}[one["category_id"]]
    samples = opened(root)
    assert samples.labels.names == ("background", "road", "roof", "car")
    assert list(samples.ids) == ["b", "sub/a"]
    assert samples[1].mask.tolist() == samples.mask(1).tolist() == expected.tolist()
    assert {0, 1, 2, 3} <= set(np.unique(expected))
    assert samples[0].mask.sum() == 0
    assert pickle.loads(pickle.dumps(samples)).mask(1).tolist() == expected.tolist()
    assert list(check(samples)) == [None, None]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_smaller_region_is_on_top_and_crowds_are_below(make: Make, reverse: bool) -> None:
    crowd = {"size": [H, W], "counts": [0, 3 * H, (W - 3) * H]}
    annotations = [
        annotation([[0, 0, 20, 0, 20, 20, 0, 20]], 7),
        annotation(SQUARE, 3),
        annotation(crowd, 90, iscrowd=1),
    ]
    mask = opened(make(annotations[::-1] if reverse else annotations)).mask(1)
    assert [int(mask[y, x]) for y, x in ((5, 5), (15, 15), (22, 1), (22, 30), (1, 1))] == [1, 2, 255, 0, 2]


def test_of_equal_regions_the_later_is_on_top(make: Make) -> None:
    assert opened(make([annotation(SQUARE, 3), annotation(SQUARE, 7)])).mask(1)[5, 5] == 2
    assert opened(make([annotation(SQUARE, 7), annotation(SQUARE, 3)])).mask(1)[5, 5] == 1


def test_names_say_which_index_a_category_has(make: Make) -> None:
    root = make([annotation(SQUARE, 3)], DESCRIPTION + "names: [none, car, roof, road]\n")
    assert opened(root).mask(1)[5, 5] == 3
    make([annotation(SQUARE, 3)], DESCRIPTION + "names: [none, car, roof]\n")
    with pytest.raises(
        ValueError, match="annotation 11 has the category 'road', but the classes are none, car"
    ):
        opened(root)


def test_a_category_called_background_is_index_0(make: Make) -> None:
    root = make([annotation(SQUARE, 3)], categories=[{"id": 0, "name": "background"}, *CATEGORIES])
    assert opened(root).labels.names == ("background", "road", "roof", "car")


def test_names_come_from_the_smallest_file(make: Make) -> None:
    make([annotation(SQUARE)] * 3, split="val")
    root = make([], split="train", categories=[{"id": 1, "name": "car"}])
    assert splits(root) == ["train", "val"]
    assert open_layout(root).labels.names == ("background", "car")
    with pytest.raises(
        ValueError, match=r"has the category 'road', but .*: add it to `names` in dataset\.yaml"
    ):
        open_dataset(root, "val")


def test_one_file_is_one_split(make: Make, tmp_path: Path) -> None:
    layout = "annotations: annotations/instances_train.json\nimages: train\n"
    root = make([annotation(SQUARE)], layout)
    found = open_layout(root)
    assert (found.one_split, found.splits()) == (True, ["all"])
    assert open_dataset(root, "all").mask(1)[5, 5] == 1


def test_sizes_may_be_missing(make: Make) -> None:
    images = [
        {"id": 5, "file_name": "sub/a.jpg"},
        {"id": 6, "file_name": "b.png", "height": 0, "width": None},
    ]
    samples = opened(make([annotation(SQUARE)], images=images))
    assert samples.mask(0).tolist() == samples[0].mask.tolist()
    assert samples.mask(0).shape == samples.mask(1).shape == (H, W)


def test_an_image_of_another_size_is_a_problem(make: Make) -> None:
    root = make([annotation(SQUARE)])
    Image.new("RGB", (9, 8)).save(root / "train" / "b.png")
    problem, good = check(opened(root))
    assert good is None
    assert problem is not None
    assert problem.reason.endswith("has b.png as 37x24 pixels, but the image is 9x8")


def test_polygons_without_area_cover_nothing(make: Make) -> None:
    """pycocotools would take the first for a box."""
    samples = opened(make([annotation([[1, 1, 9, 9]]), annotation([[1, 1]]), annotation([[]])]))
    assert samples.mask(1).sum() == 0


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "there is no segmentation (a box alone"),
        (None, "there is no segmentation"),
        ([1, 2, 3, 4, 5, 6], "a polygon is not a list of coordinates"),
        ("abc", "a polygon is not a list of coordinates"),
        ([[1, 2, 3, 4, 5, "6"]], "a polygon has the coordinate '6', which is no number"),
        ([[1, 2, 3, 4, 5, None]], "the coordinate 'None', which is no number"),
        ([[1, 2, 3, 4, 5, 1e9]], "the coordinate 1000000000.0, far outside the image of 37x24 pixels"),
        ([[1, 2, 3, 4, 5, 10**400]], "far outside"),
        ([[1, 2, 3, 4, 5, float("nan")]], "the coordinate nan, far outside"),
        ([[1, 2, 3, 4, 5, -38]], "the coordinate -38, far outside"),
        ([[1, 2, 3, 4, 5, 6, 7]], "an odd number of coordinates"),
        (
            {"size": [W, H], "counts": [H * W]},
            "run lengths are for a size (H, W) of [37, 24], but the image's is [24",
        ),
        ({"counts": [H * W]}, "a size (H, W) of None"),
        (
            {"size": [H, W], "counts": [H * W - 1]},
            "run lengths are damaged: they do not add up to 888 pixels",
        ),
        ({"size": [H, W], "counts": [H * W + 1]}, "damaged"),
        ({"size": [H, W], "counts": [-1, H * W + 1]}, "damaged"),
        ({"size": [H, W], "counts": [1.0, H * W - 1]}, "damaged"),
        ({"size": [H, W], "counts": 5}, "damaged"),
        ({"size": [H, W], "counts": ""}, "damaged"),
        ({"size": [H, W], "counts": "oooo"}, "damaged"),
        ({"size": [H, W], "counts": "oooooooooooooooo0"}, "damaged"),
        ({"size": [H, W], "counts": "\u00e4"}, "damaged"),
        ({"size": [H, W], "counts": "O"}, "damaged: they do not"),
        ({"size": [H, W], "counts": "11111"}, "damaged"),
    ],
)
def test_a_damaged_shape_is_a_problem_with_its_id(make: Make, segmentation: Any, reason: str) -> None:
    good, problem = check(opened(make([annotation(SQUARE), annotation(segmentation)])))
    assert good is None
    assert problem is not None
    assert re.search(
        r"instances_train\.json: annotation 11 of a\.jpg: .*" + re.escape(reason), problem.reason
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"images": None}, r"instances_train\.json has no list `images`: it is not COCO's"),
        ({"categories": 3}, "has no list `categories`"),
        ({"images": [{"id": 1}]}, "entry 0 of `images` has no file_name"),
        ({"images": [1]}, "entry 0 of `images` has no id and no file_name"),
        ({"images": [{"id": [1], "file_name": "a"}]}, "entry 0 of `images` has no id"),
        ({"annotations": [{"image_id": 1}]}, "entry 0 of `annotations` has no category_id"),
        ({"annotations": [annotation(SQUARE, 8)]}, "annotation 11 has the unknown category 8"),
        ({"images": [{"id": 1, "file_name": "../a.png"}]}, r"'\.\./a\.png', which is outside the data set"),
        ({"images": [{"id": 1, "file_name": "/a.png"}]}, "which is outside the data set"),
        ({"images": [{"id": n, "file_name": "a.png"} for n in (1, 2)]}, "lists the image 'a' 2 times"),
    ],
)
def test_a_file_that_is_not_cocos_says_why(make: Make, content: dict, reason: str) -> None:
    root = make([], **content)
    with pytest.raises(ValueError, match=reason):
        opened(root)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("annotations: 'none_{split}.json'\nimages: '{split}'\n", r"there is no file .*none_\{split\}\.json"),
        (
            "annotations: '../{split}.json'\nimages: '{split}'\n",
            "annotations is '../{split}.json', but must be",
        ),
        ("annotations: 'a_{split}.json'\n", "has no `images`"),
        (
            DESCRIPTION + "masks: x\n",
            "unknown key 'masks'.*keys are annotations, bits, classes, group, images, names",
        ),
        (DESCRIPTION + "names: 3\n", "has no list `names`"),
    ],
)
def test_a_wrong_description_says_why(make: Make, description: str, reason: str) -> None:
    root = make([], description)
    with pytest.raises(ValueError, match=reason):
        open_layout(root)


def test_an_unknown_split_lists_the_known_ones(make: Make) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"instances_test\.json does not exist\); splits here: train$"
    ):
        open_dataset(make([]), "test")


def test_a_missing_image_is_named_before_training(make: Make) -> None:
    root = make([])
    (root / "train" / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 files of the data set are missing, the first is .*b\.png"
    ):
        opened(root)


def test_other_classes_are_another_cache_entry(make: Make) -> None:
    keys = set()
    for names in ("[x, road, roof, car]", "[x, car, roof, road]"):
        root = make([annotation(SQUARE)], DESCRIPTION + f"names: {names}\n")
        keys.add(sample_key(opened(root), 1))
    assert len(keys) == 2


def test_without_pycocotools_the_extra_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"install segdistill\[formats\]"):
        open_layout(make([]))
