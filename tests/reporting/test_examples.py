"""Which images are shown, and in which colours."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor, nn

from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples
from segdistill.reporting.examples import (
    CORRECT,
    LONG_SIDE,
    UNKNOWN,
    VOID_COLOUR,
    WRONG,
    Example,
    colour_legend,
    error_map,
    example_grid,
    make_examples,
    pick_examples,
    picture_url,
    tiles,
)

pytestmark = pytest.mark.unit

LABELS = LabelSet(names=("background", "cat", "dog"), palette=((10, 20, 30), (200, 0, 0), (0, 0, 200)))


def example(truth: np.ndarray, **predictions: np.ndarray) -> Example:
    image = np.full((*truth.shape, 3), 128, dtype=np.uint8)
    scores = {name: 0.5 for name in predictions if name != "teacher"}
    return Example(id="a", role="best", scores=scores, image=image, truth=truth, predictions=predictions)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ({}, 2, []),
        ({"a": None}, 2, []),
        ({"a": 0.5}, 2, [("best", "a")]),
        ({"a": 0.5, "b": 0.9}, 2, [("best", "b"), ("worst", "a")]),
        ({"a": 0.5, "b": 0.9, "c": 0.1}, 2, [("best", "b"), ("median", "a"), ("worst", "c")]),
        (
            {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1},
            2,
            [("best", "a"), ("best", "b"), ("median", "c"), ("worst", "d")],
        ),
        (
            {name: 1 - i / 10 for i, name in enumerate("abcdefgh")} | {"void": None},
            2,
            [("best", "a"), ("best", "b"), ("median", "d"), ("median", "e"), ("worst", "g"), ("worst", "h")],
        ),
        # Equal scores go by id, whatever the order they come in.
        ({"c": 0.5, "a": 0.5, "b": 0.5}, 1, [("best", "a"), ("median", "b"), ("worst", "c")]),
    ],
)
def test_picks_best_median_and_worst(scores, count, expected):
    assert pick_examples(scores, count) == expected


@pytest.mark.parametrize("images", range(12))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_image_is_picked_twice_and_roles_keep_their_order(images, count):
    scores = {f"{i:02d}": (7 * i % 12) / 12 for i in range(images)}
    picked = pick_examples(scores, count)
    names = [name for _, name in picked]
    assert len(names) == len(set(names)) == min(images, 3 * count)
    assert [scores[name] for name in names] == sorted((scores[name] for name in names), reverse=True)
    roles = [role for role, _ in picked]
    assert roles == sorted(roles, key=["best", "median", "worst"].index)


class Constant(nn.Module):
    """Predicts one class everywhere, and records the sizes of the images that it gets."""

    def __init__(self, index: int, size: int | None = None) -> None:
        super().__init__()
        self.index, self.sizes = index, []
        if size is not None:
            self.size = size

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        logits = torch.zeros(len(image), len(LABELS), *image.shape[2:])
        logits[:, self.index] = 1
        return logits


@pytest.fixture
def samples(tmp_path: Path) -> FileSamples:
    """Three images of 12 x 16 pixels, each of one colour and one class."""
    for i in range(3):
        Image.new("RGB", (16, 12), (i, 0, 0)).save(tmp_path / f"{i}.png")
        Image.new("L", (16, 12), i).save(tmp_path / f"mask{i}.png")
    images, masks = ([tmp_path / f"{name}{i}.png" for i in range(3)] for name in ("", "mask"))
    return FileSamples(LABELS, ["a", "b", "c"], images, masks)


def test_examples_are_made_of_open_networks_each_at_its_own_size(samples):
    teacher, student = Constant(1), Constant(2, size=8)
    scores = {"run": {"a": 0.1, "b": 0.9, "c": None}}
    best, worst = make_examples(samples, {"teacher": teacher, "run": student}, scores)
    assert [(e.role, e.id, e.scores) for e in (best, worst)] == [
        ("best", "b", {"run": 0.9}),
        ("worst", "a", {"run": 0.1}),
    ]
    assert list(best.predictions) == ["teacher", "run"]
    assert best.image.shape == (12, 16, 3)
    assert best.image[0, 0, 0] == 1
    for expected, mask in ((1, best.truth), (1, best.predictions["teacher"]), (2, best.predictions["run"])):
        np.testing.assert_array_equal(mask, np.full((12, 16), expected))
    assert (set(teacher.sizes), set(student.sizes)) == ({(12, 16)}, {(6, 8)})


def test_examples_of_an_image_that_is_gone_are_refused(samples):
    with pytest.raises(ValueError, match="z is no longer in the data set"):
        make_examples(samples, {"run": Constant(0)}, {"run": {"z": 0.5}})


def test_an_error_map_tells_right_wrong_and_unknown_apart():
    truth = np.array([[0, 1, 255], [2, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 0, 0], [2, 1, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(error_map(truth, prediction), [[0, 1, 2], [0, 1, 2]])


def test_masks_come_out_in_the_palette_and_errors_in_grey_red_and_white():
    truth = np.array([[0, 1, 255], [2, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 0, 0], [2, 1, 2]], dtype=np.uint8)
    row = tiles(example(truth, teacher=truth % 255, student=prediction), LABELS)
    assert [tile.title for tile in row] == ["image", "ground truth", "teacher", "student", "errors"]
    assert [tile.caption for tile in row] == ["a", "", "", "mIoU 50.0\u00a0%", ""]
    pictures = [np.asarray(decoded(picture_url(tile.picture)).convert("RGB")) for tile in row]
    zero, one, two = LABELS.palette
    np.testing.assert_array_equal(pictures[1], [[zero, one, VOID_COLOUR], [two, two, VOID_COLOUR]])
    np.testing.assert_array_equal(pictures[3], [[zero, zero, zero], [two, one, two]])
    np.testing.assert_array_equal(pictures[4], [[CORRECT, WRONG, UNKNOWN], [CORRECT, WRONG, UNKNOWN]])
    assert np.abs(pictures[0].astype(int) - 128).max() <= 2  # JPEG


def test_large_images_shrink_and_masks_get_no_new_colours():
    truth = np.zeros((100, 2000), dtype=np.uint8)
    truth[:, 1000:] = 2
    row = tiles(example(truth, student=truth), LABELS)
    assert {tile.picture.size for tile in row} == {(LONG_SIDE, LONG_SIDE // 20)}
    assert {colour for _, colour in row[2].picture.convert("RGB").getcolors()} == {
        LABELS.palette[0],
        LABELS.palette[2],
    }


def test_several_runs_have_their_own_errors_and_the_teacher_none():
    truth = np.zeros((4, 4), dtype=np.uint8)
    titles = [tile.title for tile in tiles(example(truth, teacher=truth, a=truth, b=truth), LABELS)]
    assert titles == ["image", "ground truth", "teacher", "a", "b", "errors of a", "errors of b"]


def test_the_legend_names_only_what_occurs():
    truth = np.array([[0, 255]], dtype=np.uint8)
    prediction = np.array([[2, 7]], dtype=np.uint8)
    legend = colour_legend([example(truth, student=prediction)], LABELS)
    assert [name for name, _ in legend] == ["background", "dog", "class 7", "void"]
    assert legend[1][1] == (0, 0, 200)


def test_the_grid_shows_each_mask_in_its_place():
    cat, dog = np.full((30, 40), 1, dtype=np.uint8), np.full((30, 40), 2, dtype=np.uint8)
    figure = example_grid([example(cat, student=cat), example(dog, student=cat)], LABELS)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    colours = []
    for axes in figure.axes:
        box = axes.get_window_extent()
        column, row = round((box.x0 + box.x1) / 2), round(pixels.shape[0] - (box.y0 + box.y1) / 2)
        colours.append(tuple(int(channel) for channel in pixels[row, column, :3]))
    grey, red, blue = (128, 128, 128), (200, 0, 0), (0, 0, 200)
    assert colours == [grey, red, red, CORRECT, grey, blue, red, WRONG]


def test_no_examples_make_no_grid():
    assert example_grid([], LABELS) is None
