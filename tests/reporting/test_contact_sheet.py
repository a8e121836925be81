"""The sheet of images beside their masks: which images, in which colours, with which words."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from segdistill.data.check import Survey, survey
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import FileSamples
from segdistill.reporting.contact_sheet import (
    BOX,
    GAP,
    LINE_HEIGHT,
    MARGIN,
    SHEET_WIDTH,
    TEXT_HEIGHT,
    Sheet,
    choose,
    class_bars,
    draw_sheet,
    fit_text,
    make_pair,
    render_sheet,
    void_note,
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


@pytest.fixture
def sheet(samples: FileSamples) -> Sheet:
    return Sheet(title="<title>", samples=samples, indices=[0, 7, 29], counted=survey(samples))


def test_an_image_has_its_overlay_beside_it(sheet: Sheet) -> None:
    picture = draw_sheet(sheet)
    assert picture.width == SHEET_WIDTH
    # The middle of the row of images, which are half as high as wide.
    row, overlay = MARGIN + 2 * TEXT_HEIGHT + BOX // 4, MARGIN + BOX + GAP
    assert picture.getpixel((MARGIN + BOX // 2, row)) == (0, 0, 255)
    assert picture.getpixel((overlay + BOX // 6, row)) == (0, 0, 255)  # background is not coloured
    assert picture.getpixel((overlay + BOX // 2, row)) == (110, 0, 115)  # 0.55 * 200, 0.45 * 255
    pale = (179, 179, 205)  # 0.8 * (224, 224, 192) + 0.2 * blue
    assert picture.getpixel((overlay + BOX * 5 // 6, row)) == pale


def test_the_images_are_spread_evenly() -> None:
    chosen = choose(12, range(30))
    assert (len(chosen), chosen[0], chosen[-1]) == (12, 0, 29)
    assert {after - before for before, after in pairwise(chosen)} == {2, 3}
    assert choose(12, [4, 9]) == [4, 9]
    assert choose(1, [4, 9]) == [4]


def test_a_caption_fits_below_its_image(samples: FileSamples) -> None:
    font = ImageFont.load_default(TEXT_HEIGHT)
    pair = make_pair(samples, 7, BOX)
    assert (pair.names, pair.image.size) == (("background", "red"), (BOX, BOX // 2))
    assert fit_text(pair.id, void_note(pair), 2 * BOX + GAP, font) == "07, 33% void"
    text = fit_text("folder/" * 30 + "name", ", <1% void", 2 * BOX + GAP, font)
    assert text.startswith("…")
    assert text.endswith("folder/name, <1% void")
    assert font.getlength(text) <= 2 * BOX + GAP


def test_bars_are_as_long_as_the_classes_shares(sheet: Sheet) -> None:
    """One class in each of the three columns, then void: two lines in the first two."""
    lines = sheet.lines()
    assert [(line.name, line.share, line.images) for line in lines] == [
        ("background (no colour)", 0.33, 30), ("red", 0.34, 30), ("green", 0, 0), ("void", 0.33, None),
    ]  # fmt: skip
    strip = class_bars(lines)
    assert strip.height == 2 * LINE_HEIGHT

    def dark(line: int) -> int:
        """Pixels of the bar: those of the muted grey in the upper part of the bar's rows."""
        column, row = divmod(line, 2)
        left = MARGIN + column * ((SHEET_WIDTH - MARGIN) // 3)
        y = row * LINE_HEIGHT + 4
        bar = range(left + 242, left + 242 + 96)
        return sum(strip.getpixel((x, y)) == (0x5D, 0x65, 0x71) for x in bar)

    assert dark(1) > 80
    assert dark(0) / dark(1) == pytest.approx(33 / 34, abs=0.03)
    assert dark(2) == 0
    assert strip.getpixel((MARGIN + TEXT_HEIGHT // 2, LINE_HEIGHT + TEXT_HEIGHT // 2)) == (200, 0, 0)


def test_many_classes_take_a_line_each() -> None:
    many = LabelSet(names=tuple(f"a class with the number {index}" for index in range(100)))
    sheet_lines = Sheet(title="", samples=None, indices=[], counted=Survey(many, 0)).lines()  # type: ignore[arg-type]
    assert class_bars(sheet_lines).height == 34 * LINE_HEIGHT


def test_a_page_has_everything_in_it_and_escapes_names(sheet: Sheet) -> None:
    page = render_sheet(sheet)
    assert page.count("data:image/jpeg;base64,") == 2 * 3
    assert "<h1>&lt;title&gt;</h1>" in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert re.findall(r"@import|url\(", page) == []
    assert re.findall(r"width: (\d+\.\d+%)", page) == ["97.059%", "100.000%", "97.059%"]
    assert "<figcaption>07, 33% void<small>background, red</small>" in page
