"""Who is trained next, for how long, and how alike two rungs rank."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from segdistill.searching.folder import Rung
from segdistill.searching.halving import (
    affordable_steps,
    correlations,
    count_rungs,
    first_rung,
    next_rung,
    pareto_front,
    rank_correlation,
    ranking,
    total_steps,
    whole_correlation,
)

pytestmark = pytest.mark.unit


def scored(**scores: float | None) -> dict[str, Any]:
    return {key: {"failed": "why"} if score is None else {"miou": score} for key, score in scores.items()}


def test_the_better_half_goes_on_for_twice_the_steps() -> None:
    rung = first_rung("abcdef", 100)
    after = next_rung(rung, scored(a=0.1, b=0.6, c=0.3, d=0.5, e=0.4, f=0.2))
    assert after == Rung(number=1, steps=200, members=("b", "d", "e"))
    last = next_rung(after, scored(b=0.1, d=0.3, e=0.2))
    assert last == Rung(number=2, steps=0, members=("d", "e"), final=True)
    assert next_rung(last, scored(d=0.3, e=0.2)) is None


def test_what_failed_is_out_and_equal_scores_go_by_name() -> None:
    results = scored(d=0.5, a=0.5, b=None, c=0.2, e=None, f=0.1)
    assert ranking(results) == ["a", "d", "c", "f"]
    after = next_rung(first_rung("abcdef", 10), results)
    assert after is not None
    assert (after.members, after.final) == (("a", "d"), True)
    assert next_rung(first_rung("ab", 10), scored(a=None, b=None)) is None


def test_two_candidates_get_the_full_recipe_at_once() -> None:
    assert first_rung(("a", "b"), 10) == Rung(number=0, steps=0, members=("a", "b"), final=True)


def test_the_last_rung_by_time_or_number_is_followed_by_the_full_recipe() -> None:
    after = next_rung(first_rung("abcdef", 10), scored(a=1, b=2, c=3, d=4, e=5, f=6), last=True)
    assert after == Rung(number=1, steps=0, members=("f", "e"), final=True)


@given(st.integers(3, 64), st.integers(1, 50))
def test_total_steps_are_those_of_the_rungs(members: int, steps: int) -> None:
    rung: Rung | None = first_rung([f"{i:02}" for i in range(members)], steps)
    made, count, before = 0, 0, 0
    while rung is not None and not rung.final:
        made, count = made + len(rung.members) * (rung.steps - before), count + 1
        before = rung.steps
        rung = next_rung(rung, {key: {"miou": 0.5} for key in rung.members})
    assert (made, count) == (total_steps(members, count_rungs(members), steps), count_rungs(members))


def test_a_short_time_trains_fewer_candidates() -> None:
    count, steps = affordable_steps([1.0] * 8, 10_000.0)
    assert (count, steps) == (8, 10_000 // 12)  # rungs of 8, 4 (as much again): 8 + 4
    fewer, steps = affordable_steps([1.0] * 8, 400.0)
    assert 2 < fewer < 8
    assert steps >= 50
    assert total_steps(fewer, count_rungs(fewer), steps) <= 400
    assert affordable_steps([1.0] * 8, 1.0) == (2, 50)
    # With 200 s of scoring after each as many steps, of which there are 12.
    assert affordable_steps([1.0] * 8, 12_000.0, scoring_seconds=[200.0] * 8) == (8, 800)


def test_more_processes_than_candidates_are_no_help() -> None:
    assert total_steps(16, 3, 50, jobs=1) == 16 * 50 + 8 * 50 + 4 * 100
    assert total_steps(16, 3, 50, jobs=8) == 2 * 50 + 50 + 100
    assert total_steps(16, 3, 50, jobs=64) == 50 + 50 + 100
    assert affordable_steps([1.0] * 16, 1000.0, jobs=64) == (16, 1000 // 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = ({str(i): pair[side] / 5 for i, pair in enumerate(pairs)} for side in (0, 1))
    found = rank_correlation(one, other)
    if len({*one.values()}) == 1 or len({*other.values()}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr([*one.values()], [*other.values()]).statistic)


def test_rungs_are_compared_on_what_they_have_in_common() -> None:
    first = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    second = {"b": 0.1, "a": 0.2, "d": 0.3}
    assert whole_correlation([first, {**first}, second, {"d": 0.5, "b": 0.4}]) == pytest.approx(0.5)
    assert whole_correlation([first]) is None
    assert correlations([first, {"b": 0.3, "c": 0.2, "d": 0.1}, {"d": 0.5}]) == [pytest.approx(-1.0), None]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = {"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (3.0, 0.7), "d": (3.0, 0.6), "e": (0.5, 0.1)}
    assert pareto_front(points) == ["e", "a", "c"]
