"""Results that show themselves in a notebook, and otherwise are the path or the dict that they hold."""

import io
import sys
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from segdistill.engine.run_folder import RunFolder
from segdistill.exporting.parity import parity_line
from segdistill.files import data_url
from segdistill.reporting.tables import (
    benchmark_lines,
    benchmark_table,
    cache_line,
    calibration_table,
    comparison_lines,
    comparison_table,
    label_lines,
    label_table,
    push_line,
    score_table,
    search_table,
    verdict_lines,
)

if sys.platform == "win32":
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath

COLUMNS = 110
"""Width of a table, in characters."""
FIGURES = ("curves", "examples")
"""What a notebook shows of a run's figures; the report has all of them."""


class Run(SystemPath):
    """The path of a run folder; a notebook shows its scores, curves and examples."""

    def _repr_html_(self) -> str | None:
        folder = RunFolder(self)
        if not folder.config_file.is_file():  # a path below it
            return None
        parts = [Markup("<code>{}</code>").format(self)]
        best = folder.metrics["best"]
        if best is not None:
            where = {
                "target": self.name,
                "data": folder.config.data.root,
                "split": folder.config.data.scored_split,
            }
            parts.append(as_html(score_table(best | where)))
        for name in FIGURES:
            file = folder.figures / f"{name}.png"
            if file.is_file():
                picture = Markup('<img alt="{}" src="{}" style="max-width: 100%">')
                parts.append(picture.format(name, data_url(file.read_bytes(), "image/png")))
        return Markup("\n").join(parts)


class Scores(dict[str, Any]):
    """What `evaluate` returns; a notebook shows it as a table."""

    def _repr_html_(self) -> str:
        return as_html(score_table(self))


class Comparison(dict[str, Any]):
    """What `compare` returns; a notebook shows its table, and what of it is resolved."""

    def _repr_html_(self) -> str:
        return as_html(comparison_table(self), *comparison_lines(self))


class Benchmark(dict[str, Any]):
    """What `benchmark` returns; a notebook shows it as a table."""

    def _repr_html_(self) -> str | None:
        if "entries" not in self:
            return None
        return as_html(benchmark_table(self), *benchmark_lines(self))


class Export(dict[str, Any]):
    """What `export` returns; a notebook shows the file, its size, and how it compares with PyTorch."""

    def _repr_html_(self) -> str:
        return as_html(f"{self['file']}, {self['bytes'] / 1e6:.1f} MB: {parity_line(self['parity'])}")


class Verification(dict[str, Any]):
    """What `verify` returns; a notebook shows scores and difference with their intervals, and the verdict."""

    def _repr_html_(self) -> str:
        return as_html(comparison_table(self), *verdict_lines(self))


class Labelling(dict[str, Any]):
    """What `label` returns; a notebook shows how much of each class the masks hold."""

    def _repr_html_(self) -> str:
        return as_html(label_table(self), *label_lines(self))


class FilledCache(dict[str, Any]):
    """What `cache` returns; a notebook shows how many images take how much room, and where."""

    def _repr_html_(self) -> str:
        return as_html(cache_line(self))


class Calibration(dict[str, Any]):
    """What `calibrate` returns; a notebook shows the temperature, and calibration errors before and after."""

    def _repr_html_(self) -> str:
        return as_html(calibration_table(self))


class FoundStudent(dict[str, Any]):
    """What `search` returns; a notebook shows the student, its score and latency, or what it waits for."""

    def _repr_html_(self) -> str:
        if "student" not in self:
            return as_html(f"Waiting for {self['waiting_for']}, which measure.py beside it writes")
        return as_html(search_table(self))


class Push(dict[str, Any]):
    """What `push` returns; a notebook shows what was sent, and where it is."""

    def _repr_html_(self) -> str:
        return as_html(push_line(self))


def as_html(*parts: Table | str) -> Markup:
    """Tables and lines, as they look on a terminal, as one HTML element."""
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_jupyter=False)
    for part in parts:
        console.print(part, markup=not isinstance(part, str), highlight=False)
    return Markup(console.export_html(inline_styles=True, code_format="<pre>{code}</pre>"))
