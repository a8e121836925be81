"""A run's records as figures: curves, per-class bars, confusion matrices and calibration curves.

K: classes, B: confidence bins. Every function is pure and takes its runs as a mapping from their names, in
the order of their colours; a run without the record in question has an empty one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from segdistill.reporting.style import (
    CARD,
    INK,
    LINE,
    MUTED,
    SERIES,
    WIDTH,
    colour,
    dash,
    figure_style,
    legend,
    series_id,
    shorten,
)

CurvePoint = Mapping[str, Any]
Curves = Mapping[str, Sequence[CurvePoint]]
"""Records with a `step`, by run."""

TERMS = {
    "loss": ("total loss", "nats per pixel"),
    "hard": ("hard loss", "nats per pixel"),
    "soft": ("soft loss", "nats per pixel"),
    "auxiliary": ("loss of the extra heads", "nats per pixel"),
    "cosine": ("feature loss", "1 \u2212 cosine"),
    "gradient_norm": ("gradient norm", "L2 norm"),
    "lr": ("learning rate", "per step"),
    "images_per_second": ("training speed", "images/s"),
}
"""Title and unit of what is logged; any other term goes by its own name."""
CURVE_TITLES = {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
LEAST_EVALUATIONS = 3
"""Scores of fewer evaluations are points without a line."""
LAST_TERMS = ("gradient_norm", "lr", "images_per_second")
MOST_POINTS = 120
"""Beyond that many, a curve shows the mean and the range of neighbouring points."""
MOST_VALUES = 25
"""Up to that many classes, a confusion matrix has room for its numbers."""
CELL = (0, 82, 136)


def curve_panels(steps: Curves, evaluations: Curves) -> dict[str, Figure]:
    """One small figure per logged quantity, by its name."""
    panels, names = {}, quantities(steps, evaluations)
    for name in names:
        with figure_style():
            figure = Figure(figsize=(WIDTH / panel_columns(len(names)), 2.45))
            _curve(figure.add_subplot(), name, steps, evaluations)
        panels[name] = figure
    return panels


def curves(steps: Curves, evaluations: Curves) -> Figure | None:
    """All quantities in one figure, None where nothing is logged yet."""
    names = quantities(steps, evaluations)
    if not names:
        return None
    columns = panel_columns(len(names))
    rows = math.ceil(len(names) / columns)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.3))
        for place, name in enumerate(names, start=1):
            _curve(figure.add_subplot(rows, columns, place), name, steps, evaluations)
        if len(steps) > 1:
            lines = [Line2D([], [], color=colour(i), linestyle=dash(i)) for i in range(len(steps))]
            legend(figure, lines, list(steps), ncols=min(len(lines), 4))
    return figure


def panel_columns(panels: int) -> int:
    """How many panels stand side by side, so that none is alone in the last row."""
    return next((columns for columns in (3, 4, 5, 2) if panels % columns != 1 and panels >= columns), 1)


def quantities(steps: Curves, evaluations: Curves) -> list[str]:
    """What there are curves of: scores, loss terms in the order they were logged, then rates."""
    scores = [
        name for name in CURVE_TITLES if any(name in record for run in evaluations.values() for record in run)
    ]
    terms = dict.fromkeys(
        name
        for run in steps.values()
        for record in run
        for name, value in record.items()
        if name != "step" and isinstance(value, (int, float))
    )
    return scores + [t for t in terms if t not in LAST_TERMS] + [t for t in LAST_TERMS if t in terms]


def _curve(axes: Axes, name: str, steps: Curves, evaluations: Curves) -> None:
    """One quantity of all runs over the steps."""
    score = name in CURVE_TITLES
    title, unit = (CURVE_TITLES[name], "%") if score else TERMS.get(name, (shorten(name), ""))
    drawn: list[tuple[int, np.ndarray, np.ndarray]] = []
    for i, run in enumerate((evaluations if score else steps).values()):
        points = [(record["step"], record.get(name)) for record in run]
        points = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
        if not points:
            continue
        x, y = np.array(points, dtype=np.float64).T
        if score:
            joined = dash(i) if len(x) >= LEAST_EVALUATIONS else "none"
            axes.plot(
                x, 100 * y, color=colour(i), linestyle=joined, marker="o", markersize=2.5, gid=series_id(i)
            )
            drawn.append((i, x, 100 * y))
        else:
            x, y, low, high = condense(x, y)
            axes.fill_between(x, low, high, color=colour(i), alpha=0.18, linewidth=0)
            axes.plot(x, y, color=colour(i), linestyle=dash(i), gid=series_id(i))
    _mark_best(axes, drawn)
    axes.set(title=title, xlabel="step", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.04, y=0.14)
    if name in {"lr", "images_per_second"}:
        axes.set_ylim(bottom=0)


def _mark_best(axes: Axes, drawn: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> None:
    """Rings around the runs' highest points, and the value of the highest of all."""
    tops = [(y.max(), i, x[int(np.argmax(y))]) for i, x, y in drawn]
    for top, i, step in tops:
        axes.plot(step, top, "o", markersize=7, markerfacecolor="none", markeredgecolor=colour(i))
    if tops:
        top, i, step = max(tops, key=lambda found: found[0])
        left = step < sum(axes.dataLim.intervalx) / 2
        axes.annotate(
            f"{top:.1f}", (step, top), xytext=(-2 if left else 2, 6), textcoords="offset points",
            ha="left" if left else "right", va="bottom", color=colour(i), fontsize=8, fontweight="bold",
        )  # fmt: skip


