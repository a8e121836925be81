"""The sheet of images beside their masks: which images, in which colours, with which words."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import FileSamples
from segdistill.reporting import contact_sheet as module
from segdistill.reporting.contact_sheet import (
    BOX,
    GAP,
    MARGIN,
    TEXT,
    WIDTH,
    Pair,
    caption,
    contact_sheet,
    legend,
)

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)))


@pytest.fixture
def samples(tmp_path: Path) -> FileSamples:
    """Thirty blue images of 100 x 50 pixels: a third background, a third red, a third void."""
    mask = np.zeros((50, 100), dtype=np.uint8)
    mask[:, 33:] = 1
    mask[:, 67:] = VOID
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.new("RGB", (100, 50), (0, 0, 255)).save(tmp_path / "image.png")
    ids = [f"{index:02}" for index in range(30)]
    return FileSamples(LABELS, ids, [tmp_path / "image.png"] * 30, [tmp_path / "mask.png"] * 30)


def test_an_image_has_its_overlay_beside_it(samples: FileSamples) -> None:
    sheet = contact_sheet(samples)
    assert sheet.width == WIDTH
    row = (
        MARGIN + 2 * TEXT + BOX // 4
    )  # the middle of the first row of images, which are half as high as wide
    overlay = MARGIN + BOX + GAP
    assert sheet.getpixel((MARGIN + BOX // 2, row)) == (0, 0, 255)
    assert sheet.getpixel((overlay + BOX // 6, row)) == (0, 0, 255)  # background is not coloured
    assert sheet.getpixel((overlay + BOX // 2, row)) == (110, 0, 115)  # 0.55 * 200, 0.45 * 255
    assert sheet.getpixel((overlay + BOX * 5 // 6, row)) == (
        179,
        179,
        205,
    )  # 0.8 * (224, 224, 192) + 0.2 * blue


def test_the_images_are_spread_evenly(samples: FileSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    make = module.make_pair
    monkeypatch.setattr(
        module, "make_pair", lambda samples, index: chosen.append(index) or make(samples, index)
    )
    contact_sheet(samples)
    assert (len(chosen), chosen[0], chosen[-1]) == (12, 0, 29)
    assert {after - before for before, after in pairwise(chosen)} == {2, 3}


def test_a_caption_fits_below_its_image(samples: FileSamples) -> None:
    font = ImageFont.load_default(TEXT)
    pair = module.make_pair(samples, 7)
    assert caption(pair, font) == "07, 33% void"
    long = Pair(picture=pair.picture, id="folder/" * 30 + "name", void=0.001, indices=frozenset())
    text = caption(long, font)
    assert text.startswith("…")
    assert text.endswith("folder/name, <1% void")
    assert font.getlength(text) <= 2 * BOX + GAP


def test_the_legend_has_a_swatch_for_each_class_and_wraps() -> None:
    strip = legend(LABELS, [0, 1, VOID])
    colours = {strip.getpixel((x, TEXT // 2)) for x in range(WIDTH)}
    assert {(200, 0, 0), (224, 224, 192)} <= colours
    assert (0, 200, 0) not in colours
    many = LabelSet(names=tuple(f"a class with the number {index}" for index in range(100)))
    assert legend(many, list(range(100))).height > 10 * TEXT
