"""How much of a difference between runs hangs on the choice of images, and on the seed."""

from collections.abc import Sequence
from statistics import mean, stdev

from segdistill.engine.bootstrap import LEVEL, Interval
from segdistill.engine.run_folder import MAY_CHANGE
from segdistill.reporting.comparison import DASH, MINUS, Cell, Row, different_images, flatten
from segdistill.reporting.intervals import COMPARED, RunIntervals
from segdistill.reporting.records import Records
from segdistill.reporting.tables import SCORE_TITLES


def differences(found: Sequence[RunIntervals]) -> list[Row]:
    """Differences of the later runs to the first, with their intervals; none where no run has any."""
    scores = [run.difference for run in found[1:]]
    if not any(scores):
        return []
    return [
        Row(
            title=SCORE_TITLES[name],
            cells=[interval_cell(run[name]) if run else Cell(text=DASH) for run in scores],
            note=f"points, with {LEVEL:.0%} interval",
        )
        for name in COMPARED
    ]


def over_seeds(runs: Sequence[Records]) -> list[str]:
    """Mean and standard deviation (n - 1) of mIoU over runs that differ in their seed alone, in words."""
    if different_images(runs):
        return []
    groups: dict[tuple[tuple[str, str], ...], list[Records]] = {}
    for run in runs:
        if run.config and run.scores.get("miou") is not None:
            values = flatten(run.config)
            same = tuple(sorted(item for item in values.items() if item[0] not in MAY_CHANGE | {"seed"}))
            groups.setdefault(same, []).append(run)
    lines = []
    for group in groups.values():
        seeds = [run.config.get("seed", 0) for run in group]
        if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
            continue
        scores = [100 * run.scores["miou"] for run in group]
        lines.append(
            f"{', '.join(run.name for run in group)} differ in their seed alone "
            f"({', '.join(map(str, seeds))}): mean IoU {mean(scores):.1f} ± {stdev(scores):.1f}\u00a0% "
            f"(mean and standard deviation over {len(group)} seeds)."
        )
    return lines


def interval_cell(found: Interval) -> Cell:
    """A difference and its interval, coloured where the interval excludes 0."""
    if found.value is None or found.low is None or found.high is None:
        return Cell(text=DASH)
    low, high = (points(end) for end in (found.low, found.high))
    tone = "" if not found.resolved else "better" if found.value > 0 else "worse"
    return Cell(text=points(found.value), delta=f"{low} to {high}", tone=tone)


def points(value: float, digits: int = 2) -> str:
    """A signed difference in points (hundredths)."""
    text = f"{abs(100 * value):.{digits}f}"
    return ("±" if float(text) == 0 else "+" if value > 0 else MINUS) + text
