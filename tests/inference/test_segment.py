"""The mask of logits that are never upsampled whole."""

import numpy as np
import pytest
import torch

from segdistill.inference import segment
from segdistill.inference.segment import class_mask, resize_logits

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("size", [(48, 80), (7, 9), (1, 1), (13, 20), (200, 3)])
def test_masks_are_those_of_upsampled_logits(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(segment, "STRIP_BYTES", 4 * 5 * 80 * 3)  # strips of a few rows
    logits = torch.randn(5, 13, 20, generator=torch.Generator().manual_seed(0))
    whole = resize_logits(logits[None], size)[0]
    best, second = whole.topk(2, dim=0).values
    clear = (best - second > 1e-4).numpy()
    assert clear.mean() > 0.99
    mask = class_mask(logits, size)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask[clear], whole.argmax(dim=0).numpy()[clear])
