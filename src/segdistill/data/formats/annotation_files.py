"""Draws masks from JSON files of shapes, one for each image, in the order in which people drew them."""

import base64
import binascii
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segdistill.data.labels import class_name
from segdistill.data.masks import Mask, MaskReader, SampleFiles, drawn_size
from segdistill.data.polygons import Region, overlay
from segdistill.files import read_json

JSON_BYTES = 2**28
"""Largest file of shapes: some hold the image, too."""


class AnnotationMasks(MaskReader):
    """Masks that are drawn from a JSON file of shapes when they are read.

    Args:
        indices: class index, or `VOID`, of each name that a shape may have.
        source: the file that lists these names, for messages.

    Attributes:
        list_key: key of the list of shapes in the file.
        name_key: key of the class in a shape.
    """

    list_key: str
    name_key: str

    def __init__(self, indices: Mapping[str, int], source: str) -> None:
        self.indices, self.source = indices, source
        self.form = f"{self.list_key} {sorted(indices.items())}"

    @abstractmethod
    def stored_size(self, content: dict[str, Any]) -> tuple[Any, Any]:
        """H, W that the file says the image has; None for what it does not say."""

    @abstractmethod
    def region(self, shape: dict[str, Any], size: tuple[int, int], file: Path) -> Region:
        """The pixels of a shape, in an image of `size` (H, W).

        Raises:
            ValueError: it is damaged, or has no area.
        """

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The shapes of an image, the later ones on top."""
        assert isinstance(files.mask, Path)
        content = read_annotation(files.mask, self.list_key)
        stored = self.stored_size(content)
        height, width = drawn_size(files, size)
        if None not in stored and stored != (height, width):
            raise ValueError(
                f"{files.mask} is for an image of {str(stored[1])[:20]}x{str(stored[0])[:20]} pixels, but "
                f"{files.image} is {width}x{height}"
            )
        return overlay(self.regions(content[self.list_key], (height, width), files.mask), (height, width))

    def regions(self, shapes: list[Any], size: tuple[int, int], file: Path) -> Iterator[tuple[int, Region]]:
        """Class index and pixels of each shape; an error names its number, from 1 on."""
        for number, shape in enumerate(shapes, start=1):
            name = shape.get(self.name_key) if isinstance(shape, dict) else None
            name = class_name(name)
            if name not in self.indices:
                raise ValueError(
                    f"{file}: shape {number} has the class {name[:100]!r}, but the classes are "
                    f"{', '.join(self.indices)} (from {self.source})"
                )
            try:
                yield self.indices[name], self.region(shape, size, file)
            except ValueError as error:
                raise ValueError(f"{file}: shape {number} ({name[:100]}): {error}") from None


def read_annotation(path: Path, list_key: str) -> dict[str, Any]:
    """A JSON file that holds a list of shapes under `list_key`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another file.
    """
    content = read_json(path, JSON_BYTES)
    if not isinstance(content, dict) or not isinstance(content.get(list_key), list):
        raise ValueError(f"{path} has no list `{list_key}`: it is no file of annotations")
    return content


def decode_base64(text: Any) -> bytes:
    """The bytes that a text stands for; anything else is a `ValueError`."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError("its bitmap is not base64 text") from None
