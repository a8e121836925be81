"""Reads image and mask files into RGB images and index masks, whatever their mode; writes them."""

import logging
import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from segdistill.data.depth import (
    FULL,
    UnreadableError,
    colour_form,
    find_depth,
    refusal,
    refuse_channels,
    scale,
    stores_full,
    swap_bytes,
)
from segdistill.files import write_atomic

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is decoded, whatever a file is called: PIL knows others, one of which runs a program."""
MOST_PIXELS = int(os.environ.get("SEGDISTILL_MOST_PIXELS", 2**26))
"""Largest image that is decoded; at most some 20 bytes of memory are used for each pixel."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


class EmbeddedFile(ABC):
    """An image or a mask that is stored within another file; it takes the place of its `Path`.

    Attributes:
        container: the file that it is stored in.
        name: that messages call it.
    """

    container: Path
    name: str

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            FileNotFoundError: there is none.
        """

    def __str__(self) -> str:
        return self.name

    def exists(self) -> bool:
        """Whether the container exists."""
        return self.container.exists()

    def is_file(self) -> bool:
        """Whether the container is a file."""
        return self.container.is_file()

    def stat(self) -> os.stat_result:
        """Size and times of the container, which change when something in it does."""
        return self.container.stat()

    def absolute(self) -> Self:
        """Itself."""
        return self


class EmbeddedBytes(EmbeddedFile):
    """An image whose bytes were read with what it is stored in.

    Args:
        container: the file that it is stored in.
        name: that messages call it.
        data: the encoded image.
    """

    def __init__(self, container: Path, name: str, data: bytes) -> None:
        self.container, self.name, self.data = container, name, data

    def read_bytes(self) -> bytes:
        """The encoded image."""
        return self.data

    def is_file(self) -> bool:
        """It is there: its bytes are."""
        return True


File = Path | EmbeddedFile
"""Where an image or a mask is."""

# PIL logs some of what it raises, and Python prints that where nothing handles it.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# PIL warns of large images before their size can be looked at here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: File, bits: int | None = None) -> Image.Image:
    """An image file as 8-bit RGB, upright.

    EXIF orientation is applied, values of more than 8 bits are scaled to 8 (by `find_depth`), transparency is
    laid over white, and of an animation the first frame is taken.

    Args:
        path: of the file.
        bits: per channel, of files that have more than 8; None for what the file says, else 16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is truncated, is too large to decode safely, has values beyond
            its bits, or other channels than grey, RGB or RGBA.
    """
    return decode_image(path, open_image(path), bits)


def upright_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    """A decoded image as `read_image` gives it.

    Raises:
        UnreadableError: its values are beyond its bits, of which PIL has decoded the upper ones alone, or it
            has other channels.
    """
    refuse_channels(image)
    depth = find_depth(image, bits)
    halved = stores_full(image) or colour_form(image) is not None
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return Image.fromarray(scale(np.asarray(upright), depth)).convert("RGB")
    if depth is not None and depth.bits < FULL and halved:
        raise UnreadableError(
            f"its colours have {depth.bits} bits, as {depth.source} says, in 16: give the path of its "
            "file, or save them with 8 bits"
        )
    return _flattened(upright)


def _flattened(upright: Image.Image) -> Image.Image:
    """An image of 8 bits per channel as RGB, its transparency laid over white."""
    if upright.has_transparency_data:
        opaque = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(opaque, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def write_raw(path: File, raw: Path, strip: int = 256, bits: int | None = None) -> tuple[int, int]:
    """Decode an image file, of any size, into a file of H x W x 3 bytes; see `read_image` for what is done.

    Upright 8-bit RGB is in memory once (4 bytes per pixel), other kinds are converted whole.

    Args:
        path: the image.
        raw: the file that is written.
        strip: rows that are written at once.
        bits: see `read_image`.

    Returns:
        W, H.

    Raises:
        FileNotFoundError, ValueError: as `read_image`, but no size is too large.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with _opened(path, limited=False) as image:
            depth = find_depth(image, bits)
            plain = image.mode in {"RGB", "L"} and not image.has_transparency_data
            plain &= depth is None or depth.bits == FULL
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            ready = image if plain and upright else read_image(path, bits)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    write_pixels(ready, raw, strip)
    return ready.size


