"""Intervals of scores, and of differences between networks, by resampling images (the bootstrap).

M: networks, N: images, K: classes, R: resamples. The counts of an image are 3 x K pixels: those of each class
that are right, that are predicted, and that are true. They add up over images, so every score of a resample
follows from one matrix product: R x N (how often each image was drawn) by N x 3K.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (the percentile interval).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
"""Data sets that are drawn: the ends of an interval then vary by about 1 % of its width."""
LEVEL = 0.95
"""Share of the resamples whose score lies in the interval."""
CHUNK = 2**22
"""Numbers of drawn images, and of counts, that are in memory at a time."""

Score = Callable[[np.ndarray], np.ndarray]
"""Counts ... x 3 x K -> scores ..., NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score, or a difference of two, with the range that it has over resampled images.

    Attributes:
        value: on the images themselves; None where it cannot be computed.
        low, high: the ends, at (1 - `LEVEL`) / 2 of the resamples from either side.
    """

    value: float | None
    low: float | None
    high: float | None

    @property
    def resolved(self) -> bool:
        """Whether all of the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Intervals by name of the score: of each of M networks alone, and of their differences to the first."""

    alone: list[dict[str, Interval]]
    differences: list[dict[str, Interval]]


def miou_of(counts: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """Mean IoU over the classes with truth, as `engine.metrics` has it; NaN where none has.

    Args:
        counts: ... x 3 x K.
        classes: indices of the classes that are averaged over; None for all.
    """
    chosen = counts if classes is None else counts[..., list(classes)]
    right, predicted, true = np.moveaxis(chosen.astype(np.float64), -2, 0)
    there = true > 0
    iou = np.divide(right, predicted + true - right, out=np.zeros_like(right), where=there)
    number = there.sum(axis=-1)
    return np.divide(iou.sum(axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)


def pixel_accuracy_of(counts: np.ndarray) -> np.ndarray:
    """The fraction of the labelled pixels that is right, of ... x 3 x K; NaN where none is labelled."""
    right, _, true = np.moveaxis(counts.astype(np.float64).sum(axis=-1), -1, 0)
    return np.divide(right, true, out=np.full(true.shape, np.nan), where=true > 0)


def resample(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is in each resample, r x N, a chunk at a time; rows add up to N."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // images)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def resampled_scores(
    counts: np.ndarray, scores: Mapping[str, Score], drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """Each score of each network on each resample, M x r; the networks share the resamples.

    Args:
        counts: M x N x 3 x K.
        scores: by name.
        drawn: r x N, see `resample`.
    """
    networks, images, rows, classes = counts.shape
    size = max(1, CHUNK // (networks * rows * classes))
    table = np.moveaxis(counts, 0, 1).reshape(images, -1).astype(np.float64)  # exact up to 2 ** 53
    parts: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    for start in range(0, len(drawn), size):
        weights = drawn[start : start + size].astype(np.float64)
        summed = np.moveaxis((weights @ table).reshape(-1, networks, rows, classes), 1, 0)
        for name, score in scores.items():
            parts[name].append(score(summed))
    return {name: np.concatenate(part, axis=1) for name, part in parts.items()}


def bootstrap(
    counts: np.ndarray, scores: Mapping[str, Score], *, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """Percentile intervals of networks that were scored on the same images, and of their differences.

    The networks share the resamples (a paired bootstrap): that some images are hard for all of them cancels
    in a difference. A class without truth in a resample is left out of it for all networks.

    Args:
        counts: M x N x 3 x K int64; the true pixels are the same for all networks.
        scores: by name.
        resamples: R.
        seed: of the resamples.

    Raises:
        ValueError: there are no images, or the true pixels differ.
    """
    if counts.shape[1] == 0:
        raise ValueError("there are no images to resample")
    if (counts[:, :, 2] != counts[:1, :, 2]).any():
        raise ValueError("the networks were scored on different masks")
    exact = {name: score(counts.sum(axis=1)) for name, score in scores.items()}
    chunks = [resampled_scores(counts, scores, drawn) for drawn in resample(counts.shape[1], resamples, seed)]
    drawn_scores = {name: np.concatenate([chunk[name] for chunk in chunks], axis=1) for name in scores}

    def each(network: int, baseline: int | None) -> dict[str, Interval]:
        found = {}
        for name in scores:
            value, many = exact[name][network], drawn_scores[name][network]
            if baseline is not None:
                value, many = value - exact[name][baseline], many - drawn_scores[name][baseline]
            found[name] = _interval(float(value), many)
        return found

    networks = range(len(counts))
    return Intervals(
        alone=[each(network, None) for network in networks],
        differences=[each(network, 0) for network in networks[1:]],
    )


def as_record(intervals: Mapping[str, Interval], *, difference: bool = False) -> dict[str, Any]:
    """Intervals as JSON values; of a difference also whether it is `resolved`."""
    return {
        name: asdict(interval) | ({"resolved": interval.resolved} if difference else {})
        for name, interval in intervals.items()
    }


def _interval(value: float, many: np.ndarray) -> Interval:
    """The percentile interval of R values; those without a score (NaN) are left out."""
    there = many[~np.isnan(many)]
    if np.isnan(value) or not there.size:
        return Interval(value=None, low=None, high=None)
    low, high = np.quantile(there, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))
