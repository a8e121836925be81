"""Masks in colours and in black and white: classes, errors, and one cache entry per way of reading."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.config.train import DataConfig
from segdistill.data.cache.images import sample_key
from segdistill.data.check import Survey, check, survey
from segdistill.data.datasets import open_dataset, open_training, open_validation
from segdistill.data.formats.table import open_layout
from segdistill.data.samples import FileSamples

pytestmark = pytest.mark.unit
Make = Callable[..., Path]
COLOURS = "names: [x, y]\npalette: [[0, 0, 0], [200, 30, 31]]\nmask_format: colours\n"
BINARY = "names: [x, y]\nmask_format: binary\n"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a data set of one image with the mask `pixels`; returns its folder."""

    def write(pixels: list, description: str, mode: str | None = None) -> Path:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        mask = Image.fromarray(np.array(pixels, np.uint8))
        (mask.convert(mode, palette=Image.Palette.ADAPTIVE) if mode else mask).save(
            tmp_path / "masks" / "p.png"
        )
        Image.new("RGB", mask.size).save(tmp_path / "images" / "p.png")
        (tmp_path / "dataset.yaml").write_text(description + "images: images\nmasks: masks\n")
        return tmp_path

    return write


def opened(root: Path) -> FileSamples:
    return open_dataset(root, "all")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_classes(make: Make, mode: str) -> None:
    void = [224, 224, 192]
    samples = opened(make([[[0, 0, 0], [200, 30, 31]], [void, [0, 0, 0]]], COLOURS + f"void: {void}\n", mode))
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == [[0, 1], [255, 0]]
    assert pickle.loads(pickle.dumps(samples)).mask(0).tolist() == [[0, 1], [255, 0]]
    assert survey(samples).pixels[[0, 1, 255]].tolist() == [2, 1, 1]


@pytest.mark.parametrize("colour", [[200, 30, 30], [200, 30, 32], [31, 30, 200], [255, 255, 255], [0, 0, 1]])
def test_a_colour_nearly_right_is_an_error_that_says_where(make: Make, colour: list[int]) -> None:
    root = make([[[0, 0, 0]] * 3, [[0, 0, 0], [200, 30, 31], colour]], COLOURS)
    for read in (lambda: opened(root)[0], lambda: opened(root).mask(0)):
        where = f"{root}/masks/p.png has the colour {colour} at pixel (x, y) = (2, 1); 1 of its 6 pixels have"
        with pytest.raises(ValueError, match=re.escape(where)):
            read()


def test_the_check_reads_colours(make: Make) -> None:
    samples = opened(make([[[0, 0, 0], [200, 30, 31]]], COLOURS))
    counted = Survey(samples.labels, 1)
    assert list(check(samples, counted)) == [None]
    assert counted.pixels[:2].tolist() == [1, 1]
    (problem,) = check(opened(make([[[9, 9, 9]]], COLOURS)))
    assert problem is not None
    assert "has the colour [9, 9, 9] at pixel (x, y) = (0, 0)" in problem.reason


def test_a_mask_in_colours_must_have_the_images_size(make: Make) -> None:
    root = make([[[0, 0, 0]] * 3], COLOURS)
    Image.new("RGB", (2, 1)).save(root / "images" / "p.png")
    with pytest.raises(ValueError, match=r"p\.png is 3x1 pixels, but its image is 2x1"):
        opened(root)[0]


def test_training_and_validation_read_colours(make: Make) -> None:
    root = make([[[0, 0, 0], [200, 30, 31]]], COLOURS)
    for name in "abcdefgh":
        for folder in ("images", "masks"):
            (root / folder / f"{name}.png").write_bytes((root / folder / "p.png").read_bytes())
    config = DataConfig(root=str(root), split="all", val_share=0.4)
    training, validation = open_training(config), open_validation(config)
    assert len(training) + len(validation) == 9
    masks = [samples[i].mask.tolist() for samples in (training, validation) for i in range(len(samples))]
    assert masks == [[[0, 1]]] * 9


def test_a_devkit_may_have_colours(tmp_path: Path) -> None:
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("p\n")
    Image.new("RGB", (2, 1)).save(tmp_path / "JPEGImages" / "p.jpg")
    Image.new("RGB", (2, 1), (200, 30, 31)).save(tmp_path / "SegmentationClass" / "p.png")
    (tmp_path / "dataset.yaml").write_text(COLOURS)
    assert open_dataset(tmp_path, "train")[0].mask.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("rows", "description", "mask"),
    [
        ([[0, 255, 255]], BINARY, [[0, 1, 1]]),
        ([[0, 1, 255]], BINARY, [[0, 1, 1]]),
        ([[0, 128, 255]], BINARY + "void: 128\n", [[0, 255, 1]]),
    ],
)
def test_white_is_the_second_class(make: Make, rows: list, description: str, mask: list) -> None:
    samples = opened(make(rows, description))
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == mask


def test_a_bitmap_is_binary(make: Make) -> None:
    assert opened(make([[0, 255]], BINARY, "1"))[0].mask.tolist() == [[0, 1]]


