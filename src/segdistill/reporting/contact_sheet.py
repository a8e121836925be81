"""A picture of some images of a data set beside their masks' overlays, to look at before training on them."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import FileSamples
from segdistill.inference.prediction import Prediction, blend
from segdistill.reporting.style import INK, LINE, MUTED

WIDTH = 1600
"""Pixels of the sheet."""
PAIRS = 3
"""Images in a row, each with its overlay beside it."""
ROWS = 4
"""Most rows."""
GAP, MARGIN = 6, 20
"""Pixels between an image and its overlay, and around the two."""
BOX = (WIDTH - MARGIN * (PAIRS + 1) - GAP * PAIRS) // (2 * PAIRS)
"""Longest side of an image, in pixels."""
TEXT = 18
"""Height of a line of text, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and its overlay.

    Attributes:
        picture: both beside each other.
        id: of the sample.
        void: fraction of the mask that is void.
        indices: what is in the mask.
    """

    picture: Image.Image
    id: str
    void: float
    indices: frozenset[int]


def contact_sheet(samples: FileSamples) -> Image.Image:
    """Evenly chosen images with their overlays, and a legend of the classes that are in them; void is pale.

    Raises:
        FileNotFoundError, ValueError: an image or its mask cannot be read.
    """
    shown = min(len(samples), PAIRS * ROWS)
    indices = np.linspace(0, len(samples) - 1, shown).round().astype(int).tolist()
    pairs = [make_pair(samples, index) for index in indices]
    rows = [pairs[first : first + PAIRS] for first in range(0, shown, PAIRS)]
    heights = [max(pair.picture.height for pair in row) + 2 * TEXT for row in rows]
    key = legend(samples.labels, sorted(frozenset().union(*(pair.indices for pair in pairs))))
    top = MARGIN + 2 * TEXT
    sheet = Image.new("RGB", (WIDTH, top + sum(heights) + key.height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    title = f"{shown} of {len(samples):,} images, evenly chosen, and their masks"
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font)
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            left = MARGIN + column * (2 * BOX + GAP + MARGIN)
            sheet.paste(pair.picture, (left, top))
            place = (left, top + pair.picture.height + 3)
            draw.text(place, caption(pair, font), fill=MUTED, font=font)
        top += height
    sheet.paste(key, (0, top))
    return sheet


def make_pair(samples: FileSamples, index: int) -> Pair:
    """An image and its overlay, small enough for the sheet; a tiny image is enlarged 8 times at most."""
    sample = samples[index]
    height, width = sample.mask.shape
    factor = min(8.0, BOX / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    mask = Image.fromarray(sample.mask.numpy()).resize(size, Image.Resampling.NEAREST)
    prediction = Prediction(image=image, mask=np.asarray(mask), probabilities=None, labels=samples.labels)
    picture = Image.new("RGB", (2 * size[0] + GAP, size[1]), "white")
    picture.paste(image)
    picture.paste(Image.fromarray(blend(prediction)), (size[0] + GAP, 0))
    void = float((sample.mask == VOID).float().mean())
    indices = frozenset(np.unique(sample.mask.numpy()).tolist())
    return Pair(picture=picture, id=sample.id, void=void, indices=indices)


def legend(labels: LabelSet, indices: list[int]) -> Image.Image:
    """A strip with a swatch and the name of each class, as many rows as they need; void comes last."""
    font = ImageFont.load_default(TEXT)
    colours = [tuple(labels.file_palette[3 * index : 3 * index + 3]) for index in range(VOID + 1)]
    entries, x, y = [], MARGIN, 0
    for index in indices:
        name = "void" if index == VOID else labels.names[index]
        uncoloured = index == 0 and name == "background"
        name += " (not coloured)" if uncoloured else ""
        width = round(1.5 * TEXT + font.getlength(name)) + MARGIN
        if x > MARGIN and x + width > WIDTH:
            x, y = MARGIN, y + 2 * TEXT
        entries.append((x, y, "white" if uncoloured else colours[index], name))
        x += width
    strip = Image.new("RGB", (WIDTH, y + 2 * TEXT), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, colour, name in entries:
        draw.rectangle((x, y, x + TEXT, y + TEXT), fill=colour, outline=LINE)
        draw.text((x + 1.5 * TEXT, y + TEXT / 2), name, fill=INK, font=font, anchor="lm")
    return strip


def caption(pair: Pair, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The id and the share of void, as wide as two images at most: a long id loses its beginning."""
    void = f", {pair.void:.0%} void" if pair.void >= 0.01 else ", <1% void" if pair.void else ""
    text, name = pair.id + void, pair.id
    while name and font.getlength(text) > 2 * BOX + GAP:
        name = name[1:]
        text = f"…{name}{void}"
    return text
