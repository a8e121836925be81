"""Problems by cause, and what masks with gaps in their values may have been meant to be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.labels import LabelSet
from segdistill.data.masks import Problem
from segdistill.data.problems import by_cause, suggest_ids
from segdistill.data.samples import FileSamples

pytestmark = pytest.mark.unit


def test_problems_that_differ_in_files_and_numbers_alone_are_one_cause() -> None:
    problems = [
        Problem("a", "masks/a.png holds the label 11, but labels are 0 to 10 and void is 255"),
        Problem("b", "images/b.jpg cannot be decoded: truncated (12 bytes)"),
        Problem("c", "masks/c.png holds the label 12, but labels are 0 to 10 and void is 255"),
        Problem("d", "images\\d.jpg cannot be decoded: truncated (1,234 bytes)"),
        Problem("e", "masks/e.png does not exist"),
        Problem("f", "masks/f.png holds the label 11, 13, but labels are 0 to 10 and void is 255"),
        Problem("g", "masks/g.png holds the label 13, but labels are 0 to 10 and void is 255; if 13 is"),
    ]
    assert [[problem.id for problem in alike] for alike in by_cause(problems)] == [
        ["a", "c", "f", "g"],
        ["b", "d"],
        ["e"],
    ]


def samples_of(folder: Path, names: tuple[str, ...], *masks: list[int]) -> FileSamples:
    """A data set whose masks are one row of pixels each."""
    images, files = [], []
    for index, values in enumerate(masks):
        images.append(folder / f"{index}.jpg")
        files.append(folder / f"{index}.png")
        Image.new("RGB", (len(values), 1)).save(images[-1])
        Image.fromarray(np.array([values], dtype=np.uint8)).save(files[-1])
    labels = LabelSet(names=names, palette=tuple((index, 0, 0) for index in range(len(names))))
    return FileSamples(labels, [str(index) for index in range(len(masks))], images, files)


def test_as_many_values_as_names_are_suggested_as_ids_in_this_order(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ("background", "road", "tree"), [0, 7, 7], [0, 21, 255])
    assert suggest_ids(samples, []) == (
        "2 of 2 masks hold as many values as there are names; if they are meant in this order, say "
        "`mask_format: ids` and `ids: {0: background, 7: road, 21: tree}` in dataset.yaml"
    )


def test_other_values_are_listed_for_a_mapping(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ("background", "road"), [0, 1, 7], [9, 12, 255])
    assert suggest_ids(samples, []) == (
        "2 of 2 masks hold 0, 1, 7, 9, 12; give the class of each with `mask_format: ids` and "
        "`ids: {0: background, 1: road, 7: NAME, ...}` in dataset.yaml"
    )


def test_nothing_is_suggested_for_indices_nor_for_one_value_that_may_be_void(tmp_path: Path) -> None:
    assert suggest_ids(samples_of(tmp_path, ("background", "road"), [0, 1, 255]), []) is None
    assert suggest_ids(samples_of(tmp_path, ("background", "road"), [0, 1, 11]), []) is None


def test_bad_masks_are_looked_at_first_and_ids_may_have_16_bits(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ("background", "road"), *([[0, 1]] * 100))
    Image.fromarray(np.array([[0, 7, 1000]], dtype=np.uint16)).save(samples.files(50).mask)
    assert suggest_ids(samples, []) is None
    hint = suggest_ids(samples, ["50"])
    assert hint is not None
    assert "masks hold 0, 1, 7, 1000; give the class of each" in hint
