"""Pictures that a caller holds in memory: PIL images and arrays, and how they become RGB images."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.images import decoding_error, read_image, upright_rgb

Picture = Image.Image | NDArray[np.uint8] | str | Path
"""A PIL image of any mode, H x W x 3 uint8 RGB, or the path of an image file."""
Pictures = list[Picture] | tuple[Picture, ...]

_DECODING = Lock()
"""Held while PIL decodes an image that was opened and not decoded: the same one may be in a list twice."""


@dataclass(frozen=True, eq=False)
class PictureInMemory:
    """A picture that takes the place of an image file.

    Args:
        picture: a PIL image, which is left as it is, or H x W x 3 uint8 RGB.
        name: that messages call it.

    Raises:
        ValueError: it is neither.
    """

    picture: Image.Image | NDArray[np.uint8]
    name: str

    def __post_init__(self) -> None:
        try:
            require_picture(self.picture)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def __str__(self) -> str:
        return self.name

    @property
    def size(self) -> tuple[int, int]:
        """W, H, before it is turned upright."""
        if isinstance(self.picture, Image.Image):
            return self.picture.size
        return self.picture.shape[1], self.picture.shape[0]

    def decode(self, bits: int | None = None) -> Image.Image:
        """The picture as upright 8-bit RGB; `bits` as `read_image` has it.

        Raises:
            ValueError: PIL cannot decode it.
        """
        try:
            if isinstance(self.picture, Image.Image):
                with _DECODING:
                    self.picture.load()
            return as_image(self.picture, bits)
        except (OSError, SyntaxError) as error:  # of a file that was opened and not decoded
            raise decoding_error(self, error) from None
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None


def as_image(picture: Picture, bits: int | None = None) -> Image.Image:
    """A picture as an upright 8-bit RGB image; `bits` as `read_image` has it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is no image, or an array is not H x W x 3 uint8.
    """
    if isinstance(picture, str | Path):
        return read_image(Path(picture), bits)
    require_picture(picture)
    if isinstance(picture, Image.Image):
        return upright_rgb(picture, bits)
    return Image.fromarray(np.ascontiguousarray(picture))


def require_picture(picture: object) -> None:
    """Raise a `ValueError` unless it is a PIL image, or an array of H x W x 3 uint8."""
    if isinstance(picture, Image.Image):
        return
    if not isinstance(picture, np.ndarray):
        raise ValueError(
            f"a picture is a {type(picture).__name__}, but must be a PIL image, an array or a path"
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(
            f"an array has the shape {picture.shape} of {picture.dtype}, but must be H x W x 3 uint8 RGB "
            "(OpenCV's BGR: image[..., ::-1]; floats from 0 to 1: (255 * image).astype('uint8'))"
        )
