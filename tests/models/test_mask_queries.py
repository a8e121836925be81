"""Masks and their classes as logits, worked out by hand."""

import math

import pytest
import torch

from segdistill.models.mask_queries import FLOOR, class_scores, score_logits

pytestmark = pytest.mark.unit


def test_scores_are_the_sum_over_queries_of_class_times_mask() -> None:
    # Two queries of two classes and "no object": 0.5, 0.25, 0.25 and 0.2, 0.4, 0.4.
    classes = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]]).log() + 7  # softmax takes no notice
    masks = torch.tensor([[[[0.5, 0.0]], [[0.25, 1.0]]]]).logit().clamp(-50, 50)  # 1 x Q x 1 x 2
    found = class_scores(classes, masks)
    # At the first pixel 0.5 * 0.5 + 0.2 * 0.25 = 0.3 and 0.25 * 0.5 + 0.4 * 0.25 = 0.225, then 0.2 and 0.4.
    torch.testing.assert_close(found, torch.tensor([[[[0.3, 0.2]], [[0.225, 0.4]]]]))


def test_logits_give_each_class_its_share_and_have_a_floor() -> None:
    scores = torch.tensor([0.3, 0.1, 0.0]).view(1, 3, 1, 1)
    logits = score_logits(scores)
    torch.testing.assert_close(
        logits.softmax(dim=1).flatten()[:2], torch.tensor([0.75, 0.25]), atol=1e-5, rtol=0
    )
    assert float(logits.min()) == pytest.approx(math.log(FLOOR))
