"""One self-contained HTML page about one run, or about several side by side."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from segdistill.data.labels import LabelSet
from segdistill.files import write_atomic
from segdistill.reporting import comparison, plots
from segdistill.reporting.examples import (
    Example,
    colour_legend,
    data_uri,
    error_legend,
    example_grid,
    pick_examples,
    tiles,
)
from segdistill.reporting.records import Records, read_records, run_names
from segdistill.reporting.style import SERIES, save_png, to_svg
from segdistill.version import __version__

__all__ = ["Example", "pick_examples", "run_names", "write_report"]

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


def write_report(runs: list[Path], out: Path, examples: list[Example] | str) -> Path:
    """Write the page, and its figures as PNG files into `figures/` of the first run.

    Args:
        runs: run folders; the later ones are compared with the first.
        out: the file to write.
        examples: images with what each run (by its name in `run_names`) sees in them, or why there are none.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder is no run folder.
        ValueError: a record is damaged, or a folder is named twice.
    """
    records = [read_records(run, name) for run, name in zip(runs, run_names(runs), strict=True)]
    for name, figure in _figures(records, examples).items():
        if figure is not None:
            save_png(figure, runs[0] / "figures" / f"{name}.png")
    page = _template().render(
        version=__version__,
        runs=records,
        series=SERIES,
        sections=SECTIONS,
        missing=_missing(records),
        headline=comparison.headline(records),
        scores=comparison.scores(records),
        classes=comparison.classes(records),
        costs=comparison.costs(records),
        settings=comparison.settings(records),
        environments=comparison.environments(records),
        **_vector_figures(records),
        **_example_section(examples, records[0].labels),
    )
    write_atomic(out, page)
    return out


def _figures(records: Sequence[Records], examples: list[Example] | str) -> dict[str, Figure | None]:
    """The figures that become files, by name; None where a record is missing."""
    return {
        "curves": plots.curves(*_histories(records)),
        "iou": plots.iou_bars(_iou(records)),
        "confusion": plots.confusion_matrices(_confusions(records)),
        "calibration": plots.calibration_curves(_calibrations(records)),
        "examples": None if isinstance(examples, str) else example_grid(examples, records[0].labels),
    }


def _vector_figures(records: Sequence[Records]) -> dict[str, Any]:
    """The figures that the page draws itself: curves one by one, and one of each kind per run."""
    panels = plots.curve_panels(*_histories(records))
    return {
        "curves": [_svg(panel, f"curve-{name}", f"{name} over the steps") for name, panel in panels.items()],
        "bars": _svg(plots.iou_bars(_iou(records)), "iou", "IoU of each class; the table has the numbers"),
        "confusions": {
            name: _svg(plots.confusion_matrices({name: found}), f"confusion-{name}", f"Confusion of {name}")
            for name, found in _confusions(records).items()
        },
        "calibrations": {
            name: _svg(
                plots.calibration_curves({name: found}), f"calibration-{name}", f"Calibration of {name}"
            )
            for name, found in _calibrations(records).items()
        },
    }


def _example_section(examples: list[Example] | str, labels: LabelSet) -> dict[str, Any]:
    """The examples as rows of pictures with their legends, or the reason why there are none."""
    shown = [] if isinstance(examples, str) else examples
    return {
        "examples": [(example, tiles(example, labels)) for example in shown],
        "no_examples": examples
        if isinstance(examples, str)
        else ""
        if shown
        else "No image has a score yet.",
        "class_colours": colour_legend(shown, labels),
        "error_colours": error_legend(),
        "data_uri": data_uri,
    }


def _template() -> Any:
    """The page; names of classes, images and runs are escaped in it, for anyone may have chosen them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _svg(figure: Figure | None, key: str, label: str) -> Markup | None:
    """A figure as markup; matplotlib has escaped the text in it."""
    return None if figure is None else Markup(to_svg(figure, key, label))


def _histories(records: Sequence[Records]) -> tuple[plots.History, plots.History]:
    return {run.name: run.steps for run in records}, {run.name: run.evaluations for run in records}


def _iou(records: Sequence[Records]) -> dict[str, dict[str, float | None]]:
    return {run.name: (run.best or {}).get("iou", {}) for run in records}


def _confusions(records: Sequence[Records]) -> dict[str, tuple[Sequence[str], Any]]:
    """Class names and confusion matrix of each run that has one."""
    return {
        r.name: (list(r.best["iou"]), r.best["confusion"])
        for r in records
        if r.best and "confusion" in r.best
    }


def _calibrations(records: Sequence[Records]) -> dict[str, tuple[Any, float | None]]:
    """Calibration bins and error of each run that has them."""
    return {
        run.name: (run.best["calibration"], run.best.get("calibration_error"))
        for run in records
        if run.best and "calibration" in run.best
    }


def _missing(records: Sequence[Records]) -> dict[str, list[Missing]]:
    """By section, what is not there."""
    lacks: dict[str, list[Missing]] = {section: [] for section in SECTIONS}
    for run in records:
        best = run.best or {}
        config = shlex.quote(str(run.path / "config.yaml"))
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
