"""The check of a data set names every bad sample of a folder at once, with the reason."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import Problem, check
from segdistill.data.datasets import open_dataset, open_unlabelled
from segdistill.data.labels import VOC

pytestmark = pytest.mark.unit

REASONS = {
    "a_good": None,
    "b_missing": r"masks/b_missing\.png does not exist",
    "c_size": r"c_size\.png is 5x8 pixels, but its image is 8x8",
    "d_label": r"d_label\.png holds the label 3, 254, 255, but labels are 0 to 2 and void is 11",
    "e_colours": r"e_colours\.png has mode RGB",
    "f_unreadable": r"images/f_unreadable\.jpg is not an image",
    "g_truncated": r"images/g_truncated\.jpg cannot be decoded",
    "h_half_a_mask": r"masks/h_half_a_mask\.png cannot be decoded",
    "i_good": None,
}


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder data set of two good samples and one of each kind of bad ones."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    for name in REASONS:
        Image.fromarray(noise).save(images / f"{name}.jpg")
        Image.fromarray((noise[..., 0] % 3).astype(np.uint8)).save(masks / f"{name}.png")
    (masks / "b_missing.png").unlink()
    Image.fromarray(np.zeros((8, 5), np.uint8)).save(masks / "c_size.png")
    Image.fromarray(np.array([[0, 1, 2, 3, 11, 254, 255, 0]] * 8, np.uint8)).save(masks / "d_label.png")
    Image.fromarray(noise).save(masks / "e_colours.png")
    (images / "f_unreadable.jpg").write_text("not a photograph")
    halve(images / "g_truncated.jpg")
    halve(masks / "h_half_a_mask.png")
    (tmp_path / "dataset.yaml").write_text("names: [x, y, z]\nvoid: 11\nimages: images\nmasks: masks\n")
    return tmp_path


def test_every_problem_of_a_folder_is_named_in_order(broken: Path) -> None:
    dataset = open_dataset(broken, "all", strict=False)
    found = list(check(dataset))
    assert list(dataset.ids) == list(REASONS)
    for (name, reason), problem in zip(REASONS.items(), found, strict=True):
        if reason is None:
            assert problem is None, name
        else:
            assert isinstance(problem, Problem), name
            assert problem.id == name
            assert re.search(reason, problem.reason), problem.reason


def test_an_image_that_is_listed_but_absent_is_named(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (problem,) = check(open_dataset(tmp_path, "train", strict=False))
    assert problem is not None
    assert problem.id == "2007_000032"
    assert re.search(r"JPEGImages/2007_000032\.jpg does not exist", problem.reason)


def test_unlabelled_images_are_checked_too(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    good, bad = check(open_unlabelled(tmp_path, VOC))
    assert good is None
    assert bad is not None
    assert bad.id == "b"
