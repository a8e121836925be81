"""How figures look, and how they become SVG inside a page or a PNG file; nothing of pyplot's global state."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from segdistill.files import write_atomic

INK, MUTED, LINE, CARD = "#1d2127", "#5d6571", "#e2e5e9", "#fffffe"
"""Colours of text, of lesser text, of lines, and of what the figures lie on."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""One colour per run, which people with any colour vision tell apart (Okabe and Ito 2008)."""

DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
"""One line style per run, for prints without colour."""

LONGEST_NAME = 28

WIDTH = 11.0
"""Inches of the widest figure: 1100 pixels of a page, and 2200 of a PNG file."""

# The page redefines these, so that figures follow its light or dark colours.
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", CARD: "--card"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}

STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Within it, figures are made and drawn in the report's style."""
    with rc_context(STYLE), warnings.catch_warnings():
        # Names in scripts that the PNG's font lacks: the page shows them in the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def colour(run: int) -> str:
    """The colour of the run at this place."""
    return SERIES[run % len(SERIES)]


def dash(run: int) -> Any:
    """The line style of the run at this place."""
    return DASHES[run % len(DASHES)]


def series_id(run: int) -> str:
    """The id of what is drawn of the run at this place, by which its values are found again."""
    return f"series-{run}"


def shorten(name: str) -> str:
    """A name that leaves room for the figure."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str], **place: Any) -> Legend:
    """A legend below the figure's axes, with names taken literally."""
    # matplotlib drops labels that begin with an underscore, so they are set afterwards.
    box = figure.legend(handles, ["x"] * len(names), **({"loc": "outside lower left"} | place))
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_text(shorten(name))
    return box


def to_svg(figure: Figure, key: str, label: str) -> str:
    """A figure as an `<svg>` element that scales with the page and follows its colours.

    Args:
        figure: made within `figure_style`.
        key: different for each figure of a page, so that their ids are too.
        label: describes the figure to screen readers.
    """
    buffer = io.StringIO()
    with figure_style(), rc_context({"svg.hashsalt": key}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    head = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', text)
    assert head is not None
    body = text[head.end() :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # figure_1, axes_1, ...: the same in every figure
    for fixed, variable in VARIABLES.items():
        body = re.sub(rf"(fill|stroke): {fixed}\b", rf"\1: var({variable})", body)
    return f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(label)}">{body.strip()}'


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 200 dots per inch, twice the size that it has on the page."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    write_atomic(path, buffer.getvalue())