def write_pixels(image: Image.Image, raw: Path, strip: int = 256) -> None:
    """Write a decoded image into a file of H x W x 3 bytes, `strip` rows at once."""
    with raw.open("wb") as file:
        for top in range(0, image.height, strip):
            rows = image.crop((0, top, image.width, min(image.height, top + strip)))
            file.write(rows.convert("RGB").tobytes())


def lossy_note(path: File) -> str:
    """For the error of a mask: that its file is a JPEG, where it is."""
    jpeg = str(path).lower().endswith((".jpg", ".jpeg"))
    return "; JPEG is lossy and changes labels: save masks as PNG" if jpeg else ""


def read_mask(path: File, most: int = 255) -> np.ndarray:
    """A mask file as an H x W array of the indices it stores (palette colours are ignored).

    Args:
        path: of the file.
        most: largest index that it may hold.

    Returns:
        uint8 where `most` is 255, else uint16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unreadable, or is a colour image rather than one of class indices.
    """
    with _opened(path) as image:
        if image.mode not in {"P", "L", "1", "I", "I;16", "I;16B"}:
            raise ValueError(
                f"{path} has mode {image.mode}, but a mask holds one class index per pixel (mode P or L): if "
                "its colours are the classes, say `mask_format: colours` in dataset.yaml, and `palette`"
                f"{lossy_note(path)}"
            )
        indices = np.asarray(image)
    if indices.dtype != np.uint8:
        lowest, highest = indices.min(initial=0), indices.max(initial=0)
        if lowest < 0 or highest > most:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"{path} holds the index {wrong}, but indices go from 0 to {most}")
    return indices.astype(np.uint8 if most == 255 else np.uint16, copy=False)


def read_colours(path: File) -> np.ndarray:
    """A mask file as an H x W x 3 uint8 array of the RGB colours it shows (transparency is ignored).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unreadable, or its colours have other depths than 8 bits.
    """
    with _opened(path) as image:
        if image.mode not in {"RGB", "RGBA", "P", "L", "1"}:
            raise ValueError(
                f"{path} has mode {image.mode}, but a mask of colours is 8-bit RGB: save it as such a PNG"
            )
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def write_image(path: Path, image: Image.Image, form: str) -> None:
    """Write an image file, whole or not at all."""
    buffer = BytesIO()
    image.save(buffer, form, **({"quality": 92} if form == "JPEG" else {}))
    write_atomic(path, buffer.getvalue())


def read_bitmap(path: File) -> NDArray[np.bool_]:
    """An image of one region (H x W): True where it is not 0; where it has transparency, where it is opaque.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unreadable.
    """
    with _opened(path) as image:
        values = np.asarray(image.getchannel("A") if image.mode in {"RGBA", "LA"} else image)
    return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0)


def image_size(path: File) -> tuple[int, int]:
    """H, W of an image as `read_image` gives it, from its header alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image.
    """
    with open_image(path) as image:
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
        except Exception as error:  # damaged metadata bring the decoders to raise nearly anything
            raise decoding_error(path, error) from None
        return image.size if turned else image.size[::-1]


