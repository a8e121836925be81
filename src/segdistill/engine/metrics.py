"""Scores of a segmentation, accumulated over a data set: no I/O, nothing averaged over images or batches.

H, W: rows and columns of one image, K: classes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID, LabelSet

BINS = 15
"""Confidence bins of the calibration error, as in Guo et al. 2017."""
BOUNDARY = 0.02
"""Width of the boundary band as a share of the image's diagonal, as in Cheng et al. 2021."""


class Metrics:
    """Running sums over images, from which every score follows.

    Args:
        labels: the K classes.
        device: where the sums are kept.
        temperature: what logits are divided by for confidences; it changes no class.

    Attributes:
        confusion: K x K int64 pixels, rows are the truth, columns the prediction.
        boundary: 2 x K int64 pixels, intersection and union of the boundary bands.
        calibration: 3 x BINS float64: pixels, sum of confidences, correct pixels.
        uncalibrated: the same at temperature 1.
        agreement: 2 int64: pixels on which network and teacher choose the same class, and pixels compared.
        counts: 3 x K int64 pixels of each image on the CPU, by id, see `class_counts`.
    """

    def __init__(
        self, labels: LabelSet, device: torch.device | None = None, *, temperature: float = 1.0
    ) -> None:
        self.labels, self.temperature = labels, temperature
        classes = len(labels)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.boundary = torch.zeros(2, classes, dtype=torch.int64, device=device)
        self.calibration = torch.zeros(3, BINS, dtype=torch.float64, device=device)
        self.uncalibrated = torch.zeros_like(self.calibration)
        self.agreement = torch.zeros(2, dtype=torch.int64, device=device)
        self.counts: dict[str, Tensor] = {}

    def update(
        self, logits: Tensor, mask: Tensor, image_id: str, teacher_logits: Tensor | None = None
    ) -> None:
        """Add one image.

        Args:
            logits: K x H x W.
            mask: H x W int64, class index or 255 = void, which takes no part in anything.
            image_id: its name.
            teacher_logits: K x H x W, to compare decisions with.

        Raises:
            ValueError: a logit is NaN or infinite.
        """
        device = self.confusion.device
        logits, mask = logits.to(device), mask.to(device)
        logits = logits.float()
        prediction, probability = logits.max(dim=0).indices, logits.softmax(dim=0).amax(dim=0)
        if not probability.isfinite().all():
            raise ValueError(
                f"{image_id}: the network's logits are NaN or infinite. If they come from a training, it has "
                "diverged: train with a lower learning rate, or clip the gradients"
            )
        confusion = confusion_matrix(prediction, mask, len(self.labels))
        self.confusion += confusion
        self.counts[image_id] = class_counts(confusion).cpu()
        self.boundary += boundary_overlap(prediction, mask, len(self.labels))
        labelled = mask != VOID
        correct = (prediction == mask)[labelled]
        raw = calibration_bins(probability[labelled], correct)
        self.uncalibrated += raw
        if self.temperature != 1:
            confidence = (logits / self.temperature).softmax(dim=0).amax(dim=0)
            raw = calibration_bins(confidence[labelled], correct)
        self.calibration += raw
        if teacher_logits is not None:
            same = (teacher_logits.argmax(dim=0).to(device) == prediction) & labelled
            self.agreement += torch.stack([same.sum(), labelled.sum()])

    def summary(self) -> dict[str, Any]:
        """All scores as JSON values; what cannot be computed (a class without truth) is None."""
        confusion = self.confusion.double().cpu()
        truth, correct = confusion.sum(dim=1), confusion.diagonal()
        per_class = iou(self.confusion)
        bands, total = self.boundary.cpu().tolist(), float(truth.sum())
        names = self.labels.names
        recall = [c / t if t else None for c, t in zip(correct.tolist(), truth.tolist(), strict=True)]
        boundary = [
            i / u if u and t else None for i, u, t in zip(bands[0], bands[1], truth.tolist(), strict=True)
        ]
        weighted = sum(t * (v or 0.0) for t, v in zip(truth.tolist(), per_class, strict=True))
        agreed, compared = self.agreement.tolist()
        return {
            "miou": mean(per_class),
            "miou_union": mean(iou(self.confusion, predicted=True)),
            "pixel_accuracy": float(correct.sum()) / total if total else None,
            "mean_accuracy": mean(recall),
            "frequency_weighted_iou": weighted / total if total else None,
            "boundary_iou": mean(boundary),
            "calibration_error": expected_calibration_error(self.calibration),
            "calibration_error_before": None
            if self.temperature == 1
            else expected_calibration_error(self.uncalibrated),
            "teacher_agreement": agreed / compared if compared else None,
            "iou": dict(zip(names, per_class, strict=True)),
            "accuracy": dict(zip(names, recall, strict=True)),
            "boundary_iou_by_class": dict(zip(names, boundary, strict=True)),
            "absent": [name for name, pixels in zip(names, truth.tolist(), strict=True) if not pixels],
            "pixels": int(total),
            "confusion": self.confusion.tolist(),
            "calibration": self.calibration.tolist(),
            "images": {name: mean(iou_of(counts, predicted=True)) for name, counts in self.counts.items()},
        }


