"""Numbers as text, and their differences."""

import pytest

from segdistill.engine.run_folder import RunFolder
from segdistill.reporting.comparison import MINUS, Cell, amount, cells, costs, flatten, milliseconds, percent
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
