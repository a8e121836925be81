"""Bytes into pictures, and logits into masks, runs and answers."""

import io
import json
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segdistill.data.labels import LabelSet
from segdistill.inference.segment import class_mask, resize_logits
from segdistill.serving import pictures
from segdistill.serving.pictures import encode, open_picture, run_lengths

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 0, 200)))


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG file that claims a size; no pixels follow them."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_pictures_of_the_known_formats_are_opened(encoded: Callable[..., bytes], kind: str) -> None:
    picture = open_picture(encoded(kind=kind), 64 * 32)
    assert (picture.mode, picture.size) == ("RGB", (64, 32))
    red, green, _ = picture.getpixel((5, 5))  # type: ignore[misc]
    assert red > 240
    assert green < 15


def test_a_picture_is_turned_upright(encoded: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encoded(kind="JPEG", exif=exif), 10**6).size == (32, 64)


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"root:x:0:0", 415, "not a JPEG, PNG, WebP, BMP or TIFF image"),
        (b"%PDF-1.7", 415, "not a JPEG"),
        (b"\xff\xd8\xff broken", 422, "its header cannot be read"),
        (png_header(50, 50), 422, "cannot be decoded"),
        (png_header(101, 100), 413, "has 101x100, but 10,000 pixels are the most"),
        (png_header(60_000, 60_000), 413, "more pixels than can be decoded safely"),
    ],
    ids=["text", "pdf", "header", "no pixels", "large", "bomb"],
)
def test_what_is_no_picture_is_refused(data: bytes, status: int, error: str) -> None:
    with pytest.raises(HTTPException) as refused:
        open_picture(data, 10_000)
    assert refused.value.status_code == status
    assert error in refused.value.detail
    assert "\n" not in refused.value.detail


def test_formats_that_pillow_knows_besides_are_refused(encoded: Callable[..., bytes]) -> None:
    for kind in ("GIF", "PPM", "ICO"):
        with pytest.raises(HTTPException) as refused:
            open_picture(encoded(kind=kind), 10**6)
        assert refused.value.status_code == 415


def test_a_truncated_picture_is_refused(encoded: Callable[..., bytes]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        data = encoded(noise, kind)
        with pytest.raises(HTTPException) as refused:
            open_picture(data[: len(data) // 2], 10**6)
        assert refused.value.status_code == 422


@pytest.mark.parametrize("size", [(48, 80), (7, 9), (1, 1), (13, 20), (200, 3)])
def test_masks_are_those_of_enlarged_logits(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(pictures, "STRIP_BYTES", 4 * 5 * 80 * 3)  # strips of a few rows
    logits = torch.randn(5, 13, 20, generator=torch.Generator().manual_seed(0))
    whole = resize_logits(logits[None], size)[0]
    best, second = whole.topk(2, dim=0).values
    clear = (best - second > 1e-4).numpy()
    assert clear.mean() > 0.99
    mask = class_mask(logits, size)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask[clear], whole.argmax(dim=0).numpy()[clear])


def test_runs_are_starts_and_lengths_by_class() -> None:
    mask = np.array([[1, 1, 0], [0, 2, 2], [1, 2, 2]], dtype=np.uint8)
    assert run_lengths(mask) == {0: [2, 2], 1: [0, 2, 6, 1], 2: [4, 2, 7, 2]}


@given(st.integers(1, 6), st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_runs_give_the_mask_back(width: int, values: list[int]) -> None:
    values = values[: len(values) // width * width] or values[:1] * width
    mask = np.array(values, dtype=np.uint8).reshape(-1, width)
    again = np.full(mask.size, 255, dtype=np.uint8)
    for index, runs in run_lengths(mask).items():
        for start, length in zip(runs[::2], runs[1::2], strict=True):
            assert (again[start : start + length] == 255).all()
            again[start : start + length] = index
    assert np.array_equal(again.reshape(mask.shape), mask)


def test_answers_are_json_a_mask_or_an_overlay(picture: Image.Image) -> None:
    logits = torch.zeros(3, 1, 4)
    logits[1, 0, :1], logits[2, 0, 1:] = 1, 1
    body, kind = encode(logits, lambda: picture, (1, 4), LABELS, "json", {"network": 0.5})
    assert kind == "application/json"
    assert json.loads(body) == {
        "width": 4,
        "height": 1,
        "classes": [
            {"index": 2, "name": "green", "colour": [0, 0, 200], "pixels": 3, "share": 0.75, "runs": [1, 3]},
            {"index": 1, "name": "red", "colour": [200, 0, 0], "pixels": 1, "share": 0.25, "runs": [0, 1]},
        ],
        "seconds": {"network": 0.5},
    }
    body, kind = encode(logits, lambda: picture, (1, 4), LABELS, "mask", {})
    assert kind == "image/png"
    with Image.open(io.BytesIO(body)) as mask:
        assert mask.mode == "P"
        assert np.asarray(mask).tolist() == [[1, 2, 2, 2]]
        assert mask.convert("RGB").getpixel((3, 0)) == (0, 0, 200)
    body, _ = encode(logits, lambda: picture.resize((4, 1)), (1, 4), LABELS, "overlay", {})
    with Image.open(io.BytesIO(body)) as overlay:
        # Red (255, 0, 0) under (200, 0, 0): 0.45 * 255 + 0.55 * 200 = 224.75.
        assert overlay.getpixel((0, 0)) == (225, 0, 0)
