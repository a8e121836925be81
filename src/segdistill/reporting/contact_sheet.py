"""Images of a data set beside their masks' overlays, as a picture and as a page, to look at first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segdistill.data.check import Survey
from segdistill.data.labels import VOID
from segdistill.data.samples import FileSamples
from segdistill.inference.prediction import Prediction, blend
from segdistill.page.templates import open_template
from segdistill.reporting.examples import picture_url
from segdistill.reporting.style import INK, LINE, MUTED
from segdistill.version import __version__

SHEET_WIDTH = 1600
"""Pixels of the sheet."""
PAIRS = 3
"""Images in a row, each with its overlay beside it."""
GAP, MARGIN = 6, 20
"""Pixels between an image and its overlay, and around the two."""
BOX = (SHEET_WIDTH - MARGIN * (PAIRS + 1) - GAP * PAIRS) // (2 * PAIRS)
"""Longest side of an image in the picture, in pixels."""
PAGE_BOX = 480
"""Longest side of an image in the page, in pixels."""
TEXT_HEIGHT = 18
"""Height of a line of text, in pixels."""
LINE_HEIGHT = 30
"""Pixels between the lines of two classes."""


@dataclass(frozen=True, kw_only=True)
class SheetPair:
    """One image and its overlay.

    Attributes:
        image, overlay: of one size.
        id: of the sample.
        void: fraction of the mask that is void.
        names: of the classes in the mask, in the order of their indices.
    """

    image: Image.Image
    overlay: Image.Image
    id: str
    void: float
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """What the sheet says about a class, or about void.

    Attributes:
        name: with a note on its colour, if any.
        colour: R, G, B of its swatch.
        share: fraction of all pixels.
        images: how many it is in; None for void.
    """

    name: str
    colour: tuple[int, int, int]
    share: float
    images: int | None


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What is shown of a data set.

    Attributes:
        title: says which images these are.
        samples: that the images are of.
        indices: of the images.
        counted: all masks of the data set, or of its split.
    """

    title: str
    samples: FileSamples
    indices: Sequence[int]
    counted: Survey

    def lines(self) -> list[ClassLine]:
        """The classes in the order of their indices, then void."""
        labels, record = self.counted.labels, self.counted.record
        shares, images = record["pixel_shares"], record["image_counts"]
        lines = [
            ClassLine(name=name, colour=colour, share=shares[name], images=images[name])
            for name, colour in zip(labels.names, labels.palette, strict=True)
        ]
        if labels.names[0] == "background":
            first = ClassLine(
                name="background (no colour)",
                colour=(255, 255, 255),
                share=lines[0].share,
                images=lines[0].images,
            )
            lines[0] = first
        red, green, blue = labels.file_palette[3 * VOID :]
        void = ClassLine(name="void", colour=(red, green, blue), share=self.counted.void, images=None)
        return [*lines, void]


