"""Numbers as text, and their differences."""

import pytest

from segdistill.engine.run_folder import RunFolder
from segdistill.reporting.comparison import (
    MINUS,
    Cell,
    amount,
    cells,
    classes,
    costs,
    flatten,
    headline,
    latency,
    milliseconds,
    percent,
    scores,
)
from segdistill.reporting.intervals import RunIntervals, run_intervals
from segdistill.reporting.records import read_records

pytestmark = pytest.mark.unit


def test_scores_differ_in_points():
    assert cells([0.5, 0.5312, 0.4, None, 0.50001], percent(1)) == [
        Cell(text="50.0\u00a0%"),
        Cell(text="53.1\u00a0%", delta="+3.1", tone="better"),
        Cell(text="40.0\u00a0%", delta=f"{MINUS}10.0", tone="worse"),
        Cell(text="\u2013"),
        Cell(text="50.0\u00a0%", delta="±0.0", tone="same"),
    ]


def test_where_lower_is_better_a_minus_is_good():
    row = cells([0.10, 0.08, 0.12], percent(2), lower_is_better=True, digits=2)
    assert [(cell.delta, cell.tone) for cell in row] == [
        ("", ""),
        (f"{MINUS}2.00", "better"),
        ("+2.00", "worse"),
    ]


def test_costs_differ_in_percent():
    row = cells([200.0, 50.0, 300.0], milliseconds, relative=True, lower_is_better=True)
    assert [cell.delta for cell in row] == ["", f"{MINUS}75.0\u00a0%", "+50.0\u00a0%"]


def test_without_a_first_value_there_is_no_difference():
    assert [cell.delta for cell in cells([None, 0.5], percent(1))] == ["", ""]
    assert [cell.delta for cell in cells([0, 5], amount, relative=True)] == ["", ""]


def test_amounts_have_three_digits_and_a_prefix():
    assert amount(2_285_619) == "2.29\u00a0M"
    assert amount(77_100_000_000, "FLOP") == "77.1\u00a0GFLOP"
    assert amount(12) == "12"
    assert milliseconds(21.34) == "21.3\u00a0ms"
    assert milliseconds(2500) == "2.5\u00a0s"


def test_settings_flatten_to_dotted_names():
    nested = {"a": {"b": None, "c": [1, 2]}, "command": ["x", "y z"], "map": {}}
    assert flatten(nested) == {"a.b": "\u2013", "a.c": "[1, 2]", "command": "x 'y z'", "map": "\u2013"}


def test_costs_that_are_equal_are_no_gain(make_run):
    run = RunFolder(make_run("equal").path)
    record = run.cost
    student, teacher = record["networks"]
    teacher |= {name: student[name] for name in ("parameters", "flops")}
    run.write_cost(record)
    rows = costs([read_records(run, "equal")])
    assert [row.cells[-1].text for row in rows] == ["12.5\u00d7 faster", ""]


def measured(make_run, name, latency_ms, spread=None, parameters=2_284_969):
    """The records of a run whose student was measured as that."""
    run = RunFolder(make_run(name).path)
    record = run.cost
    record["networks"][0] |= {"latency_ms": latency_ms, "parameters": parameters}
    if spread:
        record["networks"][0] |= dict(zip(("latency_low_ms", "latency_high_ms"), spread, strict=True))
    run.write_cost(record)
    return read_records(run, name)


def test_latencies_of_one_architecture_differ_by_their_spread_alone(make_run):
    row = latency([measured(make_run, "a", 20.0, (19, 21)), measured(make_run, "b", 23.2, (22, 24))])
    assert (row.cells[1].delta, row.cells[1].tone) == ("+16.0\u00a0%", "same")
    assert row.cells[1].spread == "22\u00a0ms to 24\u00a0ms"
    assert "differ by the spread of the measurement alone" in row.note


@pytest.mark.parametrize(
    ("one", "other", "tone"),
    [
        ((20.0, (19, 21)), (23.2, (22, 24)), "worse"),
        ((20.0, (19, 22.5)), (23.2, (22, 24)), "same"),
        ((20.0, (19, 21)), (16.0, (15, 17)), "better"),
        ((20.0, None), (23.2, None), "same"),  # medians alone
        ((20.0, None), (26.0, None), "worse"),
        ((20.0, (19, 21)), (14.0, None), "better"),
    ],
)
def test_latencies_of_two_architectures_differ_beyond_their_spread(make_run, one, other, tone):
    row = latency([measured(make_run, "a", *one), measured(make_run, "b", *other, parameters=1_000_000)])
    assert row.cells[1].tone == tone
    assert "alone" not in row.note


def test_the_spread_of_one_architecture_counts_for_the_others_too(make_run):
    runs = [measured(make_run, "a", 20.0), measured(make_run, "b", 60.0)]
    runs.append(measured(make_run, "c", 40.0, (39, 41), parameters=4_000_000))
    assert [cell.tone for cell in latency(runs).cells] == ["", "same", "same"]
    assert [cell.tone for cell in latency([runs[0], runs[2]]).cells] == ["", "worse"]


def test_scores_are_coloured_where_their_interval_excludes_0(make_run):
    records = [read_records(RunFolder(make_run(n, noise=x).path), n) for n, x in (("a", 2.0), ("b", 1.0))]
    found = run_intervals(records)
    rows = {row.title: row for row in headline(records, found)}
    assert rows["mean IoU"].cells[1].tone == "better"
    interval = found[1].alone["miou"]
    assert rows["mean IoU"].cells[1].spread == f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    assert rows["boundary IoU"].cells[1].tone == "same"  # which has no interval
    assert rows["parameters"].cells[1].tone == "same"
    tones = {row.title: row.cells[1].tone for row in scores(records, found)}
    assert tones["pixel accuracy"] == "better"
    assert tones["mean IoU after the last step"] == tones["mean class accuracy"] == "same"
    assert {row.title: row.cells[1].tone for row in classes(records, found)}["$cat$"] == "better"
    nothing = [RunIntervals(), RunIntervals()]
    rows = headline(records, nothing)[:4] + scores(records, nothing) + classes(records, nothing)
    assert {cell.tone for row in rows for cell in row.cells} == {"", "same"}