def list_images(folder: Path) -> Iterator[Path]:
    """Image files below a folder, sorted; hidden ones and those in hidden folders are left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden:
            yield path


def open_image(path: File) -> Image.Image:
    """An image file whose header is read and whose pixels are not, see `decode_image`; the caller closes it.

    Raises:
        FileNotFoundError, ValueError: as `read_image`, for what the header tells.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    source = path if isinstance(path, Path) else BytesIO(path.read_bytes())
    try:
        return Image.open(source, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        if reason := refusal(source):
            raise ValueError(f"{path} cannot be read: {reason}") from None
        raise ValueError(f"{path} is not an image that can be read ({', '.join(IMAGE_FORMATS)})") from None
    except Exception as error:  # damaged files bring the decoders to raise nearly anything
        raise decoding_error(path, error) from None


def decode_image(
    path: File, image: Image.Image, bits: int | None = None, *, limited: bool = True
) -> Image.Image:
    """The pixels of what `open_image` gave, as `read_image` gives them; the file is closed.

    Args:
        path: that it was opened from.
        image: not decoded yet.
        bits: see `read_image`.
        limited: refuse images of more than `MOST_PIXELS`.

    Raises:
        ValueError: as `read_image`.
    """
    with image:
        halved = colour_form(image) is not None
        with _decoded(path, image, limited=limited):
            depth = find_depth(image, bits)
            if not halved or depth is None or depth.bits == FULL:
                return upright_rgb(image, bits)
            refuse_channels(image)
            mode, values = image.mode, _deep_colours(path, image)
            return _flattened(Image.fromarray(scale(values, depth), mode))


def _deep_colours(path: File, upper: Image.Image) -> NDArray[np.uint16]:
    """16-bit colours (H x W x C), upright, of a file of which PIL has decoded the `upper` 8 bits."""
    with open_image(path) as lower:
        assert isinstance(lower, ImageFile.ImageFile)
        swap_bytes(lower)
        with _decoded(path, lower, limited=False):  # as large as the upper ones
            high, low = (np.asarray(ImageOps.exif_transpose(one), np.uint16) for one in (upper, lower))
    return np.asarray(high << 8 | low, np.uint16)


def undeclared_maximum(path: File) -> int | None:
    """The largest value of an image of 16 bits per channel, of which the file does not say how many are used.

    None for other images. Of colours 8 of the 16 bits are read, and the others taken as set.

    Raises:
        FileNotFoundError, ValueError: as `read_image`.
    """
    with open_image(path) as image:
        colours = colour_form(image) is not None
        if find_depth(image) is not None or not (colours or image.mode.startswith("I")):
            return None
        with _decoded(path, image, limited=True):
            most = int(np.asarray(image).max(initial=0))
    return most << 8 | 255 if colours else most


@contextmanager
def _opened(path: File, *, limited: bool = True) -> Iterator[Image.Image]:
    """A fully decoded image; see `_decoded`."""
    with open_image(path) as image, _decoded(path, image, limited=limited):
        yield image


@contextmanager
def _decoded(path: File, image: Image.Image, *, limited: bool) -> Iterator[None]:
    """Decode an open image; every failure of the decoder becomes one `ValueError` with the path.

    `limited` refuses images of more than `MOST_PIXELS` before they are decoded.
    """
    try:
        if limited:
            refuse_large(path, image.size)
        image.load()
    except MemoryError:
        raise OutOfMemoryError(f"{path} cannot be decoded: there is not enough memory for it") from None
    except Exception as error:  # damaged files bring the decoders to raise nearly anything
        raise error if isinstance(error, TooLargeError) else decoding_error(path, error) from None
    try:
        yield
    except UnreadableError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except (SyntaxError, LookupError, OverflowError, ArithmeticError, struct.error, TypeError) as error:
        raise decoding_error(path, error) from None  # metadata (EXIF, palettes) is looked at only now


class OutOfMemoryError(ValueError):
    """There is not enough memory to decode an image."""


class TooLargeError(ValueError):
    """An image has more than `MOST_PIXELS`."""


def refuse_large(path: File, size: tuple[int, int]) -> None:
    """Raise a `TooLargeError` for an image of more than `MOST_PIXELS`."""
    if size[0] * size[1] > MOST_PIXELS:
        raise TooLargeError(
            f"{path} is {size[0]}x{size[1]} pixels, but at most {MOST_PIXELS:,} are decoded: make it "
            "smaller, or set SEGDISTILL_MOST_PIXELS"
        )


def decoding_error(path: object, error: Exception) -> ValueError:
    """What a decoder's failure becomes, on one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path} cannot be decoded: {reason}")
