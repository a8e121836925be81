"""The page of a search: everything that was tried, in a browser too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segdistill.reporting.search_page import learning_curves, pareto_plot, search_page


def candidate(key: str, ms: float, rung: int | None, miou: float | None, reason: str = "") -> dict[str, Any]:
    return {
        "key": key, "family": "dsunet", "size": 320, "parameters": 12345, "file_bytes": 2_500_000,
        "median_ms": ms, "low_ms": ms - 0.2, "high_ms": ms + 0.3, "p95_ms": ms + 1, "peak_bytes": 90_000_000,
        "error": None, "verdict": "within", "lr": 2e-4, "rung": rung, "scored_in": rung, "miou": miou,
        "reason": reason,
    }  # fmt: skip


@pytest.fixture
def record() -> dict[str, Any]:
    """Six candidates, of which d failed, g failed in its second rung and e is over the budget; two rungs."""

    def rung(title: str, steps: int, **scores: float | None) -> dict[str, Any]:
        results = {
            key: ({"failed": "nan"} if score is None else {"miou": score, "step": 1}) | {"seconds": 50.0}
            for key, score in scores.items()
        }
        return {"title": title, "steps": steps, "members": [*scores], "results": results, "seconds": 90.0}

    return {
        "kind": "segdistill search 1",
        "settings": {
            "latency": "10ms", "memory": "200MB", "file_size": None, "runtime": "openvino",
            "precision": "int8", "threads": 2, "choose_share": 0.1, "data": {"root": "x"},
        },
        "budget": {"milliseconds": 10.0, "text": "10.00 ms (0.5x net at 320 pixels)"},
        "recipe_steps": 1000,
        "machine": "a machine",
        "student": "runs/search/finals/b<1>",
        "chosen": "b<1>",
        "candidates": [
            candidate("a", 3.0, 0, 0.21), candidate("b<1>", 9.9, 2, 0.43), candidate("c", 6.0, 2, 0.4),
            candidate("d", 7.0, 0, None, "the loss is nan"),
            candidate("e", 12.0, None, None, "latency 12.00 ms"),
            candidate("f", 4.0, 1, 0.28),
            candidate("g", 5.0, 1, 0.26, "the loss is nan") | {"scored_in": 0},
        ],
        "left_out": [{"name": "timm:x", "reason": "could not be downloaded"}],
        "rungs": [
            rung("rung 1", 100, a=0.21, d=None, f=0.2, c=0.25, g=0.26, **{"b<1>": 0.3}),
            rung("rung 2", 200, f=0.28, c=0.3, g=None, **{"b<1>": 0.35}),
            rung("full recipe", 0, c=0.4, **{"b<1>": 0.43}),
        ],
        "correlations": [1.0, None],
        "whole_correlation": 0.5,
        "curves": {
            "a": [(100, 0.21)], "b<1>": [(100, 0.3), (200, 0.35)], "c": [(100, 0.25), (200, 0.3)], "d": [],
        },
        "spent": {"latency": 61.0, "rung 1": 400.0},
        "front": ["a", "c", "b<1>"],
        "commands": {"a": "segdistill train --config runs/search/recipes/a.yaml"},
        "sizes": {"b<1>": {"b<1>": 0.43, "c": 0.41}, "c": {"c": 0.4}},
        "export": {"b<1>": {"file": "model.xml", "bytes": 2_400_000, "verdict": "shown: it loses less"}},
        "validation": {"b<1>": 0.412, "c": 0.39},
    }  # fmt: skip


@pytest.mark.unit
def test_the_page_has_every_candidate_with_what_became_of_it(record: dict[str, Any]) -> None:
    page = search_page(record)
    assert "b<1>" not in page
    assert "b&lt;1&gt;" in page
    for text in (
        "the loss is nan", "latency 12.00 ms", "could not be downloaded", "shown: it loses less", "41.2 %",
        "7.7 min", "5.0 min", "+1.00", "segdistill train --config runs/search/recipes/a.yaml", "1,000",
        "that it keeps the budget is not resolved", "three candidates or more it is +0.50",
        "(0.5x net at 320 pixels)",
    ):  # fmt: skip
        assert text in page, text


@pytest.mark.unit
def test_the_page_says_why_no_student_was_exported(record: dict[str, Any]) -> None:
    record["export"] = {"b<1>": {"error": "mean IoU falls by 3 points"}, "c": {"error": "no"}}
    page = search_page(record)
    assert "It could not be exported: mean IoU falls by 3 points" in page
    assert "its file" not in page


@pytest.mark.unit
def test_the_plots_have_a_point_for_each_trained_candidate(record: dict[str, Any]) -> None:
    [axes] = pareto_plot(record).axes
    dots = [line for line in axes.lines if (line.get_marker(), line.get_markersize()) == ("o", 6)]
    points = [(float(x), round(float(y), 6)) for line in dots for x, y in zip(*line.get_data(), strict=True)]
    assert sorted(points) == [(3.0, 21.0), (4.0, 28.0), (5.0, 26.0), (6.0, 40.0), (9.9, 43.0)]
    of_the_first_rung = [
        x for line in dots for x in line.get_xdata() if line.get_color() == dots[0].get_color()
    ]
    assert sorted(of_the_first_rung) == [3.0, 5.0]  # a score has the colour of the rung that it is of
    front = axes.lines[0].get_xdata()
    assert [*front] == [3.0, 6.0, 9.9]
    curves = learning_curves(record)
    assert curves is not None
    assert sorted(len(line.get_xdata()) for line in curves.axes[0].lines) == [1, 2, 2]
    assert learning_curves(record | {"curves": {}}) is None


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_opens_in_a_browser_and_fits(
    record: dict[str, Any], tmp_path: Path, open_page: Callable[..., Any], shots: Path, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(search_page(record))
    with open_page(file.as_uri(), viewport={"width": width, "height": 900}) as page:
        assert page.title().startswith("b<1> ")
        assert page.locator("svg").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=shots / f"search-{width}.png", full_page=True)