def confusion_matrix(prediction: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Pixels by true class (row) and predicted class (column), void left out.

    Args:
        prediction: H x W int64.
        mask: H x W int64, class index or 255 = void.
        classes: K.

    Returns:
        K x K int64.
    """
    labelled = mask != VOID
    pairs = mask[labelled] * classes + prediction[labelled]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def class_counts(confusion: Tensor) -> Tensor:
    """K x K pixels, rows are the truth -> 3 x K: right, predicted and true pixels of each class."""
    return torch.stack([confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)])


def iou(confusion: Tensor, *, predicted: bool = False) -> list[float | None]:
    """`iou_of` the counts of a K x K confusion matrix: rows are the truth, columns the prediction."""
    return iou_of(class_counts(confusion), predicted=predicted)


def iou_of(counts: Tensor, *, predicted: bool = False) -> list[float | None]:
    """Intersection over union of each class.

    Args:
        counts: 3 x K, see `class_counts`.
        predicted: count a class without truth as 0 where it is predicted, as torchmetrics (macro) and
            mmsegmentation do.

    Returns:
        K values; None where a class has no truth or, with `predicted`, occurs in neither.
    """
    correct, prediction, truth = counts.double().cpu()
    union = truth + prediction - correct
    scored = union if predicted else truth
    return [
        c / u if there else None
        for c, u, there in zip(correct.tolist(), union.tolist(), scored.tolist(), strict=True)
    ]


def mean(values: list[float | None]) -> float | None:
    """Mean of the values that are there; None where none is."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def boundary_overlap(prediction: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Intersection and union of predicted and true boundary bands (Cheng et al. 2021, Boundary IoU).

    A class's band is what an erosion by d pixels takes off its region, d being 2 % of the image's diagonal.
    Beyond the image's edge lies no region, so that edges count as boundaries, as in the paper's code; nor
    does one in void, whatever is predicted there.

    Args:
        prediction: H x W int64.
        mask: H x W int64, void pixels take no part.
        classes: K.

    Returns:
        2 x K int64 pixels.
    """
    d = max(1, round(BOUNDARY * math.hypot(*mask.shape)))
    labelled = mask != VOID
    maps = torch.stack([prediction, mask]).masked_fill(~labelled, VOID)
    predicted_band, true_band = boundary_bands(maps.to(torch.uint8), d)
    both = predicted_band & true_band & (prediction == mask)
    predicted, true, intersection = (
        torch.bincount(indices, minlength=classes)
        for indices in (prediction[predicted_band], mask[true_band], mask[both])
    )
    return torch.stack([intersection, predicted + true - intersection])


def boundary_bands(maps: Tensor, d: int) -> Tensor:
    """The pixels that an erosion by a (2d + 1) x (2d + 1) square takes off the region of their own class.

    A pixel stays where its window holds one class alone, that is where minimum and maximum are equal. So one
    pass finds the bands of all classes, and 8 bits are enough.

    Args:
        maps: N x H x W uint8 class indices; `VOID` belongs to no region, nor does what lies outside.
        d: width of the bands in pixels.

    Returns:
        N x H x W bool.
    """
    padded = F.pad(maps, (d, d, d, d), value=VOID)
    lowest = torch.cat([padded, VOID - padded])  # the maximum is what the minimum of the complement leaves
    for axis in (2, 1):
        lowest = window_minimum(lowest, 2 * d + 1, axis)
    low, high = lowest.chunk(2)
    return (low != VOID - high) & (maps != VOID)


def window_minimum(values: Tensor, length: int, axis: int) -> Tensor:
    """The minimum of each window of `length` along an axis: L - `length` + 1 for L values.

    The minimum of a long window is that of two shorter ones, which may overlap.
    """
    covered = 1
    while covered < length:
        shift = min(covered, length - covered)
        windows = values.shape[axis] - shift
        values = torch.minimum(values.narrow(axis, 0, windows), values.narrow(axis, shift, windows))
        covered += shift
    return values


def calibration_bins(confidence: Tensor, correct: Tensor) -> Tensor:
    """Pixels, summed confidence and correct pixels by confidence, each in BINS equal bins of 0 to 1.

    Args:
        confidence: M probabilities of the predicted classes.
        correct: M bool.

    Returns:
        3 x BINS float64.
    """
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = (torch.ones_like(confidence), confidence, correct)
    return torch.stack([torch.bincount(index, weights=row.double(), minlength=BINS) for row in rows])


def expected_calibration_error(bins: Tensor) -> float | None:
    """Mean gap between confidence and accuracy, each bin weighted by its pixels; None without pixels."""
    pixels, confidence, correct = bins.cpu()
    return float((confidence - correct).abs().sum() / pixels.sum()) if pixels.sum() else None
