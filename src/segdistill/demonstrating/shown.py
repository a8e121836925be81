"""What the demonstration shows at its end: a table, a picture in the terminal, commands to go on with.

H, W: rows and columns of one picture.
"""

import shlex
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from segdistill.data.labels import LabelSet
from segdistill.reporting.comparison import MINUS
from segdistill.reporting.examples import Example, Tile, mask_tiles
from segdistill.results import as_html

WIDEST, NARROWEST = 48, 12
"""Columns of one picture in the terminal."""


class Demonstration(dict[str, Any]):
    """What `demo` returns; a notebook shows the scores of each seed, and how far the teacher helped."""

    def _repr_html_(self) -> str:
        return as_html(result_table(self), verdict(self))


def result_table(record: Mapping[str, Any]) -> Table:
    """Mean IoU of each seed, mean and deviation over the seeds, and the paired difference."""
    table = Table(
        title=f"Mean IoU in % on {record['images']:,} images that none of the networks was trained on"
    )
    table.add_column("network")
    for seed in record["seeds"]:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("mean ± deviation", justify="right")
    table.add_column("parameters", justify="right")
    blank = [""] * len(record["seeds"])
    rows = {"teacher": "teacher", "alone": "student alone", "distilled": "student distilled"}
    for name, title in rows.items():
        network = record["networks"][name]
        scores = [100 * score for score in network["miou"]]
        single = len(scores) == 1
        each = blank if single else [f"{score:.1f}" for score in scores]
        table.add_row(title, *each, spread(scores), f"{network['parameters']:,}")
    table.add_section()
    table.add_row("difference", *map(signed, record["gains"]), spread(record["gains"], sign=True), "")
    return table


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean and standard deviation (n - 1); the value alone where there is one."""
    centre = signed(mean(values)) if sign else f"{mean(values):.1f}"
    return centre if len(values) == 1 else f"{centre} ± {stdev(values):.1f}"


def signed(points: float) -> str:
    """A difference in points."""
    return f"{points:+.1f}".replace("-", MINUS)


def verdict(record: Mapping[str, Any]) -> str:
    """The difference in a sentence, as far as the seeds support it."""
    gains, seeds = record["gains"], len(record["seeds"])
    text = (
        f"{signed(mean(gains))} points of mean IoU on average, {signed(min(gains))} to {signed(max(gains))}"
    )
    if min(gains) > 0:
        return f"The teacher helped with each of the {seeds} seeds: {text}."
    if max(gains) <= 0:
        return f"The teacher did not help: {text}."
    return f"The teacher helped with some of the {seeds} seeds only: {text}."


def can_show(console: Console) -> bool:
    """Whether the terminal shows any colour that a picture has."""
    return console.is_terminal and console.color_system == "truecolor" and not console.quiet


def terminal_picture(example: Example, labels: LabelSet, columns: int) -> Text | None:
    """Image, truth and masks of an example side by side in half blocks, two pixels in each character.

    Args:
        example: what is shown.
        labels: its classes.
        columns: of the terminal; None is returned where they are too few.
    """
    shown = mask_tiles(example, labels)
    width = min(WIDEST, (columns - len(shown) + 1) // len(shown))
    if width < NARROWEST:
        return None
    pictures = [half_size(tile, width) for tile in shown]
    lines = [Text(" ").join(Text(tile.title[:width].ljust(width)) for tile in shown)]
    for top in range(0, len(pictures[0]), 2):
        lines.append(Text(" ").join(_blocks(*picture[top : top + 2]) for picture in pictures))
    return Text("\n").join(lines)


def half_size(tile: Tile, width: int) -> np.ndarray:
    """A tile as H x W x 3 uint8 with `width` columns and an even number of rows."""
    height = max(2, 2 * round(width * tile.picture.height / tile.picture.width / 2))
    how = Image.Resampling.NEAREST if tile.picture.mode == "P" else Image.Resampling.LANCZOS
    return np.asarray(tile.picture.resize((width, height), how).convert("RGB"))


def _blocks(upper: np.ndarray, lower: np.ndarray) -> Text:
    """Two rows of pixels (W x 3 each) as one line of characters."""
    text = Text()
    for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
        text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
    return text


def next_commands(root: str, teacher: str | None) -> str:
    """Three commands to go on with on one's own images."""
    data, spec = shlex.quote(root or "mydata"), shlex.quote(teacher or "mynet.py:teacher")
    first = f"segdistill evaluate {spec} --data {data}" if root else f"segdistill data check {data}"
    second = f"segdistill data check {data}" if root else f"segdistill demo --data {data} --teacher {spec}"
    third = f"segdistill train --data {data} --teacher {spec} --steps 20000 --out runs/mine"
    return "\n  ".join(["Next, on your own images and masks:", first, second, third])
