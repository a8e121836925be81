"""What every data set has: labels, masks that come first, files, and masks without their images."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.data.labels import LabelSet
from segdistill.data.masks import SampleFiles
from segdistill.data.samples import DownscaledSamples, FileSamples, JoinedSamples

pytestmark = pytest.mark.unit


def make(folder: Path, name: str, rows: list[list[int]], void: int = 255, masked: bool = True) -> FileSamples:
    """Images of one row each, 4 pixels wide."""
    images, masks = [], []
    for index, row in enumerate(rows):
        images.append(folder / f"{name}{index}.png")
        masks.append(folder / f"{name}{index}_mask.png")
        Image.fromarray(np.full((1, len(row), 3), index, np.uint8)).save(images[-1])
        Image.fromarray(np.array([row], np.uint8)).save(masks[-1])
    labels = LabelSet(names=("a", "b"), void=void)
    return FileSamples(labels, [path.stem for path in images], images, masks if masked else None)


@pytest.mark.parametrize(("void", "row"), [(255, [0, 1, 255, 0]), (254, [0, 1, 254, 0]), (11, [0, 1, 11, 0])])
def test_the_declared_void_becomes_255(tmp_path: Path, void: int, row: list[int]) -> None:
    samples = make(tmp_path, "x", [row], void)
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == [[0, 1, 255, 0]]


@pytest.mark.parametrize("void", [254, 11])
def test_another_void_frees_255(tmp_path: Path, void: int) -> None:
    """It is a label like any other, which these two classes do not have: never silently void."""
    samples = make(tmp_path, "x", [[0, 1, 255, void]], void)
    for read in (lambda: samples[0], lambda: samples.mask(0)):
        with pytest.raises(
            ValueError, match=rf"holds the label 255, but labels are 0 to 1 and void is {void}"
        ):
            read()


def test_joined_sets_are_one_with_the_masks_first(tmp_path: Path) -> None:
    first = make(tmp_path, "x", [[0, 0], [1, 1]])
    second = make(tmp_path, "y", [[7, 1]], void=7)
    photos = make(tmp_path, "z", [[0, 0], [0, 0]], masked=False)
    joined = JoinedSamples([first, second, photos])
    assert (len(joined), joined.labelled, joined.labels) == (5, 3, first.labels)
    assert [joined[index].id for index in range(5)] == ["x0", "x1", "y0", "z0", "z1"]
    assert [joined.mask(index).tolist() for index in (1, 2, 3)] == [[[1, 1]], [[255, 1]], [[255, 255]]]
    assert joined.files(2) == SampleFiles("y0", tmp_path / "y0.png", tmp_path / "y0_mask.png", 7)
    assert joined.files(4) == SampleFiles("z1", tmp_path / "z1.png", None)
    with pytest.raises(IndexError):
        joined[5]


def test_a_downscaled_set_has_the_files_and_masks_of_its_own(tmp_path: Path) -> None:
    samples = DownscaledSamples(make(tmp_path, "x", [[0, 0, 1, 1]]), 2)
    assert (len(samples), samples.labelled, samples.labels.names) == (1, 1, ("a", "b"))
    assert samples.files(0).image == tmp_path / "x0.png"
    assert samples.mask(0).tolist() == [[0, 1]]
    assert samples[0].native == (1, 4)


def test_data_sets_travel_to_processes_that_are_spawned(tmp_path: Path) -> None:
    joined = JoinedSamples([make(tmp_path, "x", [[0, 1]]), make(tmp_path, "y", [[0, 0]], masked=False)])
    again = pickle.loads(pickle.dumps(DownscaledSamples(joined, 2)))
    assert (again.labelled, again.files(0)) == (1, joined.files(0))
    assert torch.equal(again[0].image, joined[0].image)
