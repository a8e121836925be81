"""The table of `segdistill benchmark`, as a terminal of 80 columns shows it."""

import io

from rich.console import Console

from segdistill.reporting.tables import benchmark_lines, benchmark_table


def test_eighty_columns_are_enough() -> None:
    entry = {
        "target": "runs/a-rather-long-name/of-a-run", "form": "compiled", "precision": "bf16",
        "file_bytes": 43_233_780, "parameters": 132_113_301, "flops": 815_300_000_000, "peak_bytes": 1,
        "added_bytes": 10_648_151_040, "threads": 16, "median_ms": 11166.359, "p95_ms": 11170.49,
        "images_per_second": 1115.0, "ratio": 123.0,
    }  # fmt: skip
    other = entry | {"file_bytes": None, "parameters": None, "flops": None, "threads": None}
    record = {"device": "cpu", "input": [1, 3, 256, 320], "repeats": 30, "entries": [entry, other]}
    text = io.StringIO()
    Console(file=text, width=80).print(benchmark_table(record))
    assert "…" not in text.getvalue()
    assert "11166.4" in text.getvalue()
    assert [*benchmark_lines(record)][1] == "B: runs/a-rather-long-name/of-a-run, compiled, bf16"
