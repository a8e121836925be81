"""The mask of logits that are never upsampled whole."""

import numpy as np
import pytest
import torch

from segdistill.data.labels import VOID
from segdistill.inference import segment
from segdistill.inference.segment import Decide, class_mask, decide_above, largest_class, resize_logits

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


@pytest.mark.parametrize("decide", [largest_class, decide_above(1e-9, 1.0)])
@pytest.mark.parametrize("classes", [1, 2, 21])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1), (1, 1)), ((1, 1), (7, 5)),
        ((1, 9), (1, 9)), ((1, 9), (1, 30)), ((1, 9), (8, 9)), ((1, 9), (5, 31)), ((1, 9), (1, 4)),
        ((9, 1), (9, 1)), ((9, 1), (30, 1)), ((9, 1), (9, 8)), ((9, 1), (31, 5)), ((9, 1), (4, 1)),
        ((12, 16), (6, 8)), ((12, 16), (5, 7)), ((12, 16), (1, 16)), ((12, 16), (12, 1)), ((12, 16), (1, 1)),
        ((12, 16), (5, 40)), ((12, 16), (40, 5)), ((2, 2), (3, 3)),
    ],
)  # fmt: skip
def test_edges_are_those_of_interpolate_and_argmax(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    size: tuple[int, int],
    classes: int,
    decide: Decide,
) -> None:
    """Maps of one row or column, one class, and masks smaller than the map: PyTorch's own, pixel by pixel."""
    monkeypatch.setattr(segment, "STRIP_BYTES", 4 * classes * size[1] * 2)  # strips of two rows
    logits = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(2))
    whole = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    mask = class_mask(logits, size, decide)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    margin = whole.topk(2, dim=0).values.diff(dim=0)[0].abs() if classes > 1 else torch.ones(size)
    clear = (margin > 1e-4).numpy()
    assert clear.mean() > 0.9
    assert np.array_equal(mask[clear], whole.argmax(dim=0).numpy()[clear])


@pytest.mark.parametrize("size", [(90, 121), (31, 41), (17, 300)])
def test_regions_are_those_of_upsampled_logits(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Of logits with large regions, as networks give them, most pixels are not blended."""
    monkeypatch.setattr(segment, "STRIP_BYTES", 4 * 6 * 121 * 7)
    rough = torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    logits = resize_logits(rough, (31, 41))[0]
    assert segment._uniform_cells(logits)[1].float().mean() > 0.7
    whole = resize_logits(logits[None], size)[0]
    best, second = whole.topk(2, dim=0).values
    clear = (best - second > 1e-4).numpy()
    for layout in (logits, logits[None].contiguous(memory_format=torch.channels_last)[0]):
        mask = class_mask(layout, size)
        assert np.array_equal(mask[clear], whole.argmax(dim=0).numpy()[clear])


def test_pixels_below_the_confidence_are_void() -> None:
    """Logits that differ by log 3: a probability of 3/4, at temperature 2 of 1 / (1 + 3^-0.5) = 0.634."""
    logits = torch.tensor([0.0, 1.0986123]).view(2, 1, 1).expand(2, 2, 3)
    for confidence, temperature, index in (
        (0.74, 1.0, 1), (0.76, 1.0, VOID), (0.63, 2.0, 1), (0.64, 2.0, VOID),
    ):  # fmt: skip
        for size in ((2, 3), (5, 4)):  # as they are, and upsampled
            mask = class_mask(logits, size, decide_above(confidence, temperature))
            assert mask.tolist() == np.full(size, index).tolist()
    assert decide_above(0, 1.0) is largest_class
