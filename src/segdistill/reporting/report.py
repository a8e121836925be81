"""One self-contained HTML page about one run, or about several side by side."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from segdistill.data.labels import LabelSet
from segdistill.files import write_atomic
from segdistill.page.templates import open_template, read_script
from segdistill.reporting import comparison, evidence, overview, plots
from segdistill.reporting.examples import (
    Example,
    class_names_in,
    colour_legend,
    error_legend,
    example_grid,
    few,
    picture_url,
    thumbnail,
    tiles,
)
from segdistill.reporting.hover import confusion_values, curve_values, point_values
from segdistill.reporting.intervals import run_intervals
from segdistill.reporting.pareto import ParetoPoint, pareto_figure, pareto_points, teacher_latency
from segdistill.reporting.records import Records
from segdistill.reporting.seeds import over_seeds, trainings
from segdistill.reporting.style import SERIES, save_png, to_svg
from segdistill.version import __version__

SECTIONS = {
    "headline": "Scores",
    "examples": "Images",
    "classes": "Classes",
    "curves": "Training",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "cost": "Cost",
    "config": "Settings",
    "environment": "Environment",
}
"""Ids and titles of the page's sections, in order."""


MOST_RUNS_SHOWN = 3
"""Runs whose predictions are on the first screen."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of the page, with the values that it shows under the pointer; None for none."""

    svg: Markup
    hover: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a section lacks, and the command that makes it."""

    text: str
    command: str = ""


def write_report(runs: Sequence[Records], out: Path, examples: Sequence[Example] | str) -> Path:
    """Write the page, and its figures as PNG files into the figures' folder of the first run.

    Args:
        runs: the later ones are compared with the first.
        out: the file to write.
        examples: images with their predictions by each run, by its name; or why there are none.

    Returns:
        The file.

    Raises:
        OSError: a file cannot be written.
    """
    found = run_intervals(runs)
    points = pareto_points(runs, found)
    for name, figure in _figures(runs, points, examples).items():
        if figure is not None:
            save_png(figure, runs[0].figures / f"{name}.png")
    script, script_hash = read_script("segdistill.reporting", "report.js")
    own, common = overview.origins(runs)
    groups, names = trainings(runs), [run.name for run in runs]
    page = open_template("segdistill.reporting", "report.html.j2").render(
        version=__version__,
        script=script,
        script_hash=script_hash,
        runs=runs,
        series=SERIES,
        sections=SECTIONS,
        missing=_missing(runs),
        trainings=[
            (group.title, [names.index(run.name) for run in group.runs], own[names.index(group.runs[0].name)])
            for group in groups
        ],
        common_origin=common,
        results=overview.results(runs, found),
        falls=overview.falls(runs, found),
        different_images=comparison.different_images(runs),
        differences=evidence.differences(found),
        over_seeds=over_seeds(runs),
        headline=comparison.headline(runs, found),
        scores=comparison.scores(runs, found),
        classes=comparison.classes(runs, found),
        costs=comparison.costs(runs),
        settings=comparison.settings(runs),
        environments=comparison.environments(runs),
        pareto=_pareto_chart(runs, points),
        pareto_points=points,
        **_charts(runs),
        **_example_section(examples, runs[0].labels, [group.runs[0].name for group in groups]),
    )
    write_atomic(out, page)
    return out


def _figures(
    runs: Sequence[Records], points: Sequence[ParetoPoint], examples: Sequence[Example] | str
) -> dict[str, Figure | None]:
    """The figures that become files, by name; None where a record is missing."""
    shown = [] if isinstance(examples, str) else few(examples, 2)
    return {
        "pareto": pareto_figure(points, teacher_latency(runs)),
        "curves": plots.curves(*_histories(runs)),
        "iou": plots.iou_bars(_iou(runs)),
        "confusion": plots.confusion_matrices(_confusions(runs)),
        "calibration": plots.calibration_curves(_calibrations(runs)),
        "examples": example_grid(shown, runs[0].labels),
    }


def _charts(runs: Sequence[Records]) -> dict[str, Any]:
    """The figures that the page draws itself: curves one by one, and one of each kind per run."""
    panels = plots.curve_panels(*_histories(runs))
    names = [run.name for run in runs]
    return {
        "curves": [
            _chart(
                panel,
                f"curve-{name}",
                f"{name} over the steps",
                partial(curve_values, names=names, unit=" %" if name in plots.CURVE_TITLES else ""),
            )
            for name, panel in panels.items()
        ],
        "curve_columns": plots.panel_columns(len(panels)),
        "bars": _chart(plots.iou_bars(_iou(runs)), "iou", "IoU of each class; the table has the numbers"),
        "confusions": {
            name: _chart(
                plots.confusion_matrices({name: found}),
                f"confusion-{name}",
                f"Confusion of {name}",
                partial(confusion_values, names=found[0], confusion=found[1]),
            )
            for name, found in _confusions(runs).items()
        },
        "calibrations": {
            name: _chart(
                plots.calibration_curves({name: found}), f"calibration-{name}", f"Calibration of {name}"
            )
            for name, found in _calibrations(runs).items()
        },
    }


def _pareto_chart(runs: Sequence[Records], points: Sequence[ParetoPoint]) -> Chart | None:
    """Accuracy over latency."""
    texts = [(point.name, point.text) for point in points]
    return _chart(
        pareto_figure(points, teacher_latency(runs)),
        "pareto",
        "Mean IoU over latency; the list beside it has the numbers",
        partial(point_values, texts=texts),
    )


def _example_section(
    examples: Sequence[Example] | str, labels: LabelSet, names: Sequence[str]
) -> dict[str, Any]:
    """The examples as rows of pictures with their legends, or the reason why there are none.

    Args:
        examples: see `write_report`.
        labels: of the runs.
        names: runs whose masks the first screen shows, the first ones of them.
    """
    shown = [] if isinstance(examples, str) else examples
    missing = examples if isinstance(examples, str) else "No image has a score yet."
    rows = [(example, tiles(example, labels)) for example in shown]
    present = [class_names_in(example, labels) for example in shown]
    first = {example.id for example in few(shown, 1)}
    runs = [name for name in names if shown and name in shown[0].predictions][:MOST_RUNS_SHOWN]
    return {
        "examples": [(*row, names) for row, names in zip(rows, present, strict=True)],
        "showcase": [
            (place, example, [t for t in row if t.title in ("image", "ground truth", *runs)])
            for place, (example, row) in enumerate(rows)
            if example.id in first
        ],
        "example_classes": [name for name in labels.names if name in set().union(*present)],
        "no_examples": "" if shown else missing,
        "class_colours": colour_legend(shown, labels),
        "error_colours": error_legend(),
        "picture_url": picture_url,
        "thumbnail": thumbnail,
    }


def _chart(
    figure: Figure | None,
    key: str,
    label: str,
    values: Callable[[Figure], dict[str, Any]] | None = None,
) -> Chart | None:
    """A figure as markup; matplotlib has escaped the text in it."""
    if figure is None:
        return None
    svg = Markup(to_svg(figure, key, label))  # which places the axes; their values are found afterwards
    return Chart(svg=svg, hover=values(figure) if values else None)


def _histories(runs: Sequence[Records]) -> tuple[plots.Curves, plots.Curves]:
    return {run.name: run.steps for run in runs}, {run.name: run.evaluations for run in runs}


def _iou(runs: Sequence[Records]) -> dict[str, dict[str, float | None]]:
    return {run.name: (run.best or {}).get("iou", {}) for run in runs}


def _confusions(runs: Sequence[Records]) -> dict[str, tuple[Sequence[str], Any]]:
    """Class names and confusion matrix of each run that has one."""
    return {
        run.name: (list(run.best["iou"]), run.best["confusion"])
        for run in runs
        if run.best and "confusion" in run.best
    }


def _calibrations(runs: Sequence[Records]) -> dict[str, tuple[Any, float | None]]:
    """Calibration bins and error of each run that has them."""
    return {
        run.name: (run.best["calibration"], run.best.get("calibration_error"))
        for run in runs
        if run.best and "calibration" in run.best
    }


def _missing(runs: Sequence[Records]) -> dict[str, list[Missing]]:
    """By section, what is not there."""
    lacks: dict[str, list[Missing]] = {section: [] for section in SECTIONS}
    for run in runs:
        best = run.best or {}
        config = shlex.quote(str(run.settings_file))
        command = f"segdistill train --config {config} --resume" if run.config else ""
        expected: dict[str, tuple[Any, str]] = {
            "headline": (run.scores, "no evaluation yet"),
            "curves": (run.steps or run.evaluations, "no training history (history.jsonl)"),
            "classes": ("iou" in best, "no scores by class yet (metrics.json)"),
            "confusion": ("confusion" in best, "no confusion matrix yet (metrics.json)"),
            "calibration": ("calibration" in best, "no calibration yet (metrics.json)"),
            "cost": (run.cost, "no measured cost (cost.json): it is measured when training ends"),
            "config": (run.settings, "no settings (config.yaml)"),
            "environment": (run.environment, "no record of its environment (environment.json)"),
        }
        for section, (there, text) in expected.items():
            if not there:
                lacks[section].append(Missing(text=f"{run.name} has {text}.", command=command))
    return lacks
