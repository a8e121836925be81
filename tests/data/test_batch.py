"""A batch on its way to the device: moved first, coloured and normalised after."""

import pytest
import torch

from segdistill.data.batch import Batch
from segdistill.data.cache.grid_crop import GridCrop

pytestmark = pytest.mark.unit


def test_images_are_normalised_on_the_way_to_the_device() -> None:
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    mask = torch.full((1, 1, 1), 255, dtype=torch.uint8)
    batch = Batch(image, mask, mask > 0, ["a"]).to(torch.device("cpu")).normalized()
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(batch.image.flatten(), torch.tensor(expected))
    assert (batch.mask.item(), batch.id) == (255, ["a"])


def test_moving_a_batch_changes_nothing_in_it() -> None:
    """`to` moves every tensor, none of which may stay behind, and neither colours nor normalises."""
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    mask, values = torch.ones(2, 2, 2, dtype=torch.uint8), torch.ones(2, 5, 2, 2)
    batch = Batch(
        image, mask, mask > 0, ["a", "b"], teacher_logits=values, target_b=mask, lam=torch.ones(2),
        teacher_features=values, colour=torch.ones(2, 4), teacher_grid=GridCrop(values, values, values),
    )  # fmt: skip
    same = batch.to(torch.device("cpu"))
    assert same.image is image
    assert same.teacher_grid is not None
    assert same.teacher_grid.rows is values
    away = batch.to(torch.device("meta"))
    tensors = {name: value for name, value in vars(away).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) == 8
    assert away.teacher_grid is not None
    assert {value.device.type for value in (*tensors.values(), *away.teacher_grid)} == {"meta"}
    assert {name: value.dtype for name, value in tensors.items()} == {
        name: value.dtype for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    }


def test_a_batch_is_normalised_once() -> None:
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    batch = Batch(image, image[:, 0], image[:, 0] == 0, ["a"]).normalized(torch.channels_last)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.mask.dtype, batch.colour) == (torch.int64, None)
    with pytest.raises(AssertionError, match="normalised already"):
        batch.normalized()


def test_grids_of_different_sizes_are_interpolated_together() -> None:
    """As each of them alone: the points that make them alike weigh nothing."""
    crops = [
        GridCrop(torch.randn(3, h, w).half(), torch.rand(8, h), torch.rand(8, w)) for h, w in ((2, 5), (4, 3))
    ]
    together = GridCrop.stack(crops).interpolate()
    assert together.shape == (2, 3, 8, 8)
    for crop, found in zip(crops, together, strict=True):
        torch.testing.assert_close(found, crop.interpolate(), atol=2e-3, rtol=2e-3)
