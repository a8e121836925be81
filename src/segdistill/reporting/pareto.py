"""Accuracy over latency: where each run stands, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from segdistill.reporting.comparison import measured_on, milliseconds, pooled_latency
from segdistill.reporting.intervals import RunIntervals
from segdistill.reporting.records import TEACHER, Records
from segdistill.reporting.style import MUTED, WIDTH, colour, figure_style, series_id

MOST_ON_LINEAR = 4
"""Latencies that differ by more than this factor are on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """One run's score and latency.

    Attributes:
        run: its place among the runs.
        name: of the run.
        miou: mean IoU from 0 to 1, with the ends of its interval; these are equal to it where it has none.
        latency: median milliseconds of an image, with its spread over all runs of this size; equal to it
            where there is none.
    """

    run: int
    name: str
    miou: tuple[float, float, float]
    latency: tuple[float, float, float]

    @property
    def text(self) -> str:
        """Both values, with what is known of their spread."""
        score, time = self.miou, self.latency
        interval = "" if score[1] == score[2] else f" ({100 * score[1]:.1f} to {100 * score[2]:.1f})"
        passes = "" if time[1] == time[2] else f" ({milliseconds(time[1])} to {milliseconds(time[2])})"
        return f"{100 * score[0]:.1f} %{interval} in {milliseconds(time[0])}{passes}"


def pareto_points(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[ParetoPoint]:
    """The runs that have a score and a latency; none where they were not measured alike."""
    if len({measured_on(run) for run in runs if run.cost}) != 1:
        return []
    points, networks = [], [run.network("student") for run in runs]
    for index, (run, each) in enumerate(zip(runs, found, strict=True)):
        miou, latency = run.scores.get("miou"), pooled_latency(networks[index], networks)
        if miou is None or latency is None:
            continue
        interval = each.alone.get("miou")
        ends = (interval.low, interval.high) if interval else (None, None)
        points.append(
            ParetoPoint(
                run=index,
                name=run.name,
                miou=(miou, *(miou if end is None else end for end in ends)),
                latency=latency,
            )
        )
    return points


def teacher_latency(runs: Sequence[Records]) -> float | None:
    """The latency of the one teacher whose score is not among the runs; None where there is no such."""
    folders = {run.figures.parent.resolve() for run in runs}
    found = {}
    for run in runs:
        spec, network = (run.config.get("teacher") or {}).get("spec"), run.network(TEACHER)
        if network.get("latency_ms") and not (isinstance(spec, str) and Path(spec).resolve() in folders):
            found[str(spec)] = float(network["latency_ms"])
    return next(iter(found.values())) if len(found) == 1 else None


def pareto_figure(points: Sequence[ParetoPoint], teacher: float | None) -> Figure | None:
    """Mean IoU over latency with their spreads, and the teacher's latency as a line; None without points."""
    if not points:
        return None
    with figure_style():
        figure = Figure(figsize=(WIDTH / 2.6, 2.35))
        axes = figure.add_subplot()
        for point in points:
            (miou, low, high), (latency, fast, slow) = point.miou, point.latency
            axes.errorbar(
                latency, 100 * miou, xerr=[[max(0, latency - fast)], [max(0, slow - latency)]],
                yerr=[[max(0, 100 * (miou - low))], [max(0, 100 * (high - miou))]],
                fmt="none", ecolor=colour(point.run), elinewidth=1.2, capsize=2.5,
            )  # fmt: skip
            axes.plot(
                latency, 100 * miou, "o", markersize=6.5, color=colour(point.run), gid=series_id(point.run)
            )
        if teacher is not None:
            axes.axvline(teacher, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        times = [point.latency[0] for point in points] + ([] if teacher is None else [teacher])
        if max(times) > MOST_ON_LINEAR * min(times):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_xlim(min(times) / 1.6, 1.6 * max(times))
        else:
            axes.set_xlim(
                0, 1.3 * max(point.latency[2] for point in points) if teacher is None else 1.3 * max(times)
            )
        axes.margins(y=0.15)
        axes.set(xlabel="milliseconds per image (less is faster)", ylabel="mean IoU in %")
        axes.set_title("Accuracy over latency" + ("" if teacher is None else " (dashed: teacher)"))
    return figure
