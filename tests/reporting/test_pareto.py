"""Accuracy over latency, and what the page shows under the pointer."""

import re
from dataclasses import replace

import numpy as np
import pytest

from segdistill.engine.run_folder import RunFolder
from segdistill.reporting import plots
from segdistill.reporting.hover import confusion_values, curve_values, point_values
from segdistill.reporting.intervals import RunIntervals, run_intervals
from segdistill.reporting.pareto import ParetoPoint, pareto_figure, pareto_points, teacher_latency
from segdistill.reporting.records import Records, read_records
from segdistill.reporting.style import to_svg

pytestmark = pytest.mark.unit


def read(*runs) -> list[Records]:
    return [read_records(RunFolder(run.path), run.path.name) for run in runs]


def test_points_have_score_and_latency_with_their_spreads(make_run):
    records = read(make_run("first", noise=2.0), make_run("second"))
    network = records[1].network("student")
    network |= {"latency_low_ms": 19.0, "latency_high_ms": 23.0, "parameters": 1_000_000}
    found = run_intervals(records)
    first, second = pareto_points(records, found)
    assert (first.run, first.name, first.latency) == (0, "first", (40.0, 40.0, 40.0))
    assert second.latency == (20.0, 19.0, 23.0)
    interval = found[0].alone["miou"]
    assert first.miou == (records[0].scores["miou"], interval.low, interval.high)
    assert second.text.endswith("in 20\u00a0ms (19\u00a0ms to 23\u00a0ms)")


def test_networks_of_one_size_share_a_latency(make_run):
    records = read(make_run("first", noise=2.0), make_run("second"))
    first, second = pareto_points(records, [RunIntervals(), RunIntervals()])
    assert first.latency == second.latency == (30.0, 20.0, 40.0)
    assert first.text.endswith("in 30\u00a0ms (20\u00a0ms to 40\u00a0ms)")


def test_what_was_measured_differently_or_not_at_all_has_no_point(make_run):
    first, second = read(make_run("first"), make_run("second"))
    nothing = [RunIntervals(), RunIntervals()]
    other = replace(second, cost=(second.cost or {}) | {"threads": 8})
    assert pareto_points([first, other], nothing) == []
    assert [point.name for point in pareto_points([first, replace(second, cost=None)], nothing)] == ["first"]
    assert pareto_points([replace(first, cost=None)], nothing[:1]) == []
    assert pareto_figure([], None) is None


def test_the_teacher_is_a_line_unless_it_is_among_the_runs(make_run):
    student, other = make_run("student"), make_run("other", teacher=False)
    records = read(student, other)
    assert teacher_latency(records) == 250.0
    records[0].config["teacher"]["spec"] = str(other.path)
    assert teacher_latency(records) is None
    assert teacher_latency(read(other)) is None


def test_values_under_the_pointer_are_where_they_are_drawn():
    points = [
        ParetoPoint(run=0, name="a", miou=(0.5, 0.45, 0.55), latency=(10.0, 9.0, 12.0)),
        ParetoPoint(run=1, name="b", miou=(0.6, 0.6, 0.6), latency=(100.0, 100.0, 100.0)),
    ]
    figure = pareto_figure(points, teacher=300.0)
    svg = to_svg(figure, "pareto", "")
    hover = point_values(figure, [(point.name, point.text) for point in points])
    [series] = hover["series"]
    assert [point[2] for point in series["points"]] == ["a", "b"]
    drawn = [
        (float(x), float(y)) for x, y in re.findall(r'<use xlink:href="[^"]*" x="([\d.]+)" y="([\d.]+)"', svg)
    ]
    for x, y, *_ in series["points"]:
        assert any(abs(x - u) < 0.3 and abs(y - v) < 0.3 for u, v in drawn)
    left, top, right, bottom = hover["box"]
    assert all(left < x < right and top < y < bottom for x, y, *_ in series["points"])


def test_a_curve_has_the_values_of_each_run_and_only_where_it_has_any():
    steps = {"a": [{"step": s, "loss": 2 / s} for s in (1, 2, 4)], "b": []}
    panel = plots.curve_panels(steps, {"a": [], "b": []})["loss"]
    to_svg(panel, "loss", "")
    hover = curve_values(panel, ["a", "b"], "")
    [series] = hover["series"]
    assert (hover["along"], series["name"], series["tint"]) == ("x", "a", 0)
    assert [point[2:] for point in series["points"]] == [["step 1", "2"], ["step 2", "1"], ["step 4", "0.5"]]
    places = np.array([point[:2] for point in series["points"]])
    assert (np.diff(places[:, 0]) > 0).all()
    assert (np.diff(places[:, 1]) > 0).all()  # downwards, as the loss falls
    assert places[2, 0] - places[1, 0] == pytest.approx(2 * (places[1, 0] - places[0, 0]), abs=0.3)


def test_a_confusion_names_its_cells():
    found = (["cat", "dog"], [[3, 1], [0, 8]])
    figure = plots.confusion_matrices({"run": found})
    to_svg(figure, "confusion", "")
    [series] = confusion_values(figure, *found)["series"]
    assert [point[2:] for point in series["points"]] == [
        ["cat, predicted as cat", "75.0 %"],
        ["cat, predicted as dog", "25.0 %"],
        ["dog, predicted as cat", "0.0 %"],
        ["dog, predicted as dog", "100.0 %"],
    ]
    assert series["points"][0][0] < series["points"][1][0]
    assert series["points"][0][1] < series["points"][2][1]
