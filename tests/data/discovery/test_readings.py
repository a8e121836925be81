"""Folders that nobody has described: how they are read, and that what is written can be opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill.data.datasets import open_dataset, splits
from segdistill.data.discovery.folders import place_of
from segdistill.data.discovery.readings import find_readings
from segdistill.data.formats.table import open_layout
from segdistill.describing import init_dataset

pytestmark = pytest.mark.unit
Make = Callable[..., Path]
DESCRIBED = ["coco", "folders", "voc"]
"""Layouts that a dataset.yaml is written for."""


def photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, *values: Any) -> None:
    """A mask with a row or more of each value, or colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.array([values[row * len(values) // 40] for row in range(40)], np.uint8)
    Image.fromarray(np.repeat(rows[:, None], 30, axis=1)).save(path)


def description(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "dataset.yaml").read_text())


@pytest.mark.parametrize(
    "every_layout", [*DESCRIBED, "ade", "cityscapes", "cvat", "labelme", "supervisely", "yolo"], indirect=True
)
def test_every_layout_is_found_and_read_as_it_was(every_layout: Make, capsys: Any) -> None:
    every_layout(["a", "b"])
    root = every_layout(["c"], "val")
    before = {split: [sample.mask.tolist() for sample in open_dataset(root, split)] for split in splits(root)}
    (root / "dataset.yaml").unlink(missing_ok=True)
    record = init_dataset(root)
    assert (record["layout"], record["splits"]) == (root.name, {"train": 2, "val": 1})
    assert record["written"] == (root / "dataset.yaml").is_file() == (root.name in DESCRIBED)
    assert f"{root} is read as {root.name}: " in capsys.readouterr().err
    after = {split: [sample.mask.tolist() for sample in open_dataset(root, split)] for split in splits(root)}
    assert after == before


@pytest.mark.parametrize(
    "every_layout",
    "ade cityscapes cvat huggingface labelme labelstudio supervisely yolo".split(),
    indirect=True,
)
def test_a_data_set_that_describes_itself_is_left_as_it_is(every_layout: Make) -> None:
    root = every_layout(["a"])
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    record = init_dataset(root)
    assert (record["layout"], record["written"]) == (root.name, False)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("every_layout", DESCRIBED, indirect=True)
def test_a_description_is_not_overwritten_unasked(every_layout: Make) -> None:
    root = every_layout(["a"])
    before = (root / "dataset.yaml").read_text()
    with pytest.raises(ValueError, match=r"dataset\.yaml is there already: overwrite replaces it"):
        init_dataset(root)
    assert (root / "dataset.yaml").read_text() == before
    init_dataset(root, overwrite=True)
    assert (root / "dataset.yaml").read_text() != before


def test_what_is_missing_is_said_with_its_line(tmp_path: Path, capsys: Any) -> None:
    for number in range(30):
        photo(tmp_path / "pictures" / "sub" / f"{number}.jpg", number)
        mask(tmp_path / "annotations" / "sub" / f"{number}_L.png", 0, 2)
    record = init_dataset(tmp_path)
    assert description(tmp_path) == {
        "names": ["class_0", "class_1", "class_2"],
        "void": 255,
        "images": "pictures",
        "masks": "annotations",
        "mask_name": "{stem}_L.png",
    }
    assert record["missing"] == ["names: [class_0, class_1, class_2]", "val: 0.1"]
    said = " ".join(capsys.readouterr().err.split())
    assert "Missing: the names of the classes; replace these in" in said
    assert "Missing: a split for validation; add to" in said
    with (tmp_path / "dataset.yaml").open("a") as file:
        file.write("val: 0.1\n")
    assert splits(tmp_path) == ["train", "val"]


def test_a_fraction_is_not_advised_where_no_split_can_be_divided(tmp_path: Path, capsys: Any) -> None:
    for scene in ("a", "b"):
        photo(tmp_path / scene / "x.jpg")
        (tmp_path / scene / "x.json").write_text('{"shapes": [{"label": "roof"}], "imagePath": "x.jpg"}')
    assert init_dataset(tmp_path)["missing"] == ["--data.split NAME --data.val_split NAME"]
    assert "Missing: which splits to train and to validate on: --data.split" in capsys.readouterr().err
    (tmp_path / "dataset.yaml").write_text("val: 0.1\n")
    with pytest.raises(ValueError, match="divides the split 'train', but the splits are a, b"):
        open_layout(tmp_path)


def test_names_come_from_a_file_beside_the_folders(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        photo(tmp_path / "images" / split / "a.jpg")
        mask(tmp_path / "annotations" / split / "a.png", 0, 1)
    (tmp_path / "classes.txt").write_text("ground\nroad\nroof\n")
    record = init_dataset(tmp_path)
    assert description(tmp_path)["names"] == ["ground", "road", "roof"]
    assert record["missing"] == ["--data.split training --data.val_split validation"]


def test_masks_of_0_and_255_are_binary(tmp_path: Path) -> None:
    photo(tmp_path / "train_images" / "a.jpg")
    mask(tmp_path / "train_masks" / "a.png", 0, 255)
    init_dataset(tmp_path)
    found = description(tmp_path)
    assert (found["mask_format"], found["images"]) == ("binary", "{split}_images")
    assert open_dataset(tmp_path, "train")[0].mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize("csv", [True, False])
def test_masks_in_colours_get_their_palette(tmp_path: Path, csv: bool) -> None:
    photo(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "masks" / "a.png", [9, 9, 9], [9, 9, 9], [200, 0, 0], [224, 224, 192])
    if csv:
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroof,200,0,0\nroad,9,9,9\ncar,0,0,1\n")
    init_dataset(tmp_path)
    found = description(tmp_path)
    assert found["mask_format"] == "colours"
    assert found["names"] == (["roof", "road", "car"] if csv else ["class_0", "class_1"])
    assert found["palette"][:2] == ([[200, 0, 0], [9, 9, 9]] if csv else [[9, 9, 9], [200, 0, 0]])
    assert found["void"] == [224, 224, 192]
    assert open_dataset(tmp_path, "all")[0].mask.unique().tolist() == [0, 1, 255]


def test_grey_levels_far_apart_are_colours(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "masks" / "a.png", 0, 76, 76, 149)
    init_dataset(tmp_path)
    assert description(tmp_path)["palette"] == [[0] * 3, [76] * 3, [149] * 3]
    assert open_dataset(tmp_path, "all")[0].mask.unique().tolist() == [0, 1, 2]


def test_several_ways_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "masks" / "a.png", 0, 1)
    mask(tmp_path / "parts" / "a.png", 0, 1, 2)
    with pytest.raises(
        ValueError,
        match=r"2 ways: folders-1 \(images in images, masks in masks; .*folders-2 .* one with data\.layout",
    ):
        init_dataset(tmp_path)
    assert not (tmp_path / "dataset.yaml").exists()
    with pytest.raises(ValueError, match=r"layout is 'voc', but .* can be read as folders-1"):
        init_dataset(tmp_path, "voc")
    init_dataset(tmp_path, "folders-2")
    assert description(tmp_path)["masks"] == "parts"


def test_a_devkit_without_masks_is_refused_with_their_place(tmp_path: Path) -> None:
    for name in ("ImageSets/Segmentation", "SegmentationClass"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="SegmentationClass is empty: put the masks there"):
        init_dataset(tmp_path)


def test_a_folder_without_masks_says_what_was_looked_for(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    photo(tmp_path / "more" / "a.jpg", 1)
    assert find_readings(tmp_path) == []
    with pytest.raises(ValueError, match=r"neither ImageSets \(VOC\).* how to write a dataset\.yaml"):
        init_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        init_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "template", "split"),
    [
        ("images/train", "images/{split}", "train"),
        ("train2017", "{split}", "train2017"),
        ("annotations/instances_val2017.json", "annotations/instances_{split}.json", "val2017"),
        ("train/train_masks", "{split}/{split}_masks", "train"),
        ("Validation/x", "{split}/x", "Validation"),
        ("strained/tester", "strained/tester", ""),
    ],
)
def test_splits_are_words_of_a_path(path: str, template: str, split: str) -> None:
    assert place_of(Path(path)) == (template, split)


def test_masks_that_are_jpeg_files_are_named(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "a.jpg")
    with pytest.raises(
        ValueError, match=r"masks.a\.jpg cannot be a mask; JPEG is lossy .*: save masks as PNG"
    ):
        init_dataset(tmp_path)
