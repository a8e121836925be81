"""Random crops: image and mask stay together, void stays void, padding is told apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segdistill.config.train import AugmentConfig
from segdistill.data import transforms
from segdistill.data.labels import VOID
from segdistill.data.transforms import (
    Crop,
    apply_crop,
    downscale,
    draw_crop,
    normalise,
    resize_image,
    resize_long_side,
    resize_mask,
    scaled_size,
    to_tensor,
)

pytestmark = pytest.mark.unit


def coded(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose red and green are 8 times row and column, and a mask that repeats the row."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    # Channels last, as the readers yield it: of other uint8 images torch's CPU kernel makes no 1 x 1.
    image = torch.stack([8 * rows, 8 * columns, 0 * rows], dim=-1).to(torch.uint8).permute(2, 0, 1)
    return image, rows.to(torch.uint8)


@given(
    height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(1, 24), seed=st.integers(0, 10**6),
    scale=st.tuples(st.floats(0.3, 1), st.floats(1, 3)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_crop_is_whole(
    height: int, width: int, size: int, seed: int, scale: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    crop = draw_crop(height, width, size, AugmentConfig(scale=scale), rng)
    assert 0 <= crop.top <= crop.top + crop.height <= height
    assert 0 <= crop.left <= crop.left + crop.width <= width
    image, mask, valid = apply_crop(*coded(height, width), crop)
    assert image.shape == (3, size, size)
    assert mask.shape == valid.shape == (size, size)
    assert valid.sum() == crop.out_height * crop.out_width
    assert (mask[~valid] == VOID).all()
    assert (mask[valid] != VOID).all()


@given(
    height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(1, 60), seed=st.integers(0, 10**6),
    scale=st.floats(1, 4), stretch=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_mask_goes_where_the_image_goes(
    height: int, width: int, size: int, seed: int, scale: float, stretch: bool
) -> None:
    image, rows = coded(height, width)
    columns = (image[1] // 8).to(torch.uint8)
    augment = AugmentConfig(scale=(scale, scale), stretch=stretch)
    crop = draw_crop(height, width, size, augment, np.random.default_rng(seed))
    for channel, code in ((0, rows), (1, columns)):
        seen, mask, valid = apply_crop(image, code, crop)
        distance = (seen[channel].float() / 8 - mask.float())[valid].abs().max()
        # Nearest is half a source pixel from bilinear at most; shrinking blurs over further pixels.
        shrink = max(1, crop.height / crop.out_height, crop.width / crop.out_width)
        assert distance <= (0.6 if shrink == 1 else 0.6 + shrink / 2)


def test_a_crop_of_the_true_scale_moves_pixels_and_changes_none() -> None:
    crop = Crop(
        size=5, top=2, left=1, height=3, width=4, out_height=3, out_width=4, pad_top=1, pad_left=0, flip=True
    )  # fmt: skip
    image, mask, valid = apply_crop(*coded(8, 9), crop)
    assert image[0, 1:4, 0].tolist() == [16, 24, 32]  # rows 2 to 4
    assert image[1, 1, :4].tolist() == [32, 24, 16, 8]  # columns 4 to 1: mirrored
    assert mask[1:4, 0].tolist() == [2, 3, 4]
    assert valid[1:4, :4].all()
    assert valid.sum() == 12
    assert image[:, 0, 0].tolist() == [124, 116, 104]  # padding is ImageNet's mean colour


def test_masks_are_resized_without_mixing_classes() -> None:
    image, mask = torch.zeros(3, 6, 6, dtype=torch.uint8), torch.zeros(6, 6, dtype=torch.uint8)
    mask[2:4] = VOID
    mask[4:] = 20
    crop = Crop(
        size=17,
        top=0,
        left=0,
        height=6,
        width=6,
        out_height=17,
        out_width=17,
        pad_top=0,
        pad_left=0,
        flip=False,
    )
    assert set(apply_crop(image, mask, crop)[1].unique().tolist()) == {0, 20, VOID}


def test_stretch_takes_the_whole_image() -> None:
    crop = draw_crop(10, 30, 8, AugmentConfig(stretch=True, flip=0), np.random.default_rng(0))
    assert (crop.height, crop.width, crop.out_height, crop.out_width, crop.flip) == (10, 30, 8, 8, False)


def test_flips_come_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    flips = sum(draw_crop(8, 8, 8, AugmentConfig(flip=0.25), rng).flip for _ in range(2000))
    assert 430 < flips < 570


def test_normalise_uses_imagenets_statistics() -> None:
    white = normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(
        white, torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )


@pytest.mark.parametrize(
    ("side", "expected"), [(None, (20, 50)), (50, (20, 50)), (25, (10, 25)), (100, (40, 100))]
)
def test_resizing_keeps_the_proportions(side: int | None, expected: tuple[int, int]) -> None:
    assert resize_long_side(torch.zeros(3, 20, 50, dtype=torch.uint8), side).shape[1:] == expected


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("size", [(17, 29), (40, 61), (90, 61), (1, 3), (20, 51)])
def test_pixels_are_those_of_torchvision(
    size: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability = (lambda: "AVX2") if native else (lambda: "DEFAULT")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", capability)
    monkeypatch.setattr(transforms.platform, "machine", lambda: "x86_64")
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 61, 3), dtype=np.uint8))
    image = to_tensor(photo)
    assert torch.equal(image, F.pil_to_tensor(photo))
    bilinear = InterpolationMode.BILINEAR
    for source in (image, image.contiguous(), torch.stack([image, image.flip(-1)])):
        expected = F.resize(source, list(size), bilinear, antialias=True)
        resized = resize_image(source, size)
        assert torch.equal(resized, expected)
        assert resized.stride() == expected.stride()
        floats = F.normalize(
            F.to_dtype(expected, torch.float32, scale=True),
            list(transforms.IMAGENET_MEAN),
            list(transforms.IMAGENET_STD),
        )
        assert torch.equal(normalise(resized), floats)
    mask = torch.from_numpy(rng.integers(0, 256, (40, 61), dtype=np.uint8))
    nearest = F.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)[0]
    assert torch.equal(resize_mask(mask, size), nearest)


@given(low=st.floats(0.3, 1), high=st.floats(1, 3), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_scale_stays_in_its_range_and_the_proportions_are_kept(
    low: float, high: float, seed: int
) -> None:
    crop = draw_crop(400, 300, 100, AugmentConfig(scale=(low, high)), np.random.default_rng(seed))
    vertical, horizontal = crop.out_height / crop.height, crop.out_width / crop.width
    assert vertical == pytest.approx(horizontal, rel=0.05)
    assert 0.97 * low <= vertical <= 1.03 * high


def test_a_smaller_image_is_padded_and_lies_anywhere() -> None:
    rng = np.random.default_rng(0)
    crops = [draw_crop(2, 3, 4, AugmentConfig(scale=(1, 1)), rng) for _ in range(100)]
    assert {(v.height, v.width, v.out_height, v.out_width) for v in crops} == {(2, 3, 2, 3)}
    assert {v.pad_top for v in crops} == {0, 1, 2}
    assert {v.pad_left for v in crops} == {0, 1}


@pytest.mark.parametrize(("flip", "expected"), [(0.0, {False}), (1.0, {True})])
def test_a_flip_can_be_ruled_out_or_certain(flip: float, expected: set[bool]) -> None:
    rng = np.random.default_rng(0)
    assert {draw_crop(8, 8, 8, AugmentConfig(flip=flip), rng).flip for _ in range(100)} == expected


def test_reducing_keeps_classes_apart_and_small_samples_as_they_are() -> None:
    image, mask = coded(20, 30)
    mask = torch.where(mask < 10, 3, VOID).to(torch.uint8)
    seen, labels = downscale(image, mask, 15)
    assert (seen.shape, labels.shape) == ((3, 10, 15), (10, 15))
    assert labels[:, 0].tolist() == [3] * 5 + [VOID] * 5
    assert torch.equal(seen, resize_long_side(image, 15))
    assert seen.stride() == (1, 45, 3)  # channels last in memory
    assert all(a is b for a, b in zip(downscale(image, mask, 30), (image, mask), strict=True))


@pytest.mark.parametrize(
    ("size", "scale", "stride", "expected"),
    [
        ((240, 320), 1.6, None, (384, 512)),
        ((240, 320), 1.6, 16, (385, 513)),
        ((240, 320), 2.0, 16, (481, 641)),
        ((385, 513), 1.0, 16, (385, 513)),
        ((240, 320), 1.0, 16, (241, 321)),
        ((240, 320), 1.0, 8, (241, 321)),
        ((213, 320), 1.6, 16, (337, 513)),  # 340.8 is nearer to 337 than to 353
        ((64, 64), 1.6, 16, (97, 97)),  # 102.4: nearer to 97 than to 113
        ((3, 1), 1.0, 16, (17, 17)),
        ((3, 1), 0.1, None, (1, 1)),
    ],
)
def test_sides_of_an_input(
    size: tuple[int, int], scale: float, stride: int | None, expected: tuple[int, int]
) -> None:
    assert scaled_size(size, scale, stride) == expected
