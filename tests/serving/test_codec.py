"""Decoding of request bodies, and encoding of logits as masks, runs and overlays."""

import asyncio
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deep_images import tiff
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segdistill.data.labels import LabelSet
from segdistill.serving.codec import decode_upload, describe_mask, encode_mask, read_upload, run_lengths
from segdistill.serving.schemas import Mask

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 0, 200)))


FORM = "multipart/form-data; boundary=b"


def part(name: str, content: bytes, filename: str = "x") -> bytes:
    """A file field of a form."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def upload(body: bytes, kind: str = FORM, *, announced: int | None = None, chunk: int = 1000) -> bytes:
    """What `read_upload` gives for a request that arrives in chunks, with 10,000 bytes as the limit."""
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    messages = iter(
        {"type": "http.request", "body": piece, "more_body": number + 1 < len(chunks)}
        for number, piece in enumerate(chunks)
    )

    async def receive() -> Any:
        return next(messages)

    headers = [(b"content-type", kind.encode())]
    if announced is not None:
        headers.append((b"content-length", str(announced).encode()))
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_upload(request, 10_000))


def test_the_file_of_a_form_is_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(self: object) -> None:
        raise AssertionError("a file moved to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    monkeypatch.setattr("starlette.formparsers.MultiPartParser.spool_max_size", 100)
    content = bytes(range(256)) * 20
    for filename in ("photo.png", "../../etc/passwd", "/etc/passwd", "CON", "x" * 500):
        assert upload(part("image", content, filename) + b"--b--\r\n") == content


@pytest.mark.parametrize(
    ("body", "kind", "status", "error"),
    [
        (b"\x89PNG", "image/png", 415, "send multipart/form-data with the image in its field `image`"),
        (b"garbage", FORM, 400, "cannot be read"),
        (b"x", "multipart/form-data", 400, "boundary"),
        (part("picture", b"x") + b"--b--\r\n", FORM, 422, "no file in a field `image`"),
        (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nz\r\n--b--\r\n', FORM, 422,
         "no file in a field `image`"),
        (2 * part("image", b"x") + b"--b--\r\n", FORM, 400, "Too many files"),
        (part("image", b"") + b"--b--\r\n", FORM, 422, "is empty"),
        (part("image", bytes(10_000)) + b"--b--\r\n", FORM, 413, "above 10,000 bytes"),
    ],
    ids=["type", "garbage", "no boundary", "other field", "text field", "two files", "empty", "large"],
)  # fmt: skip
def test_broken_and_large_forms_are_refused(body: bytes, kind: str, status: int, error: str) -> None:
    with pytest.raises(HTTPException) as refused:
        upload(body, kind)
    assert refused.value.status_code == status
    assert error in refused.value.detail


def test_a_body_announced_as_too_large_is_refused_unread() -> None:
    with pytest.raises(HTTPException) as refused:
        upload(part("image", b"x") + b"--b--\r\n", announced=10_001)
    assert refused.value.status_code == 413


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG file that claims a size; no pixels follow them."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_images_of_the_known_formats_are_decoded(encoded: Callable[..., bytes], kind: str) -> None:
    picture = decode_upload(encoded(kind=kind), 64 * 32)
    assert (picture.mode, picture.size) == ("RGB", (64, 32))
    red, green, _ = picture.getpixel((5, 5))  # type: ignore[misc]
    assert red > 240
    assert green < 15


@pytest.mark.parametrize(
    ("channels", "tags", "error"),
    [
        (5, {}, "the image cannot be read: it has 5 channels"),
        (5, {338: [0, 0]}, "the image cannot be read: it has 5 channels"),
    ],
)
def test_channels_and_depths_that_cannot_be_read_are_named(
    tmp_path: Path, channels: int, tags: dict[int, list[int]], error: str
) -> None:
    kind = np.uint16 if 281 in tags else np.uint8
    tiff(tmp_path / "a.tif", np.zeros((2, 3, channels), dtype=kind), tags=tags)
    with pytest.raises(HTTPException) as refused:
        decode_upload((tmp_path / "a.tif").read_bytes(), 100)
    assert refused.value.status_code == 422
    assert error in refused.value.detail


def test_grey_of_12_bits_is_scaled(tmp_path: Path) -> None:
    pixels = np.array([[[0], [2048], [4095]]], dtype=np.uint16)
    tiff(tmp_path / "a.tif", pixels, photometric=1, tags={281: [4095]})
    assert np.asarray(decode_upload((tmp_path / "a.tif").read_bytes(), 100))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]


def test_an_image_is_turned_upright(encoded: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_upload(encoded(kind="JPEG", exif=exif), 10**6).size == (32, 64)


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
def test_what_is_no_image_is_refused(data: bytes, status: int, error: str) -> None:
    with pytest.raises(HTTPException) as refused:
        decode_upload(data, 10_000)
    assert refused.value.status_code == status
    assert error in refused.value.detail
    assert "\n" not in refused.value.detail


def test_other_formats_of_pillow_are_refused(encoded: Callable[..., bytes]) -> None:
    for kind in ("GIF", "PPM", "ICO"):
        with pytest.raises(HTTPException) as refused:
            decode_upload(encoded(kind=kind), 10**6)
        assert refused.value.status_code == 415


def test_a_truncated_image_is_refused(encoded: Callable[..., bytes]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        data = encoded(noise, kind)
        with pytest.raises(HTTPException) as refused:
            decode_upload(data[: len(data) // 2], 10**6)
        assert refused.value.status_code == 422


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


def test_memory_that_runs_out_is_not_blamed_on_the_image(
    encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("segdistill.serving.codec.Image.open", fail)
    with pytest.raises(HTTPException, match="not enough memory") as refused:
        decode_upload(encoded(), 10**6)
    assert refused.value.status_code == 503


# Encoding


@pytest.fixture
def logits() -> torch.Tensor:
    """3 x 1 x 4: red, green, green, green."""
    logits = torch.zeros(3, 1, 4)
    logits[1, 0, :1], logits[2, 0, 1:] = 1, 1
    return logits


def test_json_has_the_classes_largest_first(logits: torch.Tensor, picture: Image.Image) -> None:
    body, kind = encode_mask(logits, lambda: picture, (1, 4), LABELS, "json", {"network": 0.5})
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


def test_json_fits_its_model() -> None:
    """It is made without validation, and must stand it."""
    mask = np.random.default_rng(0).integers(0, 3, (9, 13), dtype=np.uint8)
    made = describe_mask(mask, LABELS, {"decode": 0.1, "network": 0.2})
    assert Mask.model_validate_json(made.model_dump_json(), strict=True).model_dump() == made.model_dump()
    assert sum(found.share for found in made.classes) == pytest.approx(1)


def test_a_mask_is_a_palette_png(logits: torch.Tensor, picture: Image.Image) -> None:
    body, kind = encode_mask(logits, lambda: picture, (1, 4), LABELS, "mask", {})
    assert kind == "image/png"
    with Image.open(io.BytesIO(body)) as mask:
        assert mask.mode == "P"
        assert np.asarray(mask).tolist() == [[1, 2, 2, 2]]
        assert mask.convert("RGB").getpixel((3, 0)) == (0, 0, 200)


def test_an_overlay_is_the_image_under_its_colours(logits: torch.Tensor, picture: Image.Image) -> None:
    body, kind = encode_mask(logits, lambda: picture.resize((4, 1)), (1, 4), LABELS, "overlay", {})
    assert kind == "image/png"
    with Image.open(io.BytesIO(body)) as overlay:
        # Red (255, 0, 0) under (200, 0, 0): 0.45 * 255 + 0.55 * 200 = 224.75.
        assert overlay.getpixel((0, 0)) == (225, 0, 0)