def condense(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean step, and mean, lowest and highest value, of at most `MOST_POINTS` groups of neighbours."""
    groups = min(len(x), MOST_POINTS)
    xs, ys = np.array_split(x, groups), np.array_split(y, groups)
    return (
        np.array([group.mean() for group in xs]),
        np.array([group.mean() for group in ys]),
        np.array([group.min() for group in ys]),
        np.array([group.max() for group in ys]),
    )


def iou_bars(iou: Mapping[str, Mapping[str, float | None]]) -> Figure | None:
    """IoU of each class as bars, best class of the first run on top, with each run's mean as a line.

    Args:
        iou: IoU by class, by run; classes that are absent in all runs are left out.
    """
    runs = [(i, name, values) for i, (name, values) in enumerate(iou.items()) if values]
    here = dict.fromkeys(name for _, _, values in runs for name, value in values.items() if value is not None)
    if not here:
        return None
    first = runs[0][2]
    order = sorted(here, key=lambda name: -(first.get(name) or 0.0))
    inches = 0.26 if len(runs) == 1 else 0.115 * len(runs) + 0.09
    with figure_style():
        figure = Figure(figsize=(WIDTH / 2.5, len(order) * inches + 0.9))
        axes = figure.add_subplot()
        for group, (i, _, values) in enumerate(runs):
            percents = np.array([np.nan if (v := values.get(name)) is None else 100 * v for name in order])
            _bars(axes, percents, colour(i), group, len(runs))
        axes.set(title="IoU of each class (dotted: mean)", xlabel="IoU in %", xlim=(0, 105))
        axes.set_yticks(range(len(order)), [shorten(name) for name in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        if len(iou) > 1:
            legend(
                figure, [Patch(color=colour(i)) for i, _, _ in runs], [name for _, name, _ in runs], ncols=2
            )
    return figure


def _bars(axes: Axes, percents: np.ndarray, tint: str, group: int, groups: int) -> None:
    """One run's bar in each class's group of bars, its values where there is room, and its mean."""
    thick = 0.8 / groups
    places = np.arange(len(percents)) + (group - (groups - 1) / 2) * thick
    axes.barh(places, np.nan_to_num(percents), height=0.86 * thick, color=tint)
    if groups <= 3:
        size = 7.5 if groups == 1 else 6
        for place, value in zip(places, percents, strict=True):
            text = "absent" if np.isnan(value) else f"{value:.0f}"
            axes.text(
                np.nan_to_num(value) + 1.2, place, text, va="center", color=MUTED, fontsize=size,
                bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.4},  # over the lines of the means
            )  # fmt: skip
    if np.isfinite(percents).any():
        mean = np.nanmean(percents)
        axes.axvline(mean, color=tint, linestyle=(0, (2, 2)), linewidth=1, zorder=0.9)


def confusion_matrices(runs: Mapping[str, tuple[Sequence[str], Any]]) -> Figure | None:
    """Confusion matrices side by side, each row as fractions of that true class's pixels.

    Classes without truth have no row; pixels that were taken for one are gathered in a last column.

    Args:
        runs: K class names and K x K pixels (rows are the truth), by run.
    """
    present = {name: present_confusion(names, matrix) for name, (names, matrix) in runs.items()}
    present = {name: found for name, found in present.items() if found[0]}
    if not present:
        return None
    most = max(len(rows) for rows, _, _ in present.values())
    side = min(9.0, max(3.4, 1.2 + 0.21 * most))
    with figure_style():
        figure = Figure(figsize=(side * len(present), side))
        panels = figure.subplots(1, len(present), squeeze=False)[0]
        for axes, (run, found) in zip(panels, present.items(), strict=True):
            _confusion(axes, *found)
            title = "Share of each true class, in %"
            axes.set_title(title if len(runs) == 1 else f"{shorten(run)}: {title.lower()}")
    return figure


def present_confusion(names: Sequence[str], confusion: Any) -> tuple[list[str], list[str], np.ndarray]:
    """Rows, columns and fractions (1 in each row) of a confusion matrix without its absent classes."""
    pixels = np.asarray(confusion, dtype=np.float64).reshape(len(names), len(names))
    here = pixels.sum(axis=1) > 0
    rows = [name for name, there in zip(names, here, strict=True) if there]
    columns = list(rows)
    kept = pixels[here][:, here]
    elsewhere = pixels[here][:, ~here].sum(axis=1, keepdims=True)
    if elsewhere.any():
        kept, columns = np.hstack([kept, elsewhere]), [*rows, "(absent)"]
    return rows, columns, kept / kept.sum(axis=1, keepdims=True)


def _confusion(axes: Axes, rows: list[str], columns: list[str], fractions: np.ndarray) -> None:
    """One matrix; its cells are of one colour whose opacity is the fraction: any background will do."""
    cells = np.empty((*fractions.shape, 4), dtype=np.uint8)
    cells[..., :3] = CELL
    cells[..., 3] = np.round(255 * fractions)
    axes.imshow(cells, interpolation="none", aspect="equal")
    size = 7.5 if len(rows) <= MOST_VALUES else max(3.5, 190 / len(rows))
    axes.set_xticks(range(len(columns)), [shorten(n) for n in columns], rotation=90, fontsize=size, color=INK)
    axes.set_yticks(range(len(rows)), [shorten(n) for n in rows], fontsize=size, color=INK)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(visible=False, which="major")
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(rows) <= MOST_VALUES:
        axes.grid(visible=True, which="minor", color=LINE, linewidth=0.5)
        for (row, column), fraction in np.ndenumerate(fractions):
            if fraction >= 0.005:
                tint = "#ffffff" if fraction > 0.65 else INK
                axes.text(
                    column, row, f"{100 * fraction:.0f}", ha="center", va="center", color=tint, fontsize=6
                )
        return
    tints = LinearSegmentedColormap.from_list("fraction", [(*(c / 255 for c in CELL), a) for a in (0, 1)])
    scale = ScalarMappable(cmap=tints)
    scale.set_clim(0, 100)
    axes.figure.colorbar(scale, ax=axes, shrink=0.5, aspect=30)


def calibration_curves(runs: Mapping[str, tuple[Any, float | None]]) -> Figure | None:
    """Reliability diagrams side by side, each over a histogram of the confidences (Guo et al. 2017).

    Args:
        runs: 3 x B pixels, summed confidences and correct pixels, and the calibration error, by run.
    """
    found = {name: (np.asarray(bins, float), e) for name, (bins, e) in runs.items() if np.sum(bins[0]) > 0}
    if not found:
        return None
    with figure_style():
        figure = Figure(figsize=(4.4 * len(found), 4.1))
        panels = figure.subplots(2, len(found), squeeze=False, sharex=True, height_ratios=(3.2, 1))
        for column, (run, (bins, error)) in enumerate(found.items()):
            _reliability(panels[0, column], panels[1, column], bins)
            title = "Calibration error unknown" if error is None else f"ECE {100 * error:.1f} %"
            panels[0, column].set_title(title if len(runs) == 1 else f"{shorten(run)}: {title}")
    return figure


def _reliability(above: Axes, below: Axes, bins: np.ndarray) -> None:
    """Accuracy in each confidence bin, and below it how many pixels the bin holds."""
    pixels, confidence, correct = bins
    width = 100 / len(pixels)
    left = width * np.arange(len(pixels))
    filled = pixels > 0
    place: dict[str, Any] = {"align": "edge", "width": 0.92 * width}
    accuracy, mean = (100 * (row / np.maximum(pixels, 1))[filled] for row in (correct, confidence))
    above.bar(left[filled], accuracy, color=SERIES[0], **place)
    above.bar(
        left[filled], mean - accuracy, bottom=accuracy, color="none", edgecolor=SERIES[1], hatch="////",
        linewidth=0.8, **place,
    )  # fmt: skip
    above.plot([0, 100], [0, 100], color=INK, linestyle=(0, (3, 3)), linewidth=1)
    above.set(ylabel="right pixels, in %", xlim=(0, 100), ylim=(0, 102))
    keys = [Patch(color=SERIES[0]), Patch(facecolor="none", edgecolor=SERIES[1], hatch="////")]
    above.legend(keys, ["accuracy", "gap to the mean confidence"], loc="upper left", fontsize=8)
    below.bar(left, 100 * pixels / pixels.sum(), color=MUTED, **place)
    below.set(xlabel="confidence of the predicted class, in %", ylabel="pixels, in %")
    below.yaxis.set_major_locator(MaxNLocator(3))
