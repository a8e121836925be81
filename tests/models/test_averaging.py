"""Means of probabilities, against numbers computed by hand."""

import pytest
import torch

from segdistill.models.averaging import mean_probability

pytestmark = pytest.mark.unit


def logits(*probabilities: float, shift: float = 0.0) -> torch.Tensor:
    """1 x K x 1 x 1 logits of these probabilities."""
    return (torch.tensor(probabilities).log() + shift).view(1, -1, 1, 1)


def test_probabilities_are_averaged_with_relative_weights() -> None:
    mean = mean_probability([(3.0, logits(0.8, 0.1, 0.1)), (1.0, logits(0.2, 0.2, 0.6, shift=5.0))])
    # (3 * 0.8 + 0.2) / 4, (3 * 0.1 + 0.2) / 4, (3 * 0.1 + 0.6) / 4
    torch.testing.assert_close(mean.exp().flatten(), torch.tensor([0.65, 0.125, 0.225]))


def test_three_views_count_alike() -> None:
    mean = mean_probability((2.0, logits(p, 1 - p)) for p in (0.9, 0.6, 0.3))
    torch.testing.assert_close(mean.exp().flatten(), torch.tensor([0.6, 0.4]))


def test_one_view_keeps_its_logits() -> None:
    alone = logits(0.8, 0.1, 0.1, shift=5.0)
    assert mean_probability([(0.5, alone)]) is alone


def test_a_class_that_a_view_rules_out_stays_finite() -> None:
    sure = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    mean = mean_probability([(1.0, sure), (1.0, -sure)])
    torch.testing.assert_close(mean.exp().flatten(), torch.tensor([0.5, 0.5]))
