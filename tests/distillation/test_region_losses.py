"""OHEM, Dice and Lovász against numbers worked out by hand; their common laws are in test_laws.py."""

import math

import pytest
import torch

from segdistill.data.labels import VOID
from segdistill.distillation.losses import hard_loss
from segdistill.distillation.region_losses import dice_loss, jaccard_steps, lovasz_loss, ohem_loss

pytestmark = pytest.mark.unit


def logits(*first: float) -> torch.Tensor:
    """An image of one row, whose pixels have these probabilities of class 0, the rest being class 1's."""
    p = torch.tensor(first)
    return torch.stack([p, 1 - p]).log().view(1, 2, 1, -1)


def test_ohem_keeps_pixels_below_the_threshold() -> None:
    image, mask = logits(0.5, 0.75, 0.9, 0.01), torch.tensor([[[0, 0, 0, VOID]]])
    assert ohem_loss(image, mask, threshold=0.7).item() == pytest.approx(math.log(2))
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert ohem_loss(image, mask, threshold=0.8).item() == pytest.approx(expected)


def test_ohem_keeps_a_least_share_of_the_hardest() -> None:
    # 0.6 of three labelled pixels are two, though the second is above the threshold.
    image, mask = logits(0.9, 0.5, 0.75, 0.01), torch.tensor([[[0, 0, 0, VOID]]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert ohem_loss(image, mask, threshold=0.1, kept=0.6).item() == pytest.approx(expected)
    assert ohem_loss(image, mask, threshold=0.0, kept=0.0).item() == pytest.approx(
        math.log(2)
    )  # one at least


def test_ohem_of_everything_is_the_hard_loss() -> None:
    image, mask = torch.randn(2, 4, 5, 5), torch.randint(0, 4, (2, 5, 5))
    mask[1, :2] = VOID
    torch.testing.assert_close(ohem_loss(image, mask, kept=1.0), hard_loss(image, mask))


def test_dice_is_the_mean_over_the_classes_present() -> None:
    # Class 0: 2 * 0.5 / (0.75 + 1) = 4/7; class 1: 2 * 0.75 / (1.25 + 1) = 2/3. The void pixel is in no sum.
    image, mask = logits(0.5, 0.25, 0.99), torch.tensor([[[0, 1, VOID]]])
    assert dice_loss(image, mask).item() == pytest.approx(1 - (4 / 7 + 2 / 3) / 2)
    # Of class 0 alone: 2 * 0.75 / (0.75 + 2).
    assert dice_loss(logits(0.5, 0.25), torch.tensor([[[0, 0]]])).item() == pytest.approx(1 - 1.5 / 2.75)


def test_lovasz_weighs_the_sorted_errors_by_the_growth_of_the_jaccard_distance() -> None:
    # Class 0: errors 0.5 (its own pixel) and 0.25: distances 1 and 1, so 0.5. Class 1: errors 0.5 (not its
    # own) and 0.25 (its own): distances 1/2 and 1, so 0.25 + 0.125. Their mean.
    image, mask = logits(0.5, 0.25, 0.99), torch.tensor([[[0, 1, VOID]]])
    assert lovasz_loss(image, mask).item() == pytest.approx((0.5 + 0.375) / 2)


def test_lovasz_of_certain_answers_is_one_minus_the_mean_iou() -> None:
    # Truth 0 0 0 1 and prediction 0 0 1 1: IoU 2/3 and 1/2.
    image = torch.tensor([[9e3, 9e3, -9e3, -9e3], [-9e3, -9e3, 9e3, 9e3]]).view(1, 2, 1, 4)
    loss = lovasz_loss(image, torch.tensor([[[0, 0, 0, 1]]]))
    assert loss.item() == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)


def test_jaccard_steps_add_up_to_one() -> None:
    # Two of the class among four: distances 1/2, 2/3, 1, 1 (worst first).
    steps = jaccard_steps(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(steps, torch.tensor([1 / 2, 1 / 6, 1 / 3, 0.0]))
