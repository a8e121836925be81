"""Successive halving: who is trained next, for how long; pure functions of what was recorded.

Source: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization".
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from segdistill.searching.folder import Rung

FINALISTS = 2
"""Candidates that get the full recipe."""

LEAST_STEPS = 50
"""Steps of the first rung below which fewer candidates are trained instead, where time decides."""

LEAST_COMMON = 3
"""Candidates that two rungs need in common for a rank correlation."""

HALVING_FRACTION = 0.5
"""Of the time, the fraction that all rungs are planned for; the rest is for the full recipe."""

FINAL_FRACTION = 0.3
"""Of the time, the fraction that a rung that took longer than planned must leave to the full recipe."""

Results = Mapping[str, Mapping[str, Any]]


def ranking(results: Results) -> list[str]:
    """Keys from the best score to the worst, without those that failed; equal ones by name."""
    scores = {key: result["miou"] for key, result in results.items() if "failed" not in result}
    return sorted(scores, key=lambda key: (-scores[key], key))


def next_rung(rung: Rung, results: Results, *, last: bool = False) -> Rung | None:
    """What follows a rung that has ended: the better half for twice the steps, or the full recipe of two.

    Args:
        rung: the rung.
        results: of all its members.
        last: no further rung of short trainings follows.

    Returns:
        None where nobody is left, or the rung was the full recipe.
    """
    ranked = ranking(results)
    if rung.final or not ranked:
        return None
    kept = ranked[: math.ceil(len(ranked) / 2)]
    if last or len(kept) <= FINALISTS:
        return Rung(number=rung.number + 1, steps=0, members=tuple(ranked[:FINALISTS]), final=True)
    return Rung(number=rung.number + 1, steps=2 * rung.steps, members=tuple(kept))


def first_rung(members: Sequence[str], steps: int) -> Rung:
    """The first rung; the full recipe at once where there are no more than two."""
    final = len(members) <= FINALISTS
    return Rung(number=0, steps=0 if final else steps, members=tuple(members), final=final)


def count_rungs(members: int, most: int = 0) -> int:
    """Rungs of short trainings of so many candidates; `most` of them where it is above 0."""
    rungs = 0
    while members > FINALISTS:
        rungs, members = rungs + 1, math.ceil(members / 2)
    return min(rungs, most) if most else rungs


def total_steps(members: int, rungs: int, steps: int, jobs: int = 1) -> int:
    """Steps that each of `jobs` processes makes in all rungs; a later rung adds half of its steps."""
    total, before = 0, 0
    for rung in range(rungs):
        total += math.ceil(members / jobs) * (steps * 2**rung - before)
        before, members = steps * 2**rung, math.ceil(members / 2)
    return total


def affordable_steps(
    step_seconds: Sequence[float],
    seconds: float,
    most_rungs: int = 0,
    jobs: int = 1,
    scoring_seconds: Sequence[float] = (),
) -> tuple[int, int]:
    """How many of the candidates, from the first on, and how many steps in the first rung, fit into a time.

    Args:
        step_seconds: of one step of each candidate, the most wanted first.
        seconds: for all rungs.
        most_rungs: see `count_rungs`.
        jobs: candidates that are trained at a time.
        scoring_seconds: of starting each candidate's training and scoring it, after each as many steps.
    """
    for count in range(len(step_seconds), FINALISTS, -1):
        unit = total_steps(count, count_rungs(count, most_rungs), 1, jobs)
        beside = float(np.mean(scoring_seconds[:count])) if scoring_seconds else 0.0
        steps = int((seconds / unit - beside) / float(np.mean(step_seconds[:count])))
        if steps >= LEAST_STEPS:
            return count, steps
    return min(FINALISTS, len(step_seconds)), LEAST_STEPS


def rank_correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Spearman's rank correlation of the scores that two rungs have in common; None for fewer than three."""
    common = [key for key in one if key in other]
    if len(common) < LEAST_COMMON:
        return None
    first, second = (_ranks([scores[key] for key in common]) for scores in (one, other))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0; equal values get the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def correlations(scores: Sequence[Mapping[str, float]]) -> list[float | None]:
    """The rank correlation of each rung with the next one."""
    return [rank_correlation(one, other) for one, other in pairwise(scores)]


def whole_correlation(scores: Sequence[Mapping[str, float]]) -> float | None:
    """The rank correlation of the first rung with the last one that has three candidates or more."""
    later = [other for other in scores[1:] if len(other) >= LEAST_COMMON]
    return rank_correlation(scores[0], later[-1]) if later else None


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Keys of the points (cost, score) that no other one beats in both, from cheap to costly."""
    front: list[str] = []
    best = -math.inf
    for key in sorted(points, key=lambda key: (points[key][0], -points[key][1], key)):
        if points[key][1] > best:
            front.append(key)
            best = points[key][1]
    return front
