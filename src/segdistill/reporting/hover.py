"""Where the values of a drawn figure are on it, for the page to show them under the pointer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segdistill.reporting.plots import present_confusion
from segdistill.reporting.style import SERIES, series_id

POINTS = 72
"""Units of a figure's SVG per inch."""


def curve_values(figure: Figure, names: Sequence[str], unit: str) -> dict[str, Any]:
    """The values of a panel of curves, which are read along the x axis.

    Args:
        figure: a panel of `plots.curve_panels`, after it was drawn.
        names: of the runs, in order.
        unit: of the values; empty for none.

    Returns:
        `box` (left, top, right, bottom of the axes in units of the SVG), `along` ("x") and `series`, each
        with `name`, `tint` (the place of the run's colour) and `points`: x, y, heading and text.
    """
    axes = figure.axes[0]
    series = []
    for run, name in enumerate(names):
        for line in axes.lines:
            if line.get_gid() == series_id(run):
                values = np.asarray(line.get_xydata(), dtype=np.float64)
                points = [
                    [*place, f"step {step:,.0f}", f"{value:.4g}{unit}"]
                    for place, (step, value) in zip(_places(axes, values), values, strict=True)
                ]
                series.append({"name": name, "tint": run % len(SERIES), "points": points})
    return {"box": _box(axes), "along": "x", "series": series}


def confusion_values(figure: Figure, names: Sequence[str], confusion: Any) -> dict[str, Any]:
    """The cells of a confusion matrix, of which the nearest is read.

    Args:
        figure: of `plots.confusion_matrices` with one run, after it was drawn.
        names, confusion: as they were given to it.
    """
    rows, columns, fractions = present_confusion(names, confusion)
    axes = figure.axes[0]
    cells = list(np.ndindex(fractions.shape))
    places = _places(axes, np.array([(column, row) for row, column in cells], dtype=np.float64))
    points = [
        [*place, f"{rows[row]}, predicted as {columns[column]}", f"{100 * fractions[row, column]:.1f} %"]
        for place, (row, column) in zip(places, cells, strict=True)
    ]
    return {"box": _box(axes), "along": "", "series": [{"name": "", "tint": None, "points": points}]}


def point_values(figure: Figure, texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The points of a scatter plot, of which the nearest is read.

    Args:
        figure: of `pareto.pareto_figure`, after it was drawn.
        texts: heading and text of each run's point.
    """
    axes = figure.axes[0]
    points = []
    for run, (heading, text) in enumerate(texts):
        for line in axes.lines:
            if line.get_gid() == series_id(run):
                [place] = _places(axes, np.asarray(line.get_xydata(), dtype=np.float64))
                points.append([*place, heading, text])
    return {"box": _box(axes), "along": "", "series": [{"name": "", "tint": None, "points": points}]}


def _places(axes: Axes, values: np.ndarray) -> list[list[float]]:
    """N x 2 values of the axes as places in units of the SVG, whose y goes down."""
    scale, height = POINTS / axes.figure.dpi, axes.figure.bbox.height
    places = axes.transData.transform(values)
    return [[round(scale * float(x), 1), round(scale * float(height - y), 1)] for x, y in places]


def _box(axes: Axes) -> list[float]:
    """Left, top, right and bottom of the axes in units of the SVG."""
    scale, height, box = POINTS / axes.figure.dpi, axes.figure.bbox.height, axes.bbox
    return [round(scale * float(v), 1) for v in (box.x0, height - box.y1, box.x1, height - box.y0)]
