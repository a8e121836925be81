"""The scores against numbers worked out by hand, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from segdistill.data.labels import VOID, LabelSet
from segdistill.engine.metrics import BINS, Metrics, boundary_overlap

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


def sure(prediction: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Logits of a network that is certain of `prediction` (H x W)."""
    return torch.nn.functional.one_hot(prediction, classes).permute(2, 0, 1) * 100.0


def test_scores_of_four_pixels() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[0, 0, 1, 1, 2]])), torch.tensor([[0, 1, 1, 1, VOID]]), "a")
    scores = metrics.summary()
    # ground: 1 right, 1 more predicted, none missed: 1/2; road: 2 right, 1 missed: 2/3; roof has no truth.
    assert scores["iou"] == {"ground": pytest.approx(1 / 2), "road": pytest.approx(2 / 3), "roof": None}
    assert scores["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
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
    assert metrics.images == {"a": 1.0, "b": pytest.approx(1 / 4)}


def test_a_class_that_is_predicted_but_never_true_is_absent() -> None:
    metrics = Metrics(LABELS)
    metrics.update(sure(torch.tensor([[2, 2]])), torch.tensor([[0, 0]]), "a")
    assert metrics.summary()["iou"] == {"ground": 0.0, "road": None, "roof": None}


def test_an_image_of_void_alone_counts_nothing_and_gives_no_nan() -> None:
    metrics = Metrics(LABELS)
    metrics.update(torch.randn(3, 2, 2), torch.full((2, 2), VOID), "a")
    scores = metrics.summary()
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "boundary_iou", "calibration_error"):
        assert scores[name] is None, name
    assert scores["images"] == {"a": None}


def test_calibration_error_of_two_bins() -> None:
    # Two pixels of confidence 0.6, one right; two of 0.9, both right:
    # 1/2 |0.6 - 0.5| + 1/2 |0.9 - 1| = 0.1
    logits = torch.tensor([[[0.6, 0.6, 0.9, 0.9]], [[0.4, 0.4, 0.1, 0.1]]]).log()
    metrics = Metrics(LabelSet(names=("ground", "road")))
    metrics.update(logits, torch.tensor([[0, 1, 0, 0]]), "a")
    assert metrics.summary()["calibration_error"] == pytest.approx(0.1, abs=1e-6)


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


def test_agreement_counts_labelled_pixels() -> None:
    metrics = Metrics(LABELS)
    student, teacher = sure(torch.tensor([[0, 1, 2, 2]])), sure(torch.tensor([[0, 2, 2, 2]]))
    metrics.update(student, torch.tensor([[0, 0, 0, VOID]]), "a", teacher)
    assert metrics.summary()["teacher_agreement"] == pytest.approx(2 / 3)


def test_torchmetrics_agrees() -> None:
    torch.manual_seed(0)
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
