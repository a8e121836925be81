"""The page of a search: the front, learning curves, rungs, time spent, and how to train other points."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from segdistill.page.templates import open_template
from segdistill.reporting.comparison import DASH, Cell, Row, milliseconds
from segdistill.reporting.style import (
    INK,
    LINE,
    MUTED,
    SERIES,
    WIDTH,
    colour,
    dash,
    figure_style,
    legend,
    to_svg,
)
from segdistill.version import __version__

Record = Mapping[str, Any]

MOST_CURVES = 24
"""Learning curves that are drawn: of the candidates that came furthest."""


def search_page(record: Record) -> str:
    """One self-contained HTML page.

    Args:
        record: see `segdistill.searching.conclusion.describe`, with `sizes`, `export` and `validation`.
    """
    trained = [candidate for candidate in record["candidates"] if candidate["rung"] is not None]
    curves = learning_curves(record)
    return open_template("segdistill.reporting", "search.html.j2").render(
        version=__version__,
        series=SERIES,
        many=False,
        record=record,
        used=_used(record),
        sizes=_size_rows(record),
        exported=record["export"][record["chosen"]],
        tiles=_tiles(record),
        pareto=to_svg(pareto_plot(record), "pareto", "Mean IoU of the trained candidates over their latency"),
        curves=curves and to_svg(curves, "curves", "Mean IoU of candidates over their steps"),
        trained=[_trained_row(candidate, record) for candidate in _by_progress(trained)],
        rungs=_rung_rows(record),
        spent=_spent_rows(record),
        measured=[_measured_row(c) for c in record["candidates"] if c["rung"] is None],
        settings=[
            Row(title=name, cells=[Cell(text=str(value))])
            for name, value in record["settings"].items()
            if not isinstance(value, Mapping)
        ],
    )


def _by_progress(candidates: Sequence[Record]) -> list[Record]:
    """The furthest first, and of those of one rung the best."""
    return sorted(candidates, key=lambda c: (-c["rung"], -(c["miou"] or 0.0), c["key"]))


def _points(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def _megabytes(count: int | None) -> str:
    return DASH if count is None else f"{count / 1e6:.1f} MB"


def _interval(candidate: Record) -> str:
    if candidate["median_ms"] is None:
        return DASH
    return f"{candidate['median_ms']:.2f} ({candidate['low_ms']:.2f} to {candidate['high_ms']:.2f})"


def _used(record: Record) -> Record:
    """The candidate with the network of the student and the input size that it is used with."""
    key = next(iter(record["sizes"][record["chosen"]]))
    return next(c for c in record["candidates"] if c["key"] == key)


def _size_rows(record: Record) -> list[Row]:
    """The student in each input size that keeps the budget, the best first."""
    known = {c["key"]: c for c in record["candidates"]}
    return [
        Row(
            title=f"{known[key]['size']} px",
            cells=[Cell(text=_points(miou)), Cell(text=_interval(known[key]))],
        )
        for key, miou in record["sizes"][record["chosen"]].items()
    ]


def _rung_name(candidate: Record, record: Record) -> str:
    if candidate["key"] == record["chosen"]:
        return "student"
    return record["rungs"][candidate["rung"]]["title"]


def _tiles(record: Record) -> list[Row]:
    """The headline: score, latency, size of the student."""
    used = _used(record)
    exported = record["export"][record["chosen"]]
    size = _megabytes(exported.get("bytes"))
    return [
        Row(
            title="mean IoU",
            cells=[Cell(text=f"{_points(record['validation'][record['chosen']])} %")],
            note="on the validation split, which no choice was made on",
        ),
        Row(
            title="latency",
            cells=[Cell(text=milliseconds(used["median_ms"]))],
            note=f"budget {record['budget']['text']}; interval {used['low_ms']:.2f} to "
            f"{used['high_ms']:.2f} ms",
        ),
        Row(title="file", cells=[Cell(text=size)], note=record["settings"]["runtime"]),
    ]


def _trained_row(candidate: Record, record: Record) -> Row:
    texts = [
        candidate["family"], _rung_name(candidate, record), _points(candidate["miou"]),
        _points(record["validation"].get(candidate["key"])), _interval(candidate),
        f"{candidate['parameters']:,}",
        *(_megabytes(candidate[name]) for name in ("file_bytes", "peak_bytes")),
        f"{candidate['lr']:g}",
    ]  # fmt: skip
    return Row(title=candidate["key"], cells=[Cell(text=text) for text in texts], note=candidate["reason"])


def _measured_row(candidate: Record) -> Row:
    texts = [_interval(candidate), _megabytes(candidate["file_bytes"]), candidate["reason"] or DASH]
    return Row(title=candidate["key"], cells=[Cell(text=text) for text in texts])


def _rung_rows(record: Record) -> list[Row]:
    """Of each rung its candidates, steps, time, best, and how alike the next one ranks them."""
    rows = []
    correlations = [*record["correlations"], *[None] * len(record["rungs"])]
    for rung, alike in zip(record["rungs"], correlations, strict=False):
        scored = {k: r["miou"] for k, r in rung["results"].items() if "failed" not in r}
        best = max(scored, key=lambda key: (scored[key], key), default=DASH)
        texts = [
            str(len(rung["members"])),
            f"{(rung['steps'] or record['recipe_steps']):,}",
            _minutes(rung["seconds"]),
            f"{best} ({_points(scored.get(best))})",
            DASH if alike is None else f"{alike:+.2f}",
        ]
        rows.append(Row(title=rung["title"], cells=[Cell(text=text) for text in texts]))
    return rows


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _spent_rows(record: Record) -> list[Row]:
    """Time of each phase, and what of it went into candidates that have no part in the end.

    Each training counts in full, so where several run at a time the sum may exceed the rungs' own.
    """
    total = sum(record["spent"].values())
    rows = [Row(title=name, cells=[Cell(text=_minutes(s))]) for name, s in record["spent"].items()]
    kept = record["rungs"][-1]["members"]
    dropped = sum(
        result["seconds"]
        for rung in record["rungs"]
        for key, result in rung["results"].items()
        if key not in kept
    )
    return [
        *rows,
        Row(title="in all", cells=[Cell(text=_minutes(total))]),
        Row(title="training of dropped candidates", cells=[Cell(text=_minutes(dropped))]),
    ]


def pareto_plot(record: Record) -> Figure:
    """Mean IoU over latency of all trained candidates, a colour for each rung, and the front as a line."""
    trained = [c for c in record["candidates"] if c["miou"] is not None]
    names = [
        f"{rung['title']}, {rung['steps'] or record['recipe_steps']:,} steps" for rung in record["rungs"]
    ]
    with figure_style():
        figure = Figure(figsize=(WIDTH, 4.6))
        axes = figure.add_subplot()
        front = [c for key in record["front"] for c in trained if c["key"] == key]
        axes.plot(
            [c["median_ms"] for c in front], [100 * c["miou"] for c in front],
            color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=1,
        )  # fmt: skip
        handles = []
        for number in range(len(names)):
            own = [c for c in trained if c["scored_in"] == number]
            x = [c["median_ms"] for c in own]
            around = [
                [c["median_ms"] - c["low_ms"] for c in own],
                [c["high_ms"] - c["median_ms"] for c in own],
            ]
            y = [100 * c["miou"] for c in own]
            (handle,) = axes.plot(x, y, "o", color=colour(number), markersize=6)
            axes.errorbar(x, y, xerr=around, fmt="none", ecolor=colour(number), elinewidth=0.8)
            handles.append(handle)
        for candidate in front:
            axes.annotate(
                candidate["key"], (candidate["median_ms"], 100 * candidate["miou"]), xytext=(4, 5),
                textcoords="offset points", fontsize=7, color=INK,
            )  # fmt: skip
        chosen = next(c for c in trained if c["key"] == record["chosen"])
        axes.plot(
            chosen["median_ms"], 100 * chosen["miou"], "o", markersize=12, markerfacecolor="none",
            markeredgecolor=INK,
        )  # fmt: skip
        axes.margins(x=0.12, y=0.12)
        axes.set(xlabel="latency of one image, ms", ylabel="mean IoU on the held-out images, %")
        axes.grid(color=LINE)
        legend(figure, handles, names, ncols=min(4, len(names)))
    return figure


def learning_curves(record: Record) -> Figure | None:
    """Mean IoU over the steps of the rungs; None where there was no rung."""
    order = _by_progress([c for c in record["candidates"] if c["rung"] is not None])
    drawn = [c["key"] for c in order if record["curves"].get(c["key"])][:MOST_CURVES]
    if not drawn:
        return None
    with figure_style():
        figure = Figure(figsize=(WIDTH, 4.2))
        axes = figure.add_subplot()
        handles = []
        for index, key in enumerate(drawn):
            steps, scores = zip(*record["curves"][key], strict=True)
            style: Any = {"color": colour(index), "linestyle": dash(index // len(SERIES))}
            (handle,) = axes.plot(steps, [100 * score for score in scores], marker="o", markersize=3, **style)
            handles.append(handle)
        axes.set(xlabel="step", ylabel="mean IoU on the held-out images, %")
        axes.set_ylim(bottom=0)
        legend(figure, handles, drawn, ncols=3)
    return figure
