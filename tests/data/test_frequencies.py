"""How often classes occur, and the weights that make up for it, by numbers worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.data.frequencies import class_frequencies, class_weights
from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples, JoinedSamples

pytestmark = pytest.mark.unit
Make = Callable[..., FileSamples]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a data set of images of one row, from their masks; None makes it unlabelled."""

    def write(name: str, *rows: list[int] | None) -> FileSamples:
        images, masks = [], []
        for index, row in enumerate(rows):
            images.append(tmp_path / f"{name}{index}.png")
            masks.append(tmp_path / f"{name}{index}_mask.png")
            pixels = np.array([row or [0] * 4], np.uint8)
            Image.fromarray(np.zeros((*pixels.shape, 3), np.uint8)).save(images[-1])
            Image.fromarray(pixels).save(masks[-1])
        labels, ids = LabelSet(names=("a", "b", "c")), [path.stem for path in images]
        return FileSamples(labels, ids, images, None if rows[0] is None else masks)

    return write


def test_frequencies_are_of_labelled_pixels(make: Make) -> None:
    both = JoinedSamples([make("x", [0, 0, 0, 255], [1, 0, 255, 255]), make("z", [0, 0, 0]), make("y", None)])
    # Seven of class 0, one of class 1, none of class 2.
    assert class_frequencies(both, 3).tolist() == [7 / 8, 1 / 8, 0]


def test_at_most_so_many_images_are_read_evenly_spaced(make: Make) -> None:
    samples = make("x", [0, 0], [1, 1], [2, 2], [1, 1], [2, 0])
    # The first, the middle and the last: two, two and two pixels.
    assert class_frequencies(samples, 3, most=3).tolist() == [3 / 6, 0, 3 / 6]


def test_weights_have_a_mean_of_one_over_the_pixels(make: Make) -> None:
    samples = make("x", [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 255, 255])
    # 9/10 and 1/10; to the power of -1/2 these are 1 : 3; 9/10 w + 1/10 3 w = 1 makes w 5/6.
    assert class_weights(samples, 3, 0.5).tolist() == pytest.approx([5 / 6, 5 / 2, 0])
    # To the power of -1 every class counts alike: 1 / (2 f).
    assert class_weights(samples, 3, 1.0).tolist() == pytest.approx([5 / 9, 5, 0])
    assert class_weights(samples, 3, 0.5).dtype == torch.float32


def test_an_exponent_of_zero_reads_no_mask(make: Make) -> None:
    samples = make("x", [0, 1])
    Path(samples.masks[0]).unlink()
    assert class_weights(samples, 3, 0.0) is None


def test_masks_without_a_labelled_pixel_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"class_weights is 0\.5, but no training mask has a labelled pixel"):
        class_weights(make("x", [255, 255]), 3, 0.5)
    with pytest.raises(ValueError, match="no training mask has a labelled pixel"):
        class_weights(make("y", None), 3, 0.5)
