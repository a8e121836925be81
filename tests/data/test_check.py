"""The check of a data set names every bad sample of a folder at once, with the reason."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.check import Survey, check, survey
from segdistill.data.datasets import open_dataset, open_unlabelled
from segdistill.data.labels import VOC, LabelSet
from segdistill.data.masks import Problem
from segdistill.data.samples import FileSamples, JoinedSamples

pytestmark = pytest.mark.unit
Make = Callable[..., FileSamples]

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


# What masks hold


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a data set of images of one row from their masks, with the classes ground, road and roof."""

    def write(*rows: list[int], void: int = 255) -> FileSamples:
        images = [tmp_path / f"{index}.jpg" for index in range(len(rows))]
        masks = [tmp_path / f"{index}.png" for index in range(len(rows))]
        for image, mask, row in zip(images, masks, rows, strict=True):
            Image.new("RGB", (len(row), 1)).save(image)
            Image.fromarray(np.array([row], np.uint8)).save(mask)
        labels = LabelSet(names=("ground", "road", "roof"), void=void)
        return FileSamples(labels, [path.stem for path in images], images, masks)

    return write


def test_a_survey_counts_pixels_and_images(make: Make) -> None:
    found = survey(make([0, 0, 1, 255], [0, 0, 0, 2]))
    assert found.pixels[:3].tolist() == [5, 1, 1]
    assert found.images[:3].tolist() == [2, 1, 1]
    assert (found.void, found.masks, found.labelled, found.warnings) == (1 / 8, 2, 2, [])


def test_masks_of_0_and_255_are_warned_of(make: Make) -> None:
    """The second class was saved as 255: it is void, and training would score 100 %."""
    absent, void = survey(make([0, 255, 255, 255], [0, 0, 255, 255])).warnings
    assert absent.startswith("no pixel of road, roof in the 2 masks: a class that does not occur")
    assert void.startswith("62% of the pixels of the 2 masks are void and teach nothing (index 255: if")


def test_half_of_the_area_may_be_void(make: Make) -> None:
    assert survey(make([0, 1, 2, 255, 255, 255])).warnings == []
    (void,) = survey(make([0, 1, 2, 11, 11, 11, 11], void=11)).warnings
    assert "57% of the pixels of the 1 masks are void and teach nothing (index 11: " in void


def test_many_absent_classes_are_not_all_named(tmp_path: Path) -> None:
    counted = Survey(VOC, 1)
    counted.add(np.bincount([0], minlength=256))
    (absent,) = counted.warnings
    assert "sheep" not in absent
    assert "cow and 10 more in" in absent


def test_of_many_masks_an_evenly_spaced_part_is_read(make: Make, tmp_path: Path) -> None:
    samples = make([0], [1], [0], [2], [0])
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").unlink()
    (absent,) = survey(samples, most=3).warnings
    assert absent.startswith("no pixel of road, roof in the 3 masks that were read, of 5 (")


def test_a_survey_opens_no_image_and_leaves_out_the_unlabelled(make: Make, tmp_path: Path) -> None:
    samples = make([0, 1], [2, 2])
    photo = FileSamples(samples.labels, ["photo"], [tmp_path / "0.jpg"])
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"")
    found = survey(JoinedSamples([samples, photo]))
    assert (found.masks, found.void) == (2, 0)


def test_no_mask_is_nothing_to_warn_of(tmp_path: Path) -> None:
    photo = FileSamples(VOC, ["photo"], [tmp_path / "0.jpg"])
    assert survey(photo).warnings == []


def test_a_check_counts_the_good_masks(broken: Path) -> None:
    dataset = open_dataset(broken, "all", strict=False)
    counted = Survey(dataset.labels, dataset.labelled)
    assert sum(problem is None for problem in check(dataset, counted)) == counted.masks == 2
    assert counted.pixels.sum() == 2 * 64
