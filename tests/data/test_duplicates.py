"""Images that two splits have in common: copies, and what hardly differs from a copy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from segdistill.data.duplicates import NEAR, Fingerprint, difference_hash, find_duplicates, fingerprint

pytestmark = pytest.mark.unit


def picture(seed: int) -> Image.Image:
    """Soft blobs: what differs between two of them are whole regions, as in photographs."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)


def take(name: str, image: Image.Image, file: str = "") -> Fingerprint:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return fingerprint(name, file or name, pixels)


def saved_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(0.9).resize((80, 60)).save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def test_the_hash_is_that_of_a_hand_made_picture() -> None:
    """Brightness grows to the right everywhere, and downwards nowhere."""
    ramp = Image.fromarray(np.tile(np.arange(0, 180, 20, dtype=np.uint8), (9, 1)))
    assert difference_hash(ramp) == b"\xff" * 8 + b"\x00" * 8
    assert difference_hash(ramp.rotate(180)) == b"\x00" * 16
    assert difference_hash(Image.new("RGB", (50, 40), "blue")) is None


def test_copies_and_near_copies_are_found() -> None:
    others = [take(f"train{seed}", picture(seed)) for seed in range(40)]
    images = [
        take("copy", picture(7)),
        take("own", picture(99)),
        take("smaller", saved_again(picture(3))),
        take("listed twice", picture(8), "train8"),
    ]
    copy, near = find_duplicates(images, others)
    assert copy == ("copy", "train7", None)
    assert near[:2] == ("smaller", "train3")
    assert near.distance is not None
    assert 0 <= near.distance <= NEAR


def test_plain_pictures_are_equal_or_different_but_never_alike() -> None:
    others = [take("white", Image.new("RGB", (30, 20), "white"))]
    white = take("another white", Image.new("RGB", (30, 20), "white"))
    larger = take("a larger white", Image.new("RGB", (20, 30), "white"))
    assert list(find_duplicates([white, larger], others)) == [("another white", "white", None)]
    assert list(find_duplicates([larger], [])) == []
