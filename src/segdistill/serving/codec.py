"""Decodes the image of a request, and encodes a network's logits as the body of a response.

K: classes, h, w: rows and columns of the network's input, H, W: those of the image.
"""

import io
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from fastapi import HTTPException, Request
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from segdistill.data.depth import refusal
from segdistill.data.images import EmbeddedBytes, OutOfMemoryError, decode_image
from segdistill.data.labels import LabelSet
from segdistill.inference.prediction import Prediction
from segdistill.inference.segment import class_mask
from segdistill.serving.schemas import Mask, MaskClass

ResponseFormat = Literal["mask", "json", "overlay"]

UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's decoders that clients may reach; it has fifty more, which fewer people use and check."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of the files of those formats."""

FORM_FIELD = "image"
"""The field of the form that holds the image file."""


class MemoryParser(MultiPartParser):
    """Starlette's parser of multipart forms, which never moves a file from memory to disk."""

    spool_max_size = 2**62


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """The content of a multipart request's image file; the name of the file is ignored.

    Raises:
        HTTPException: 413 once more than `max_bytes` have been received or are announced, 415 for another
            type of body, 400 for a broken form, 422 where the field is missing or empty.
    """
    too_large = HTTPException(413, f"the body is above {max_bytes:,} bytes, the most taken here")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, f"send multipart/form-data with the image in its field `{FORM_FIELD}`")

    async def limited() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise too_large
            yield chunk

    try:
        form = await MemoryParser(request.headers, limited(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    try:
        field = form.get(FORM_FIELD)
        if not isinstance(field, UploadFile):
            raise HTTPException(422, f"the form has no file in a field `{FORM_FIELD}`")
        content = await field.read()
    finally:
        await form.close()
    if not content:
        raise HTTPException(422, "the file is empty")
    return content


def decode_upload(data: bytes, max_pixels: int, bits: int | None = None) -> Image.Image:
    """The bytes of an image file as 8-bit RGB, upright, as `segdistill.data.images.read_image` gives it.

    Args:
        data: the content of the file.
        max_pixels: that are decoded.
        bits: per channel, of an image that has more than 8; None for what the file says, else 16.

    Raises:
        HTTPException: 413 for too many pixels (checked before decoding), 415 for a file that is no image of
            the known formats, 422 for a damaged one, 503 where memory is short.
    """
    try:
        with Image.open(io.BytesIO(data), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise _too_many(f"{image.width}x{image.height}", max_pixels)
            return decode_image(EmbeddedBytes(Path(), "the image", data), image, bits, limited=False)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many("more pixels than can be decoded safely", max_pixels) from None
    except UnidentifiedImageError:
        if reason := refusal(io.BytesIO(data)):
            raise HTTPException(422, f"the image cannot be read: {reason}") from None
        if data.startswith(MAGIC):
            raise HTTPException(422, "the image is damaged: its header cannot be read") from None
        raise HTTPException(415, "the file is not a JPEG, PNG, WebP, BMP or TIFF image") from None
    except HTTPException:
        raise
    except (MemoryError, OutOfMemoryError):
        raise HTTPException(503, "not enough memory for this image at present") from None
    except ValueError as error:  # of `decode_image`, or of a decoder
        raise HTTPException(422, " ".join(str(error).split())) from None
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise HTTPException(422, f"the image cannot be decoded: {reason}") from None


def _too_many(found: str, max_pixels: int) -> HTTPException:
    return HTTPException(413, f"the image has {found}, but {max_pixels:,} pixels are the most taken here")


def run_lengths(mask: np.ndarray) -> dict[int, list[int]]:
    """The runs of each class that occurs: start, length, start, length, ... in the mask read row by row."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    classes = flat[starts]
    pairs = np.stack([starts, lengths], axis=1)
    return {int(index): pairs[classes == index].ravel().tolist() for index in np.unique(classes)}


def describe_mask(mask: np.ndarray, labels: LabelSet, seconds: Mapping[str, float]) -> Mask:
    """The JSON form of an H x W mask, its largest class first.

    It is not validated: that would take longer than all the rest for a mask of many runs.
    """
    height, width = mask.shape
    pixels = np.bincount(mask.ravel(), minlength=len(labels))
    runs = run_lengths(mask)
    classes = [
        MaskClass.model_construct(
            index=index,
            name=labels.names[index],
            colour=labels.palette[index],
            pixels=int(pixels[index]),
            share=float(pixels[index] / mask.size),
            runs=runs[index],
        )
        for index in sorted(runs, key=lambda index: (-pixels[index], index))
    ]
    return Mask.model_construct(width=width, height=height, classes=classes, seconds=dict(seconds))


def encode_mask(
    logits: Tensor,
    image: Callable[[], Image.Image],
    size: tuple[int, int],
    labels: LabelSet,
    form: ResponseFormat,
    seconds: Mapping[str, float],
) -> tuple[bytes, str]:
    """The body of a response, and its media type.

    Args:
        logits: K x h x w.
        image: decodes the request's image again; only the overlay needs it.
        size: H, W.
        labels: the K classes.
        form: of the response.
        seconds: what the steps before took, for the JSON.
    """
    mask = class_mask(logits, size)
    if form == "json":
        return describe_mask(mask, labels, seconds).model_dump_json().encode(), "application/json"
    picture = image() if form == "overlay" else Image.new("RGB", (1, 1))
    prediction = Prediction(image=picture, mask=mask, probabilities=None, labels=labels)
    body = io.BytesIO()
    if form == "mask":
        prediction.palette_mask().save(body, "PNG", compress_level=6)
    else:
        prediction.overlay().save(body, "PNG", compress_level=1)
    return body.getvalue(), "image/png"
