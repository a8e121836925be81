"""One self-contained HTML page about one run, or about several side by side."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from segdistill.data.labels import LabelSet
from segdistill.files import write_atomic
from segdistill.page.templates import open_template
from segdistill.reporting import comparison, evidence, plots
from segdistill.reporting.examples import (
    Example,
    colour_legend,
    error_legend,
    example_grid,
    picture_url,
    tiles,
)
from segdistill.reporting.records import Records
from segdistill.reporting.style import SERIES, save_png, to_svg
from segdistill.version import __version__

SECTIONS = {
    "headline": "Headline",
    "curves": "Training",
    "classes": "Classes",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "examples": "Examples",
    "cost": "Cost",
    "config": "Settings",
    "environment": "Environment",
}
"""Ids and titles of the page's sections, in order."""


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
    for name, figure in _figures(runs, examples).items():
        if figure is not None:
            save_png(figure, runs[0].figures / f"{name}.png")
    page = open_template("segdistill.reporting", "report.html.j2").render(
        version=__version__,
        runs=runs,
        series=SERIES,
        sections=SECTIONS,
        missing=_missing(runs),
        different_images=comparison.different_images(runs),
        differences=evidence.differences(runs),
        over_seeds=evidence.over_seeds(runs),
        headline=comparison.headline(runs),
        scores=comparison.scores(runs),
        classes=comparison.classes(runs),
        costs=comparison.costs(runs),
        settings=comparison.settings(runs),
        environments=comparison.environments(runs),
        **_vector_figures(runs),
        **_example_section(examples, runs[0].labels),
    )
    write_atomic(out, page)
    return out


def _figures(runs: Sequence[Records], examples: Sequence[Example] | str) -> dict[str, Figure | None]:
    """The figures that become files, by name; None where a record is missing."""
    return {
        "curves": plots.curves(*_histories(runs)),
        "iou": plots.iou_bars(_iou(runs)),
        "confusion": plots.confusion_matrices(_confusions(runs)),
        "calibration": plots.calibration_curves(_calibrations(runs)),
        "examples": None if isinstance(examples, str) else example_grid(examples, runs[0].labels),
    }


def _vector_figures(runs: Sequence[Records]) -> dict[str, Any]:
    """The figures that the page draws itself: curves one by one, and one of each kind per run."""
    panels = plots.curve_panels(*_histories(runs))
    return {
        "curves": [_svg(panel, f"curve-{name}", f"{name} over the steps") for name, panel in panels.items()],
        "bars": _svg(plots.iou_bars(_iou(runs)), "iou", "IoU of each class; the table has the numbers"),
        "confusions": {
            name: _svg(plots.confusion_matrices({name: found}), f"confusion-{name}", f"Confusion of {name}")
            for name, found in _confusions(runs).items()
        },
        "calibrations": {
            name: _svg(
                plots.calibration_curves({name: found}), f"calibration-{name}", f"Calibration of {name}"
            )
            for name, found in _calibrations(runs).items()
        },
    }


def _example_section(examples: Sequence[Example] | str, labels: LabelSet) -> dict[str, Any]:
    """The examples as rows of pictures with their legends, or the reason why there are none."""
    shown = [] if isinstance(examples, str) else examples
    missing = examples if isinstance(examples, str) else "No image has a score yet."
    return {
        "examples": [(example, tiles(example, labels)) for example in shown],
        "no_examples": "" if shown else missing,
        "class_colours": colour_legend(shown, labels),
        "error_colours": error_legend(),
        "picture_url": picture_url,
    }


def _svg(figure: Figure | None, key: str, label: str) -> Markup | None:
    """A figure as markup; matplotlib has escaped the text in it."""
    return None if figure is None else Markup(to_svg(figure, key, label))


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
