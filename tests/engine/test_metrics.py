"""The scores against numbers worked out by hand, and against torchmetrics."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import erosion
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from segdistill.data.labels import VOID, LabelSet
from segdistill.engine.metrics import (
    BINS,
    Metrics,
    boundary_bands,
    boundary_overlap,
    calibration_bins,
    class_counts,
    confusion_matrix,
    expected_calibration_error,
    iou,
    mean,
    window_minimum,
)

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


def sure(prediction: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Logits of a network that is certain of `prediction` (H x W)."""
    return torch.nn.functional.one_hot(prediction, classes).permute(2, 0, 1) * 100.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused_with_the_image(value: float) -> None:
    logits = torch.zeros(3, 2, 2)
    logits[1, 0, 0] = value
    with pytest.raises(ValueError, match=r"^cat: the network's logits are NaN or infinite"):
        Metrics(LABELS).update(logits, torch.zeros(2, 2, dtype=torch.int64), "cat")


def test_confusion_counts_truth_by_row_and_leaves_void_out() -> None:
    prediction, mask = torch.tensor([[0, 1, 1], [2, 2, 0]]), torch.tensor([[0, 0, 1], [1, VOID, VOID]])
    confusion = confusion_matrix(prediction, mask, 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert confusion.dtype == torch.int64


def test_iou_of_a_confusion_matrix() -> None:
    # 6 / (6 + 2 + 1 + 0), 3 / (3 + 1 + 2 + 1), and a class that is predicted once but never true.
    confusion = torch.tensor([[6, 2, 0], [1, 3, 1], [0, 0, 0]])
    assert iou(confusion) == [pytest.approx(6 / 9), pytest.approx(3 / 7), None]


def test_image_counts_are_right_predicted_and_true_pixels() -> None:
    confusion = torch.tensor([[6, 2, 0], [1, 3, 1], [0, 0, 0]])
    assert class_counts(confusion).tolist() == [[6, 3, 0], [7, 5, 1], [8, 5, 0]]


def test_iou_of_predicted_classes_counts_one_without_truth_as_zero() -> None:
    # The third class is predicted once and never true, the fourth neither.
    confusion = torch.tensor([[6, 2, 0, 0], [1, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert iou(confusion, predicted=True) == [pytest.approx(6 / 9), pytest.approx(3 / 7), 0.0, None]


def test_the_mean_is_over_what_is_there() -> None:
    assert mean([1.0, None, 0.0]) == 0.5
    assert mean([None, None]) is None


def test_scores_of_four_pixels() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[0, 0, 1, 1, 2]])), torch.tensor([[0, 1, 1, 1, VOID]]), "a")
    scores = metrics.summary()
    # ground: 1 right, 1 more predicted, none missed: 1/2; road: 2 right, 1 missed: 2/3; roof has no truth.
    assert scores["iou"] == {"ground": pytest.approx(1 / 2), "road": pytest.approx(2 / 3), "roof": None}
    assert scores["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["miou_union"] == scores["miou"]  # roof is predicted in void alone
    assert scores["pixel_accuracy"] == pytest.approx(3 / 4)
    assert scores["mean_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["frequency_weighted_iou"] == pytest.approx((1 * 1 / 2 + 3 * 2 / 3) / 4)
    assert scores["absent"] == ["roof"]
    assert scores["pixels"] == 4
    assert scores["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_miou_is_of_the_data_set_and_not_averaged_over_images() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[0, 0, 0, 0]])), torch.tensor([[0, 0, 0, 0]]), "a")  # all right
    metrics.update(sure(torch.tensor([[0, 0]])), torch.tensor([[0, 1]]), "b")  # road is missed
    # ground 5 of 6, road 0 of 1. Averaged over images it would be (1 + (1/2 + 0)/2) / 2 = 0.625.
    assert metrics.summary()["miou"] == pytest.approx((5 / 6 + 0) / 2)
    assert metrics.summary()["images"] == {"a": 1.0, "b": pytest.approx(1 / 4)}


def test_a_class_that_is_predicted_but_never_true_is_absent() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[2, 2]])), torch.tensor([[0, 0]]), "a")
    assert metrics.summary()["iou"] == {"ground": 0.0, "road": None, "roof": None}


