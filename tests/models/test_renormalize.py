"""Images for a network that was trained with other statistics than ImageNet's."""

import pytest
import torch

from segdistill.data.transforms import normalise
from segdistill.models.renormalize import Renormalize

pytestmark = pytest.mark.unit


def test_images_get_the_statistics_of_the_network() -> None:
    pixels = torch.tensor([0, 64, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    image = Renormalize((0.5, 0.4, 0.3), (0.5, 0.2, 0.1))(normalise(pixels))
    expected = torch.tensor([-1.0, (64 / 255 - 0.4) / 0.2, 7.0])
    torch.testing.assert_close(image.flatten(), expected)


def test_with_imagenets_own_nothing_changes() -> None:
    image = torch.randn(1, 3, 2, 2)
    assert Renormalize()(image) is image
