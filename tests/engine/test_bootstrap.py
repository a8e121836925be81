"""Intervals against resamples that are enumerated one by one, and the laws of pairing and coverage."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from segdistill.engine.bootstrap import (
    Interval,
    as_record,
    bootstrap,
    miou_of,
    pixel_accuracy_of,
    resample,
    resampled_scores,
)

pytestmark = pytest.mark.unit

# Four images, two classes; rows are right, predicted and true pixels. The last has truth of one class only.
TRUE = [[4, 6], [10, 0], [5, 5], [0, 10]]
FIRST = [([3, 5], [4, 6]), ([8, 0], [8, 2]), ([1, 2], [4, 6]), ([0, 7], [3, 7])]
SECOND = [([4, 5], [5, 5]), ([10, 0], [10, 0]), ([4, 4], [5, 5]), ([0, 6], [4, 6])]


def table(network: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """N x 3 x 2."""
    return np.array(
        [[right, predicted, true] for (right, predicted), true in zip(network, TRUE, strict=True)]
    )


COUNTS = np.stack([table(FIRST), table(SECOND)])


def by_hand(network: np.ndarray, images: tuple[int, ...]) -> float:
    """Mean IoU of some images, with loops."""
    ious = []
    for k in range(network.shape[2]):
        right, predicted, true = (sum(int(network[i, row, k]) for i in images) for row in range(3))
        if true:
            ious.append(right / (predicted + true - right))
    return sum(ious) / len(ious)


def enumerated() -> Iterator[tuple[int, ...]]:
    """All 256 resamples of four images, which are equally likely."""
    return itertools.product(range(4), repeat=4)


def test_scores_of_counts_are_those_of_the_metrics() -> None:
    # 12 right of 16 + 19 - 12 = 23 for class 0, 14 of 21 + 21 - 14 = 28 for class 1.
    summed = COUNTS[0].sum(axis=0)
    assert summed.tolist() == [[12, 14], [19, 21], [19, 21]]
    assert float(miou_of(summed)) == pytest.approx((12 / 26 + 14 / 28) / 2)
    assert float(miou_of(summed, [1])) == 0.5
    assert float(pixel_accuracy_of(summed)) == pytest.approx(26 / 40)


def test_a_class_without_truth_is_left_out_and_nothing_labelled_is_nan() -> None:
    assert float(miou_of(COUNTS[0, 1])) == 8 / 10  # class 1 is predicted twice and never true
    assert math.isnan(miou_of(np.zeros((3, 2))))
    assert math.isnan(pixel_accuracy_of(np.zeros((3, 2))))


def test_every_resample_has_the_score_that_its_images_have() -> None:
    drawn = np.array([np.bincount(images, minlength=4) for images in enumerated()])
    found = resampled_scores(COUNTS, {"miou": miou_of}, drawn)["miou"]
    expected = [[by_hand(network, images) for images in enumerated()] for network in COUNTS]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_intervals_are_those_of_all_resamples() -> None:
    found = bootstrap(COUNTS, {"miou": miou_of}, resamples=40_000)
    first, second = (np.array([by_hand(n, images) for images in enumerated()]) for n in COUNTS)
    # The ends lie on steps of a distribution of 256 resamples: they are met exactly, or nearly.
    for interval, exact, value in (
        (found.alone[0]["miou"], first, by_hand(COUNTS[0], (0, 1, 2, 3))),
        (found.alone[1]["miou"], second, by_hand(COUNTS[1], (0, 1, 2, 3))),
        (found.differences[0]["miou"], second - first, np.nan),
    ):
        expected = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
        assert [interval.low, interval.high] == pytest.approx(expected, abs=0.005)
        assert math.isnan(value) or interval.value == pytest.approx(value)
    assert found.differences[0]["miou"].value == pytest.approx(
        found.alone[1]["miou"].value - found.alone[0]["miou"].value
    )


def test_each_resample_has_as_many_images_and_the_seed_decides_which() -> None:
    drawn, again = (np.concatenate(list(resample(5, 1000, 3))) for _ in range(2))
    assert drawn.shape == (1000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert (drawn == again).all()
    assert (drawn != np.concatenate(list(resample(5, 1000, 4)))).any()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(drawn.var(axis=0), 4 / 5, atol=0.1)  # of a binomial number, 5 draws at 1/5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(COUNTS, {"miou": miou_of}, resamples=500)
    monkeypatch.setattr("segdistill.engine.bootstrap.CHUNK", 16)
    small = bootstrap(COUNTS, {"miou": miou_of}, resamples=500)
    for a, b in zip((*whole.alone, *whole.differences), (*small.alone, *small.differences), strict=True):
        assert a["miou"].value == b["miou"].value
        assert [b["miou"].low, b["miou"].high] == pytest.approx([a["miou"].low, a["miou"].high], abs=0.1)


def test_equal_networks_differ_by_exactly_nothing() -> None:
    found = bootstrap(np.stack([COUNTS[0], COUNTS[0]]), {"miou": miou_of, "accuracy": pixel_accuracy_of})
    for interval in found.differences[0].values():
        assert interval == Interval(value=0.0, low=0.0, high=0.0)
        assert not interval.resolved
    assert found.alone[0]["miou"].low < found.alone[0]["miou"].high


def test_pairing_makes_a_small_but_steady_gain_visible() -> None:
    """Images differ much more than networks: alone their intervals overlap, the difference is resolved."""
    rng = np.random.default_rng(0)
    true = np.full((60, 1), 1000)
    right = rng.integers(100, 900, (60, 1))
    counts = np.stack([np.stack([right + gain, true, true], axis=1) for gain in (0, 20)])
    found = bootstrap(counts, {"accuracy": pixel_accuracy_of})
    assert found.alone[0]["accuracy"].high > found.alone[1]["accuracy"].low
    difference = found.differences[0]["accuracy"]
    assert difference.resolved
    assert [difference.low, difference.value, difference.high] == pytest.approx([0.02] * 3)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """80 data sets of 80 images with a known accuracy of 0.6: 95 % should be some 76 of them."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(80):
        right = rng.beta(6, 4, (80, 1)) * 10_000
        counts = np.stack([right.astype(int), np.full((80, 1), 10_000), np.full((80, 1), 10_000)], axis=1)
        interval = bootstrap(counts[None], {"accuracy": pixel_accuracy_of}, resamples=1000).alone[0][
            "accuracy"
        ]
        hits += interval.low <= 0.6 <= interval.high
    assert 69 <= hits <= 80  # four standard deviations of a binomial number below 76


def test_a_class_that_nobody_labelled_has_no_interval() -> None:
    counts = np.zeros((2, 3, 3, 2), dtype=int)
    found = bootstrap(counts, {"miou": miou_of}, resamples=100)
    assert found.differences[0]["miou"] == Interval(value=None, low=None, high=None)
    assert not found.differences[0]["miou"].resolved


def test_different_masks_and_no_images_are_refused() -> None:
    other = COUNTS.copy()
    other[1, 0, 2, 0] += 1
    with pytest.raises(ValueError, match="scored on different masks"):
        bootstrap(other, {"miou": miou_of})
    with pytest.raises(ValueError, match="no images to resample"):
        bootstrap(COUNTS[:, :0], {"miou": miou_of})


@pytest.mark.parametrize(
    ("low", "high", "resolved"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-0.1, 0.0, False)],
)
def test_a_difference_is_resolved_where_its_interval_lies_on_one_side(
    low: float, high: float, resolved: bool
) -> None:
    interval = Interval(value=(low + high) / 2, low=low, high=high)
    assert as_record({"miou": interval}, difference=True)["miou"]["resolved"] is resolved
    assert "resolved" not in as_record({"miou": interval})["miou"]
