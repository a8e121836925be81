"""How much of a difference between runs hangs on the choice of images."""

from collections.abc import Sequence

from segdistill.engine.bootstrap import LEVEL, Interval
from segdistill.reporting.comparison import DASH, MINUS, Cell, Row
from segdistill.reporting.intervals import COMPARED, RunIntervals
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