def test_an_invented_object_counts_in_the_union_and_in_the_images_own_score() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[0, 0, 0, 2]])), torch.tensor([[0, 0, 0, 0]]), "a")
    scores = metrics.summary()
    # ground has 3 of 4 pixels; roof has no truth, is predicted, and counts as 0; road is in neither.
    assert scores["miou"] == pytest.approx(3 / 4)
    assert scores["miou_union"] == pytest.approx((3 / 4 + 0) / 2)
    assert scores["images"] == {"a": pytest.approx((3 / 4 + 0) / 2)}


def test_an_image_of_void_alone_counts_nothing_and_gives_no_nan() -> None:
    metrics = Metrics(LABELS)
    metrics.update(torch.randn(3, 2, 2), torch.full((2, 2), VOID), "a")
    scores = metrics.summary()
    names = ("miou", "miou_union", "pixel_accuracy", "mean_accuracy", "boundary_iou", "calibration_error")
    for name in names:
        assert scores[name] is None, name
    assert scores["images"] == {"a": None}


def test_calibration_error_of_two_bins() -> None:
    # Two pixels of confidence 0.6, one right; two of 0.9, both right:
    # 1/2 |0.6 - 0.5| + 1/2 |0.9 - 1| = 0.1
    logits = torch.tensor([[[0.6, 0.6, 0.9, 0.9]], [[0.4, 0.4, 0.1, 0.1]]]).log()
    metrics = Metrics(LabelSet(names=("ground", "road")))
    metrics.update(logits, torch.tensor([[0, 1, 0, 0]]), "a")
    assert metrics.summary()["calibration_error"] == pytest.approx(0.1, abs=1e-6)


def test_confidences_fall_into_equal_bins() -> None:
    # 15 bins of 1/15: 0.5 lies in bin 7 (7/15 = 0.467 to 0.533), 0.95 in bin 14, and 1 in the last one too.
    bins = calibration_bins(torch.tensor([0.5, 0.95, 1.0]), torch.tensor([True, False, True]))
    pixels, confidence, correct = bins
    assert {i: n for i, n in enumerate(pixels.tolist()) if n} == {7: 1, 14: 2}
    assert confidence[[7, 14]].tolist() == pytest.approx([0.5, 1.95])
    assert correct[[7, 14]].tolist() == [1, 1]
    # (|0.5 - 1| + |1.95 - 1|) / 3
    assert expected_calibration_error(bins) == pytest.approx((0.5 + 0.95) / 3)


def test_errors_of_one_bin_cancel_over_images_and_not_within_each() -> None:
    # Confidence 0.75 and 3 of 4 right over both images: no error, though each image alone has one.
    logits = torch.tensor([[[0.75, 0.75]], [[0.25, 0.25]]]).log()
    metrics = Metrics(LabelSet(names=("ground", "road")))
    metrics.update(logits, torch.tensor([[0, 0]]), "a")
    metrics.update(logits, torch.tensor([[0, 1]]), "b")
    assert metrics.summary()["calibration_error"] == pytest.approx(0, abs=1e-6)


def test_boundary_of_a_shifted_square() -> None:
    # 20 x 20 pixels: d = round(0.02 * 28.3) = 1, so a 10 x 10 square has a band of 100 - 64 = 36 pixels.
    truth, shifted = torch.zeros(2, 20, 20, dtype=torch.int64)
    truth[5:15, 5:15] = 1
    shifted[5:15, 6:16] = 1
    overlap = boundary_overlap(shifted, truth, 3)
    # Rows 5 and 14 share columns 6 to 14 (9 each); between them the sides lie in columns 5, 14 against 6, 15:
    # nothing is shared. The intersection is 18, the union 2 * 36 - 18 = 54.
    assert overlap[:, 1].tolist() == [18, 54]
    assert boundary_overlap(truth, truth, 3)[:, 1].tolist() == [36, 36]


def test_the_images_edge_is_a_boundary() -> None:
    # 10 x 10 pixels of one class: d = max(1, round(0.02 * 14.1)) = 1, the outermost ring has 36 pixels.
    whole = torch.zeros(10, 10, dtype=torch.int64)
    assert boundary_overlap(whole, whole, 2)[:, 0].tolist() == [36, 36]


