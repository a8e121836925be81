"""Intervals of the runs' scores, and of their differences to the first run, by resampling the images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from segdistill.engine.bootstrap import Interval, Score, bootstrap, miou_of, pixel_accuracy_of
from segdistill.reporting.records import Records

COMPARED: dict[str, Score] = {"miou": miou_of, "pixel_accuracy": pixel_accuracy_of}
"""The scores that have intervals: they follow from the counts of each image."""


@dataclass(frozen=True, kw_only=True)
class RunIntervals:
    """How much of a run's scores hangs on which images were there; empty where that cannot be computed.

    Attributes:
        alone: of each score.
        difference: of each score's difference to the first run.
        classes: of each class's difference in IoU to the first run.
    """

    alone: dict[str, Interval] = field(default_factory=dict)
    difference: dict[str, Interval] = field(default_factory=dict)
    classes: dict[str, Interval] = field(default_factory=dict)

    def resolved(self, score: str) -> bool:
        """Whether the interval of a difference lies on one side of 0."""
        return score in self.difference and self.difference[score].resolved

    def resolved_class(self, name: str) -> bool:
        """Whether the interval of a difference in a class's IoU lies on one side of 0."""
        return name in self.classes and self.classes[name].resolved


def run_intervals(runs: Sequence[Records]) -> list[RunIntervals]:
    """Intervals of each run, from a paired bootstrap over the images that it shares with the first run.

    Differences are there where a run has counts of the same images and classes as the first; earlier
    versions kept no counts.
    """
    first = runs[0]
    return [_alone(first), *(_against(first, run) or _alone(run) for run in runs[1:])]


def _alone(run: Records) -> RunIntervals:
    """The intervals of one run's scores."""
    if not run.image_counts:
        return RunIntervals()
    return RunIntervals(alone=bootstrap(_table(run)[None], COMPARED).alone[0])


def _against(first: Records, run: Records) -> RunIntervals | None:
    """The intervals of a run and of its differences to the first; None where they cannot be compared."""
    one, other = first.image_counts, run.image_counts
    if not one or one.keys() != other.keys() or first.class_names != run.class_names:
        return None
    classes: dict[str, Score] = {
        f"class {index}": partial(_iou_of, index=index) for index in range(len(run.class_names))
    }
    try:
        found = bootstrap(np.stack([_table(first), _table(run)]), COMPARED | classes)
    except ValueError:  # the masks were changed in between
        return None
    difference = found.differences[0]
    return RunIntervals(
        alone={name: found.alone[1][name] for name in COMPARED},
        difference={name: difference[name] for name in COMPARED},
        classes={name: difference[f"class {index}"] for index, name in enumerate(run.class_names)},
    )


def _table(run: Records) -> np.ndarray:
    """The counts of each image, N x 3 x K, in the order of the ids."""
    return np.stack([run.image_counts[name] for name in sorted(run.image_counts)])


def _iou_of(counts: np.ndarray, *, index: int) -> np.ndarray:
    """IoU of one class, of counts ... x 3 x K; NaN where it has no true pixel."""
    return miou_of(counts, [index])
