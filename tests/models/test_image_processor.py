"""What image processors do to pixels, as mean, std and sizes: compared with their own output."""

import pytest

pytest.importorskip("transformers")

import torch
from tiny_transformers import hf, picture, to_pil

from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise
from segdistill.models.image_processor import InputForm, input_form
from segdistill.models.renormalize import Renormalize

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ],
)
def test_images_become_what_the_processor_makes_of_them(settings: dict[str, object]) -> None:
    image = picture(32, 48)
    processor = hf.SegformerImageProcessor(do_resize=False, **settings)
    expected = processor(images=to_pil(image), return_tensors="pt")["pixel_values"]
    form = input_form(processor)
    found = Renormalize(form.mean, form.std)(normalise(image[None]))
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    assert form.sides is form.long_side is None


def test_a_network_that_takes_bgr() -> None:
    image = picture(32, 48)
    processor = hf.MobileViTImageProcessor(do_resize=False, do_center_crop=False)
    form = input_form(processor)
    assert form.reverse_channels
    expected = processor(images=to_pil(image), return_tensors="pt")["pixel_values"]
    found = Renormalize(form.mean, form.std)(normalise(image[None])).flip(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "sides", "long_side"),
    [
        ({"height": 480, "width": 640}, (480, 640), 640),
        ({"shortest_edge": 480}, None, 640),  # of a photograph of 4:3
        ({"shortest_edge": 640, "longest_edge": 640}, None, 640),
    ],
)
def test_the_long_side_that_images_get(
    size: dict[str, int], sides: tuple[int, int] | None, long_side: int
) -> None:
    form = input_form(hf.EomtImageProcessor(size=size))
    assert form == InputForm(sides=sides, long_side=long_side)
    assert (form.mean, form.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_statistics_of_no_rgb_image_are_refused() -> None:
    processor = hf.SegformerImageProcessor(image_mean=[0.5], image_std=[0.5])
    with pytest.raises(ValueError, match=r"mean \[0.5\].* are not those of RGB images"):
        input_form(processor)
