"""The verbs of `segdistill data` that look at a whole data set, as a user types them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import cli
from segdistill.config.show import ShowConfig
from segdistill.data.datasets import open_dataset
from segdistill.inspecting import check_dataset, show_dataset

pytestmark = pytest.mark.integration


def answer(capsys: Any, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; returns its JSON line."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def devkit_of(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def add_to_list(devkit: Path, split: str, name: str) -> None:
    with (devkit / "ImageSets" / "Segmentation" / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")


def test_check_names_images_that_two_splits_share(capsys: Any, copied: Path) -> None:
    devkit = devkit_of(copied)
    images, masks = devkit / "JPEGImages", devkit / "SegmentationClass"
    for name in ("copy", "near"):
        shutil.copy(masks / "shape_000003.png", masks / f"{name}.png")
        add_to_list(devkit, "val", name)
    shutil.copy(images / "shape_000003.jpg", images / "copy.jpg")
    with Image.open(images / "shape_000003.jpg") as image:
        image.save(images / "near.jpg", quality=60)
    add_to_list(devkit, "val", "shape_000000")
    (devkit / "ImageSets" / "Segmentation" / "trainval.txt").write_text(
        "".join((devkit / "ImageSets" / "Segmentation" / f"{s}.txt").read_text() for s in ("train", "val"))
    )
    record, said = check_dataset(copied), capsys.readouterr().err
    assert record["sizes"] == {"train": 12, "trainval": 19, "val": 7}
    assert (record["duplicates"], record["problems"]) == (2, 0)
    assert "val copy: has the pixels of train shape_000003" in said
    (near,) = [line for line in said.splitlines() if "looks like" in line]
    assert re.search(r"val near: looks like train shape_000003 \(\d+ of 128 bits differ\)$", near)
    assert "train and val have 1 files in common" in said
    assert "train and trainval have 12 files in common" in said
    assert "trainval copy" not in said


def test_check_says_how_often_each_class_is_there_and_how_small(capsys: Any, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"s{number // 2}_{number}.png")
        mask = np.array([[0, 0, 1, 1, 1], [0] * 5, [2, 0, 0, 0, 0], [0] * 5], np.uint8)
        mask[3, 4] = number % 2  # another object of the first class
        Image.fromarray(mask).save(tmp_path / "masks" / f"s{number // 2}_{number}.png")
    (tmp_path / "dataset.yaml").write_text(
        "names: [ground, road, roof]\nimages: images\nmasks: masks\nval: 0.3\ngroup: '^(.+)_'\n"
    )
    record, said = check_dataset(tmp_path), capsys.readouterr().err
    assert record["splits"] == ["train", "val"]
    assert record["sizes"]["train"] + record["sizes"]["val"] == 6
    assert record["sizes"]["val"] in {2, 4}
    train = record["statistics"]["train"]
    images = record["sizes"]["train"]
    assert train["image_counts"] == {"ground": images, "road": images, "roof": images}
    assert train["pixel_shares"]["road"] == pytest.approx(3.5 / 20)
    assert train["smallest_objects"]["road"]["pixels"] == 1
    assert train["smallest_objects"]["ground"]["pixels"] in {15, 16}
    assert f"train: {images} images, {images // 2} groups" in said
    assert "in common" not in said


def test_check_names_groups_that_are_in_two_splits(capsys: Any, copied: Path) -> None:
    with (devkit_of(copied) / "dataset.yaml").open("a") as file:
        file.write("group: '^([a-z]+)'\n")
    record, said = check_dataset(copied), capsys.readouterr().err
    assert "train and val have the group shape in common" in said
    assert "val: no pixel of " in said
    assert record["warnings"] == 2, "the group, and a class that the 4 images of val lack"


def test_colour_masks_are_not_told_of_an_index(capsys: Any, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    Image.new("RGB", (4, 4), (224, 224, 192)).save(tmp_path / "masks" / "a.png")
    text = (
        "names: [x, y]\npalette: [[0, 0, 0], [9, 9, 9]]\nimages: images\nmasks: masks\nmask_format: colours\n"
    )
    (tmp_path / "dataset.yaml").write_text(text + "void: [224, 224, 192]\n")
    check_dataset(tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "teach nothing" in line]
    assert line.endswith(
        "are void and teach nothing (colour [224, 224, 192]: if it is meant to be a class, add it to `names` "
        "and `palette`)"
    )


def test_show_draws_a_picture_and_a_page(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet"
    record = show_dataset(shapes, ShowConfig(out=str(out), images=5))
    assert record["out"] == [str(out / "sheet.png"), str(out / "index.html")]
    assert (record["images"], record["split"]) == (5, "train")
    with Image.open(out / "sheet.png") as picture:
        assert picture.width == 1600
    assert (out / "index.html").read_text().count("<figure>") == 5


def test_show_takes_images_of_one_class(shapes: Path, tmp_path: Path) -> None:
    samples = open_dataset(shapes, "val")
    shown = [name for name in samples.labels.names if name != "background"]
    found = {
        name: sum(bool((samples.mask(n) == i).any()) for n in range(4)) for i, name in enumerate(shown, 1)
    }
    there = next(name for name, count in found.items() if 0 < count < 4)
    absent = next(name for name, count in found.items() if not count)
    out = tmp_path / "one.html"
    record = show_dataset(shapes, ShowConfig(out=str(out), split="val", class_name=there))
    assert (record["out"], record["images"]) == ([str(out)], found[there])
    assert f"{found[there]} images that show {there}</h1>" in out.read_text()
    with pytest.raises(ValueError, match=f"no mask of split 'val' shows {absent}"):
        show_dataset(shapes, ShowConfig(out=str(out), split="val", class_name=absent))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"out": "a.gif"}, r"out is 'a\.gif', but must be a \.png file, an \.html file or a folder"),
        ({"out": "a.png", "images": 0}, "images is 0, but must be from 1 to 300"),
    ],
)
def test_what_cannot_be_shown_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ShowConfig(**settings)


def test_convert_init_and_show_from_the_command_line(capsys: Any, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["data", "convert", str(shapes), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["images"], record["computed"]) == (16, 16)
    assert captured.err.startswith(f"Converting 16 images of {shapes} into the VOC devkit {out}\n")
    (out / "dataset.yaml").unlink()
    record = answer(capsys, "data", "init", out)
    assert (record["layout"], record["splits"]) == ("voc", {"train": 12, "val": 4})
    record = answer(capsys, "data", "show", out, "--out", tmp_path / "a.png", "--class", "background")
    assert (record["images"], record["out"]) == (12, [str(tmp_path / "a.png")])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1600
    assert cli.main(["data", "show", str(out)]) == 2
    assert "the following arguments are required: --out (" in capsys.readouterr().err
    settings = tmp_path / "show.yaml"
    settings.write_text(f"out: {tmp_path / 'b.png'}\nsplit: val\nimages: 3\n")
    record = answer(capsys, "data", "show", out, "--config", settings, "--images", 2)
    assert (record["split"], record["images"], record["out"]) == ("val", 2, [str(tmp_path / "b.png")])
    assert cli.main(["data", "show", str(out), "--out", "a.png", "--class", "dogg"]) == 1
    assert "no class is called dogg; classes are background, aeroplane" in capsys.readouterr().err


def test_data_check_names_each_bad_file(capsys: Any, copied: Path) -> None:
    devkit = copied / "VOCdevkit" / "VOC2012"
    names = (devkit / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    masks, images = devkit / "SegmentationClass", devkit / "JPEGImages"
    (masks / f"{names[0]}.png").unlink()
    Image.new("P", (5, 5)).save(masks / f"{names[1]}.png")
    Image.fromarray(np.full((48, 48), 77, np.uint8)).save(masks / f"{names[2]}.png")
    content = (images / f"{names[3]}.jpg").read_bytes()
    (images / f"{names[3]}.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (48, 48)).save(masks / f"{names[4]}.png")
    (images / f"{names[5]}.jpg").write_text("no image")
    assert cli.main(["data", "check", str(copied)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["problems"] == 6
    assert len([line for line in err.splitlines() if re.match(r"(train|val) \w+: ", line)]) == 6
    reasons = ("does not exist", "5x5 pixels", "label 77", "cannot be decoded", "mode RGB", "not an image")
    first, *lines = err.splitlines()
    assert first == f"Checking 16 images of {copied}: train 12, val 4"
    for name, reason, line in zip(names, reasons, lines, strict=False):
        assert re.match(rf"train {name}: .*{reason}", line), reason


def test_data_check_groups_what_has_one_cause(capsys: Any, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(5):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{index}.png")
        values = np.array([[0, 7, 21 if index % 2 else 7, 0]] * 4, np.uint8)
        Image.fromarray(values).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "dataset.yaml").write_text("names: [ground, road, tree]\nimages: images\nmasks: masks\n")
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["bad"] == {"all": ["0", "1", "2", "3", "4"]}
    lines = err.splitlines()[1:]
    assert [line[:7] for line in lines[:3]] == ["all 0: ", "all 1: ", "all 2: "]
    assert lines[3] == "all and 2 more like 0: `bad` in the JSON line names all"
    assert "say `mask_format: ids` and `ids: {0: ground, 7: road, 21: tree}` in dataset.yaml" in lines[4]


def test_data_check_names_masks_of_jpeg_as_the_cause(capsys: Any, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    values = np.kron(np.eye(4, dtype=np.uint8), np.full((5, 5), 2, np.uint8))
    Image.new("RGB", values.shape).save(tmp_path / "images" / "a.png")
    Image.fromarray(values * 100).save(tmp_path / "masks" / "a.jpg", quality=60)
    (tmp_path / "dataset.yaml").write_text(
        'names: [ground, road, tree]\nimages: images\nmasks: masks\nmask_name: "{stem}.jpg"\n'
    )
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "JPEG is lossy and changes labels: save masks as PNG" in capsys.readouterr().err


def test_data_check_warns_of_masks_of_0_and_255(capsys: Any, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(np.array([[0, 255, 255, 255]] * 4, np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "dataset.yaml").write_text("names: [ground, road]\nimages: images\nmasks: masks\n")
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["problems"], json.loads(out)["warnings"]) == (0, 2)
    absent, void = (line for line in err.splitlines() if line.startswith("all: ") and "images" not in line)
    assert absent.startswith("all: no pixel of road in the 2 masks")
    assert void.startswith("all: 75% of the pixels of the 2 masks are void and teach nothing (index 255: if")