def test_boundary_iou_is_of_the_data_set() -> None:
    metrics, whole = Metrics(LABELS), torch.zeros(10, 10, dtype=torch.int64)
    metrics.update(sure(whole), whole, "a")  # 36 of 36 pixels
    metrics.update(sure(whole + 1), whole, "b")  # 0 of 36 pixels
    scores = metrics.summary()
    assert scores["boundary_iou_by_class"] == {"ground": pytest.approx(36 / 72), "road": None, "roof": None}
    assert scores["boundary_iou"] == pytest.approx(1 / 2)


def blobs(seed: int, height: int, width: int) -> torch.Tensor:
    """Three classes in smooth regions."""
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")[0].argmax(dim=0)


@given(seed=st.integers(0, 1000), height=st.integers(5, 120), width=st.integers(5, 120))
@settings(max_examples=15, deadline=None)
def test_boundaries_are_what_an_erosion_takes_off(seed: int, height: int, width: int) -> None:
    prediction, mask = blobs(seed, height, width), blobs(seed + 1, height, width)
    mask[: height // 4] = VOID
    d = max(1, round(0.02 * math.hypot(height, width)))

    def band(labels: torch.Tensor, index: int) -> np.ndarray:
        region = np.pad(((labels == index) & (mask != VOID)).numpy(), d)
        return (region & ~erosion(region, np.ones((2 * d + 1, 2 * d + 1))))[d:-d, d:-d]

    bands = [(band(prediction, index), band(mask, index)) for index in range(3)]
    expected = [[int((a & b).sum()) for a, b in bands], [int((a | b).sum()) for a, b in bands]]
    assert boundary_overlap(prediction, mask, 3).tolist() == expected


def pooled_bands(maps: torch.Tensor, d: int) -> torch.Tensor:
    """The bands class by class: erosion of a region is dilation of its complement, a max pool."""
    bands = torch.zeros(maps.shape, dtype=torch.bool)
    for index in maps[maps != VOID].unique():
        region = maps == index
        outside = torch.nn.functional.pad((~region).float(), (d, d, d, d), value=1.0)
        bands |= region & (torch.nn.functional.max_pool2d(outside, 2 * d + 1, 1) == 1)
    return bands


@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    d=st.integers(1, 24),
    void=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    smooth=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_bands_are_those_of_a_pool_per_class(
    seed: int, size: tuple[int, int], d: int, void: float, smooth: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(0, VOID, (2, *size), generator=generator, dtype=torch.uint8)
    if smooth:
        maps = torch.stack([blobs(seed, *size), blobs(seed + 1, *size)]).to(torch.uint8)
    maps[torch.rand(maps.shape, generator=generator) < void] = VOID
    assert torch.equal(boundary_bands(maps, d), pooled_bands(maps, d))


@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 30),
    rest=st.integers(0, 30),
    axis=st.sampled_from([1, 2]),
)
@settings(max_examples=30, deadline=None)
def test_window_minimum_is_the_minimum_of_each_window(seed: int, length: int, rest: int, axis: int) -> None:
    shape = [2, 3, 3]
    shape[axis] = length + rest
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(window_minimum(values, length, axis), values.unfold(axis, length, 1).amin(dim=-1))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_what_is_predicted_in_void_changes_no_score(seed: int) -> None:
    torch.manual_seed(seed)
    logits, teacher, mask = torch.randn(3, 40, 30), torch.randn(3, 40, 30), blobs(seed, 40, 30)
    mask[10:20, 5:25] = VOID
    scores = []
    for _ in range(2):
        metrics = Metrics(LABELS)
        metrics.update(logits, mask, "a", teacher)
        scores.append(metrics.summary())
        logits[:, mask == VOID] = torch.randn(3, 200)
        teacher[:, mask == VOID] = torch.randn(3, 200)
    assert scores[0] == scores[1]


