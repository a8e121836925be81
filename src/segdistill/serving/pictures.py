"""Bytes of a request into a picture, and the logits of a network into the bytes of an answer.

K: classes, h, w: rows and columns that the network saw, H, W: those of the picture.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from fastapi import HTTPException
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from segdistill.data.images import upright_rgb
from segdistill.data.labels import LabelSet
from segdistill.inference.prediction import Prediction
from segdistill.inference.segment import class_mask

Format = Literal["mask", "json", "overlay"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow may take a picture for; it knows fifty more, rarely used and rarely looked at."""

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of the files of those formats."""


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """The bytes of an image file as 8-bit RGB, upright, as `segdistill.data.images.read_image` gives it.

    Raises:
        HTTPException: 413 for too many pixels (looked up before decoding), 415 for what is no image of the
            known formats, 422 for a damaged one, 503 where memory is short.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise _too_many(f"{image.width}x{image.height}", max_pixels)
            image.load()
            return upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many("more pixels than can be decoded safely", max_pixels) from None
    except UnidentifiedImageError:
        if data.startswith(BEGINNINGS):
            raise HTTPException(422, "the image is damaged: its header cannot be read") from None
        raise HTTPException(415, "the file is not a JPEG, PNG, WebP, BMP or TIFF image") from None
    except HTTPException:
        raise
    except MemoryError:
        raise HTTPException(503, "not enough memory for this image at present") from None
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


def describe(prediction: Prediction) -> dict[str, Any]:
    """The JSON form of a mask: its classes, largest first, with colours, shares and runs."""
    height, width = prediction.mask.shape
    runs, labels = run_lengths(prediction.mask), prediction.labels
    classes = []
    for name, share in prediction.shares.items():
        index = labels.names.index(name)
        classes.append(
            {
                "index": index,
                "name": name,
                "colour": list(labels.palette[index]),
                "pixels": sum(runs[index][1::2]),
                "share": share,
                "runs": runs[index],
            }
        )
    return {"width": width, "height": height, "classes": classes}


def encode(
    logits: Tensor,
    picture: Callable[[], Image.Image],
    size: tuple[int, int],
    labels: LabelSet,
    form: Format,
    seconds: Mapping[str, float],
) -> tuple[bytes, str]:
    """The answer to a request.

    Args:
        logits: K x h x w.
        picture: decodes the picture once more; only the overlay needs it.
        size: H, W.
        labels: the K classes.
        form: which answer.
        seconds: what the steps before took, for the JSON.

    Returns:
        The body, and its media type.
    """
    mask = class_mask(logits, size)
    image = picture() if form == "overlay" else Image.new("RGB", (1, 1))
    prediction = Prediction(image=image, mask=mask, probabilities=None, labels=labels)
    if form == "json":
        return json.dumps(describe(prediction) | {"seconds": seconds}).encode(), "application/json"
    body = io.BytesIO()
    (prediction.palette_mask() if form == "mask" else prediction.overlay()).save(
        body, "PNG", compress_level=1 if form == "overlay" else 6
    )
    return body.getvalue(), "image/png"