def choose(count: int, candidates: Sequence[int]) -> list[int]:
    """At most `count` of the candidates, evenly spaced."""
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [candidates[place] for place in places.tolist()]


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The picture: images with their overlays, and the classes with bars of their shares; void is pale.

    Raises:
        FileNotFoundError, ValueError: an image or its mask cannot be read.
    """
    pairs = [make_pair(sheet.samples, index, BOX) for index in sheet.indices]
    rows = [pairs[first : first + PAIRS] for first in range(0, len(pairs), PAIRS)]
    heights = [max(pair.image.height for pair in row) + 2 * TEXT_HEIGHT for row in rows]
    key = class_bars(sheet.lines())
    top = MARGIN + 2 * TEXT_HEIGHT
    picture = Image.new("RGB", (SHEET_WIDTH, top + sum(heights) + key.height + 2 * MARGIN), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT_HEIGHT)
    draw.text(
        (MARGIN, MARGIN), fit_text(sheet.title, "", SHEET_WIDTH - 2 * MARGIN, font), fill=INK, font=font
    )
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            left = MARGIN + column * (2 * BOX + GAP + MARGIN)
            picture.paste(pair.image, (left, top))
            picture.paste(pair.overlay, (left + pair.image.width + GAP, top))
            place = (left, top + pair.image.height + 3)
            draw.text(place, fit_text(pair.id, void_note(pair), 2 * BOX + GAP, font), fill=MUTED, font=font)
        top += height
    picture.paste(key, (0, top + MARGIN))
    return picture


def render_sheet(sheet: Sheet) -> str:
    """The page: the same as the picture, larger, in one file that asks for no other.

    Raises:
        FileNotFoundError, ValueError: an image or its mask cannot be read.
    """
    pairs = [make_pair(sheet.samples, index, PAGE_BOX) for index in sheet.indices]
    lines = sheet.lines()
    return str(
        open_template("segdistill.reporting", "contact_sheet.html.j2").render(
            version=__version__,
            title=sheet.title,
            masks=sheet.counted.masks,
            lines=lines,
            largest=max(line.share for line in lines) or 1,
            pairs=[
                (pair, picture_url(pair.image), picture_url(pair.overlay), void_note(pair)) for pair in pairs
            ],
        )
    )


def make_pair(samples: FileSamples, index: int, box: int) -> SheetPair:
    """An image and its overlay with a longest side of `box` pixels; small ones are enlarged up to 8 times."""
    sample = samples[index]
    height, width = sample.mask.shape
    factor = min(8.0, box / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    mask = Image.fromarray(sample.mask.numpy()).resize(size, Image.Resampling.NEAREST)
    prediction = Prediction(image=image, mask=np.asarray(mask), probabilities=None, labels=samples.labels)
    return SheetPair(
        image=image,
        overlay=Image.fromarray(blend(prediction)),
        id=sample.id,
        void=float((sample.mask == VOID).float().mean()),
        names=tuple(samples.labels.names[i] for i in np.unique(sample.mask).tolist() if i != VOID),
    )


def class_bars(lines: Sequence[ClassLine]) -> Image.Image:
    """A strip with swatch, name, share of the pixels as a bar, and images of each class, in columns."""
    font, column = ImageFont.load_default(TEXT_HEIGHT), (SHEET_WIDTH - MARGIN) // PAIRS
    rows = -(-len(lines) // PAIRS)
    strip = Image.new("RGB", (SHEET_WIDTH, rows * LINE_HEIGHT), "white")
    draw = ImageDraw.Draw(strip)
    largest = max(line.share for line in lines) or 1
    name_width, bar_width = round(0.46 * column), round(0.18 * column)
    for place, line in enumerate(lines):
        x, y = MARGIN + place // rows * column, place % rows * LINE_HEIGHT
        middle, ink = y + TEXT_HEIGHT / 2, INK if line.share else MUTED
        draw.rectangle((x, y, x + TEXT_HEIGHT, y + TEXT_HEIGHT), fill=line.colour, outline=LINE)
        name = fit_text(line.name, "", name_width - 2 * TEXT_HEIGHT, font)
        draw.text((x + 1.5 * TEXT_HEIGHT, middle), name, fill=ink, font=font, anchor="lm")
        bar = x + name_width
        if line.share:
            end = bar + max(1, round(line.share / largest * bar_width))
            draw.rectangle((bar, y + 3, end, y + TEXT_HEIGHT - 3), fill=MUTED)
        count = "" if line.images is None else f", {line.images:,} image{'' if line.images == 1 else 's'}"
        text = f"{format_share(line.share)}{count}" if line.share else "absent"
        draw.text((bar + bar_width + TEXT_HEIGHT / 2, middle), text, fill=ink, font=font, anchor="lm")
    return strip


def format_share(share: float) -> str:
    """A fraction in percent; a small one does not look like none."""
    return "<0.1%" if 0 < share < 1e-3 else f"{share:.1%}"


def void_note(pair: SheetPair) -> str:
    """How much of the mask is void, as the end of a caption."""
    return f", {pair.void:.0%} void" if pair.void >= 0.01 else ", <1% void" if pair.void else ""


def fit_text(name: str, note: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name with a note, as wide as `width` pixels at most: a long name loses its beginning."""
    text = name + note
    while name and font.getlength(text) > width:
        name = name[1:]
        text = f"…{name}{note}"
    return text
