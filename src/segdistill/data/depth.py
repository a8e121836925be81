"""How many bits the values of an image file have, and values of more than 8 bits as 8 bits.

Of colours with 16 bits per channel PIL decodes the upper 8 bits alone; `swap_bytes` gives the lower ones.
"""

import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

FULL = 16
"""Most bits per channel, and what is taken where nothing says how many there are."""
BITS_TAG, CHANNELS_TAG = 258, 277
MAXIMUM_TAGS = (281, 341)
"""TIFF's MaxSampleValue and SMaxSampleValue."""
COLOURS = ("RGB;16", "RGBX;16", "RGBA;16")
"""What PIL's names of 16-bit colours, without their byte order, begin with where these can be read whole."""


class UnreadableError(ValueError):
    """Why an image is not read; the caller names it."""


class Depth(NamedTuple):
    """How many bits the values of an image have."""

    bits: int
    source: str
    """What says so, for errors."""


def read_bits(description: Mapping[str, Any], source: str) -> int | None:
    """The `bits` of a description in the file `source`; None where it has none.

    Raises:
        ValueError: it is impossible.
    """
    bits = description.get("bits")
    if "bits" in description and (bits is None or not is_bits(bits)):
        raise ValueError(
            f"{source}: bits is {str(bits)[:100]!r}, but must be the bits per channel of images that have "
            f"more than 8, a whole number from 9 to {FULL}, such as 12"
        )
    return bits


def is_bits(value: object) -> bool:
    """Whether a value read from a file is a depth of more than 8 bits, or None."""
    return value is None or (type(value) is int and 8 < value <= FULL)


def find_depth(image: Image.Image, bits: int | None = None) -> Depth | None:
    """The depth of an image of more than 8 bits per channel; None where nothing says it.

    TIFF's largest value counts where it is one less than a power of two: others are of that image alone.
    PNG's sBIT does not: values have the whole range of 16 bits there, however many are significant.

    Args:
        image: as PIL has opened it; its pixels may be decoded.
        bits: of the data set's description, or of that which a network was trained on.
    """
    if image.format == "PPM":  # PIL has scaled the values by the largest that the file declares
        return Depth(FULL, "its header")
    if bits is not None:
        return Depth(bits, "`bits` in dataset.yaml")
    tags = getattr(image, "tag_v2", {})
    stored = _number(tags.get(BITS_TAG))
    if 8 < stored < FULL:
        return Depth(stored, "its TIFF header")
    for tag in MAXIMUM_TAGS:
        most = _number(tags.get(tag))
        if 255 < most < 2**FULL and (most & (most + 1)) == 0:
            return Depth(most.bit_length(), f"its TIFF tag {tag}")
    return None


def _number(value: Any) -> int:
    """The first value of a TIFF tag; 0 where it is no whole number."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else 0


def scale(values: NDArray[Any], depth: Depth | None) -> NDArray[np.uint8]:
    """Values of any shape as 8 bits: the largest of their depth becomes 255.

    Raises:
        UnreadableError: a value is outside the depth.
    """
    bits, source = depth or (FULL, "16-bit files")
    most = 2**bits - 1
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 or highest >= 2**FULL:
        raise UnreadableError(
            f"it holds the value {lowest if lowest < 0 else highest:,}, but values go from 0 to "
            f"{2**FULL - 1:,}: save it with 8 or 16 bits per channel, unsigned"
        )
    if highest > most:
        raise UnreadableError(
            f"it holds the value {highest:,}, but {bits} bits, as {source} says, end at {most:,}: say "
            f"`bits: {highest.bit_length()}` in dataset.yaml, or more (a trained network keeps those of its "
            "data set)"
        )
    return np.asarray((values.astype(np.float32) / (most / 255)).round(), dtype=np.uint8)


def stores_full(image: Image.Image) -> bool:
    """Whether a TIFF file, whose pixels may be decoded, has 16 bits for each value."""
    return _number(getattr(image, "tag_v2", {}).get(BITS_TAG)) == FULL


def colour_form(image: Image.Image) -> str | None:
    """PIL's name of 16-bit colours in a file whose pixels are not decoded yet; None for other images."""
    forms = [_form(tile) for tile in getattr(image, "tile", []) if image.mode[0] not in "IFL"]
    return next((form for form in forms if ";16" in form), None)


def _form(tile: Any) -> str:
    args = tile[3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def swap_bytes(image: ImageFile.ImageFile) -> None:
    """Bring PIL to decode the lower 8 bits of 16-bit colours: they are where it looks for the upper ones.

    Raises:
        UnreadableError: the colours have a form for which that cannot be done.
    """
    tiles: list[Any] = []
    for tile in image.tile:
        form = _form(tile)
        if not form.startswith(COLOURS):
            raise UnreadableError(
                f"its channels have 16 bits in the form {form}, of which 8 are read: save it as grey, RGB or "
                "RGBA, or scale its values to 16 bits"
            )
        little = form[-1] == "L" or (form[-1] == "N" and sys.byteorder == "little")  # N: the machine's
        swapped = form[:-1] + ("B" if little else "L")
        tiles.append(tile._replace(args=(swapped, *tile[3][1:]) if isinstance(tile[3], tuple) else swapped))
    image.tile = tiles


def refuse_channels(image: Image.Image) -> None:
    """Refuse an opened image of which some channels would be dropped without a word, or that is not RGB.

    Raises:
        UnreadableError: it has 2 channels that are not grey and transparency, 5 or more, or is CIELAB.
    """
    tags = getattr(image, "tag_v2", {})
    channels = _number(tags.get(CHANNELS_TAG)) or len(image.getbands())
    if channels not in {1, 3, 4} and image.mode not in {"LA", "La", "PA"}:
        raise UnreadableError(_channels_text(channels))
    if image.mode == "LAB":
        raise UnreadableError("its colours are CIELAB, but images are grey, RGB or RGBA: save it as RGB")
    if image.mode == "F":
        raise UnreadableError(
            "its values are floating-point numbers, whose range nothing says: save it with 8 or 16 bits per "
            "channel"
        )


def _channels_text(channels: int) -> str:
    """That an image has too many channels, or two."""
    return (
        f"it has {channels} channels, but images have 1, 3 or 4 (grey, RGB, RGBA): save those that the "
        "network is to see as such a file"
    )


def refusal(source: Path | BytesIO) -> str | None:
    """Why PIL does not open a TIFF file, where that is the number of its channels; None where it is not."""
    channels = _count_channels(source)
    return None if channels in {0, 1, 3, 4} else _channels_text(channels)


def _count_channels(source: Path | BytesIO) -> int:
    """Channels of a TIFF file; 0 where it is none, or is damaged."""
    try:
        content = source.open("rb") if isinstance(source, Path) else source
        with content as file:
            file.seek(0)
            header = file.read(8)
            if header[2:3] == b"\x2b":  # BigTIFF, whose header is longer
                header += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            return _number(tags.get(CHANNELS_TAG))
    except Exception:  # no TIFF file, or a damaged one, which brings the decoder to raise nearly anything
        return 0