def test_a_perfect_network_is_perfect_beside_void_too() -> None:
    metrics, truth = Metrics(LABELS), torch.zeros(60, 80, dtype=torch.int64)
    truth[20:40, 20:50] = 1
    mask = truth.clone()
    mask[17:20, 17:53] = mask[40:43, 17:53] = mask[17:43, 17:20] = mask[17:43, 50:53] = VOID
    metrics.update(sure(truth), mask, "a")
    scores = metrics.summary()
    assert (scores["miou"], scores["boundary_iou"], scores["pixel_accuracy"]) == (1, 1, 1)


def test_scores_are_json_without_nan() -> None:
    metrics = Metrics(LABELS)
    metrics.update(torch.randn(3, 4, 4), torch.full((4, 4), VOID), "a")
    metrics.update(torch.randn(3, 4, 4), torch.ones(4, 4, dtype=torch.int64), "b")
    scores = metrics.summary()
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_logits_in_bfloat16_are_scored_in_float32() -> None:
    logits, mask = torch.randn(3, 9, 9).bfloat16(), torch.randint(0, 3, (9, 9))
    scores = []
    for values in (logits, logits.float()):
        metrics = Metrics(LABELS)
        metrics.update(values, mask, "a")
        scores.append(metrics.summary())
    assert scores[0] == scores[1]


def test_agreement_counts_labelled_pixels() -> None:
    metrics = Metrics(LABELS)
    student, teacher = sure(torch.tensor([[0, 1, 2, 2]])), sure(torch.tensor([[0, 2, 2, 2]]))
    metrics.update(student, torch.tensor([[0, 0, 0, VOID]]), "a", teacher)
    assert metrics.summary()["teacher_agreement"] == pytest.approx(2 / 3)


def test_without_a_teacher_there_is_no_agreement() -> None:
    metrics = Metrics(LABELS)
    metrics.update(torch.randn(3, 2, 2), torch.zeros(2, 2, dtype=torch.int64), "a")
    assert metrics.summary()["teacher_agreement"] is None


@pytest.mark.parametrize("seed", range(4))
def test_torchmetrics_agrees(seed: int) -> None:
    torch.manual_seed(seed)
    metrics = Metrics(LABELS)
    images = [(2 * torch.randn(3, h, w), torch.randint(0, 3, (h, w))) for h, w in ((17, 9), (8, 30))]
    oracles = {
        "miou": MulticlassJaccardIndex(3, ignore_index=VOID),
        "pixel_accuracy": MulticlassAccuracy(3, average="micro", ignore_index=VOID),
        "mean_accuracy": MulticlassAccuracy(3, average="macro", ignore_index=VOID),
        "calibration_error": MulticlassCalibrationError(3, n_bins=BINS, ignore_index=VOID),
    }
    confusion = MulticlassConfusionMatrix(3, ignore_index=VOID)
    for index, (logits, mask) in enumerate(images):
        mask[:2] = VOID
        metrics.update(logits, mask, str(index))
        confusion.update(logits[None].argmax(dim=1), mask[None])
        for oracle in oracles.values():
            oracle.update(logits[None].softmax(dim=1), mask[None])
    scores = metrics.summary()
    assert scores["confusion"] == confusion.compute().tolist()
    for name, oracle in oracles.items():
        assert math.isclose(scores[name], float(oracle.compute()), rel_tol=1e-5), name


@pytest.mark.parametrize("seed", range(4))
def test_torchmetrics_agrees_on_classes_that_are_predicted_only(seed: int) -> None:
    torch.manual_seed(seed)
    labels = LabelSet(names=tuple("abcdef"))
    logits, mask = 2 * torch.randn(6, 20, 30), torch.randint(0, 3, (20, 30))  # three classes without truth
    logits[5] = -100  # one of them is not predicted either
    mask[:2] = VOID
    metrics, oracle = Metrics(labels), MulticlassJaccardIndex(6, ignore_index=VOID)
    metrics.update(logits, mask, "a")
    oracle.update(logits[None].argmax(dim=1), mask[None])
    scores = metrics.summary()
    assert scores["miou_union"] == pytest.approx(float(oracle.compute()), rel=1e-5)
    assert scores["miou_union"] == scores["images"]["a"]
    assert scores["miou_union"] < scores["miou"]
