"""Colours of training crops: as torchvision makes them one by one, in the order and as often as asked."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from segdistill.config.train import AugmentConfig
from segdistill.data.colour import blur, draw_colour, recolour

pytestmark = pytest.mark.unit


def muted(count: int = 3, side: int = 5, seed: int = 0) -> torch.Tensor:
    """Images whose values stay between 0 and 1 however they are recoloured here."""
    return 0.4 + 0.2 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def colours(*each: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(each)


def test_each_image_gets_what_torchvision_gives_it_step_by_step() -> None:
    image, colour = muted(), colours((1.2, 0.7, 1.5, 0), (0.8, 1.3, 0.2, 0), (1, 1, 1, 0))
    found = recolour(image, colour)
    for seen, plain, (brightness, contrast, saturation, _) in zip(found, image, colour.tolist(), strict=True):
        expected = F.adjust_brightness(plain, brightness)
        expected = F.adjust_contrast(expected, contrast)
        torch.testing.assert_close(seen, F.adjust_saturation(expected, saturation), atol=2e-4, rtol=0)


def test_a_third_of_a_turn_moves_each_colour_to_the_next() -> None:
    image = muted(1)
    turned = recolour(image, colours((1, 1, 1, 1 / 3)))
    torch.testing.assert_close(turned, image.roll(1, dims=1))
    grey = image.mean(dim=1, keepdim=True).expand_as(image)
    torch.testing.assert_close(recolour(grey, colours((1, 1, 1, 0.2))), grey)


def test_without_saturation_only_luma_is_left() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close(recolour(red, colours((1, 1, 0, 0))), torch.full((1, 3, 1, 1), 0.299))


def test_what_would_be_brighter_than_white_is_white() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert recolour(image, colours((3, 1, 1, 0), (1, 3, 1, 0.4))).max() == 1


def test_strengths_are_the_ranges_of_what_is_drawn() -> None:
    rng, augment = np.random.default_rng(0), AugmentConfig(jitter=0.2, hue=0.1, grey=0.25)
    drawn = torch.stack([draw_colour(augment, rng) for _ in range(1000)])
    grey = drawn[:, 2] == 0
    assert 200 < grey.sum() < 300
    for column, (low, high) in zip(drawn[~grey].T, [(0.8, 1.2)] * 3 + [(-0.1, 0.1)], strict=True):
        assert low <= column.min() < low + 0.01
        assert high - 0.01 < column.max() <= high


def test_colour_that_is_switched_off_changes_nothing_and_draws_no_number() -> None:
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    colour = draw_colour(AugmentConfig(jitter=0), first)
    assert first.random() == second.random()
    torch.testing.assert_close(recolour(muted(1), colour[None]), muted(1))


def test_a_crop_is_blurred_as_often_as_asked() -> None:
    image, rng = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), np.random.default_rng(0)
    crops = [blur(image, AugmentConfig(blur=0.25), rng) for _ in range(400)]
    assert 70 < sum(not torch.equal(crop, image) for crop in crops) < 130
    assert blur(image, AugmentConfig(blur=0), rng) is image