def test_a_grey_of_a_binary_mask_is_an_error_that_says_where(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"p\.png has the value 254 at pixel \(x, y\) = \(1, 1\), but a binary"
    ):
        opened(make([[0, 255], [0, 254]], BINARY))[0]


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (
            "names: [x, y]\nmask_format: colors\n",
            "mask_format is 'colors', but masks hold indices, ids, colours, bin",
        ),
        ("names: [x, y]\nmask_format: [1]\n", r"mask_format is '\[1\]', but masks hold"),
        (
            "names: [x, y]\nmask_format: colours\n",
            r"masks in colours need `palette`, the \[R, G, B\] of each",
        ),
        ("names: [x, y]\nmask_format: colours\npalette: [[1, 1, 1], [1, 1, 1]]\n", "of different colours"),
        (COLOURS + "void: [0, 0, 0]\n", "of different colours, none of them that of `void`"),
        (COLOURS + "void: 255\n", r"void is 255, but where masks are colours it is one: \[R, G, B\]"),
        (COLOURS + "void: [0, 0, 256]\n", "each 0 to 255"),
        (COLOURS + "void: [0, 0, true]\n", "each 0 to 255"),
        ("names: [x, y, z]\nmask_format: binary\n", "binary masks have 2 classes, not 3"),
        (BINARY + "void: 255\n", "void is 255, which is a class"),
        (BINARY + "void: [1, 2, 3]\n", r"void is \[1, 2, 3\], but must be a grey value"),
    ],
)
def test_an_impossible_description_is_refused(make: Make, description: str, reason: str) -> None:
    root = make([[0]], description)
    with pytest.raises(ValueError, match=rf"dataset\.yaml: .*{reason}"):
        open_layout(root)


def test_another_reading_of_the_same_files_is_another_cache_entry(make: Make) -> None:
    descriptions = [
        "names: [x, y]\n",
        BINARY,
        BINARY + "void: 128\n",
        COLOURS,
        COLOURS + "void: [1, 2, 3]\n",
        COLOURS.replace("[0, 0, 0], [200, 30, 31]", "[200, 30, 31], [0, 0, 0]"),
    ]
    root = make([[0, 255]], "")
    keys = set()
    for description in descriptions:
        (root / "dataset.yaml").write_text(description + "images: images\nmasks: masks\n")
        keys.add(sample_key(opened(root), 0))
    assert len(keys) == len(descriptions)


IDS = (
    "names: [road, roof]\nimages: images\nmasks: masks\n"
    "mask_format: ids\nids: {7: road, 8: road, 40000: roof}\n"
)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ids_of_16_bits_are_read_as_their_classes(tmp_path: Path, suffix: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (5, 1)).save(tmp_path / "images" / "a.png")
    stored = np.array([[7, 8, 40000, 0, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "masks" / f"a.{suffix}")
    (tmp_path / "dataset.yaml").write_text(IDS + f"mask_name: '{{stem}}.{suffix}'\nvoid: [0, 65535]\n")
    samples = open_dataset(tmp_path, "all")
    assert samples[0].mask.tolist() == samples.mask(0).tolist() == [[0, 0, 1, 255, 255]]
    (tmp_path / "dataset.yaml").write_text(IDS + f"mask_name: '{{stem}}.{suffix}'\nvoid: 0\n")
    (problem,) = check(open_dataset(tmp_path, "all"))
    assert problem is not None
    assert problem.reason.endswith(
        f"a.{suffix} has the id 65535 at pixel (x, y) = (4, 0), which is neither a class's nor void's; ids "
        "are 0, 7, 8, 40000"
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("mask_format: ids\n", "`ids` .* belongs to mask_format: ids, and each needs the other"),
        ("ids: {1: road}\n", "`ids` .* belongs to mask_format: ids"),
        ("mask_format: ids\nids: [1, 2]\n", "`ids` must hold the class of each id, such as 7: road"),
        (
            "mask_format: ids\nids: {1: road, 70000: roof}\n",
            "'70000' is no id: .* numbers, 0 to 65535",
        ),
        ("mask_format: ids\nids: {road: 1, roof: 2}\n", "'road' is no id"),
        ("mask_format: ids\nids: {1: road, 2: tree}\n", "no class is called tree; classes are road, roof"),
        ("mask_format: ids\nids: {1: road}\n", "no id in `ids` is of the class roof"),
        (
            "mask_format: ids\nids: {1: road, 2: roof}\nvoid: [2, 3]\n",
            "the id 2 is a class in `ids`, and",
        ),
        ("mask_format: ids\nids: {1: road, 2: roof}\nvoid: x\n", "'x' is no id"),
    ],
)
def test_impossible_ids_are_refused(tmp_path: Path, lines: str, reason: str) -> None:
    (tmp_path / "dataset.yaml").write_text("names: [road, roof]\nimages: images\nmasks: masks\n" + lines)
    with pytest.raises(ValueError, match=rf"dataset\.yaml: .*{reason}"):
        open_dataset(tmp_path, "all")
