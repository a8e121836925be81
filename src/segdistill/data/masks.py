"""Turns mask files into class indices: files of indices, of ids, of colours, of black and white.

H, W: rows and columns of a mask, K: classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.images import File, image_size, lossy_note, read_colours, read_mask, refuse_large
from segdistill.data.labels import VOID, LabelSet

OUTSIDE = VOID - 1
"""Marks, while a mask is read, the pixels whose value is no class and not void: no class can have it."""

MOST_ID = 2**16 - 1
"""Largest id that a mask file may hold."""

MOST_NAMES = 10
"""Classes that a message names."""

NAME = np.dtypes.StringDType()
"""Strings of any length, kept as UTF-8 beside each other."""

Mask = NDArray[np.uint8]
Colour = tuple[int, int, int]


class SampleFiles(NamedTuple):
    """Where one sample comes from."""

    id: str
    image: File
    mask: File | None
    """None for an unlabelled image."""
    void: int = VOID
    """Index of unlabelled pixels in the mask file."""
    form: str = ""
    """`MaskReader.form` of what reads the mask file."""
    bits: int | None = None
    """Per channel, of an image file that has more than 8, see `read_image`."""


class Problem(NamedTuple):
    """What is wrong with one sample."""

    id: str
    reason: str


class MaskReader(ABC):
    """Reads the masks of a data set.

    Attributes:
        form: part of the cache's key: what the indices depend on beside the files, the number of classes and
            the void index. Decoded masks of another form are another entry.
        optional: whether a sample whose mask file does not exist has a mask all the same.
        void: what void is in the files, and what to do where it was meant to be a class; "" where they have
            none.
    """

    form: str = ""
    optional: bool = False
    void: str = ""

    @abstractmethod
    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The mask of a sample: H x W uint8, class index or `VOID`.

        Args:
            files: of the sample, which has a mask.
            size: H, W of its image, which the mask must have; None where the image was not opened.

        Raises:
            FileNotFoundError: the file has vanished.
            ValueError: it is unreadable, has another size, or holds what is no class.
        """


class IndexMasks(MaskReader):
    """Masks that store class indices.

    Args:
        labels: what the indices mean, and which one is void.
    """

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self.void = (
            f"index {labels.void}: if it is meant to be a class, give it the index of its name (0 to "
            f"{len(labels) - 1}) in the mask files, or say `mask_format: binary` where they hold 0 and 255"
        )
        self._from_file = np.full(256, OUTSIDE, dtype=np.uint8)
        self._from_file[: len(labels)] = np.arange(len(labels), dtype=np.uint8)
        self._from_file[labels.void] = VOID  # this index alone: what is declared is what counts

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The indices, the declared void index as `VOID`."""
        assert files.mask is not None
        stored = read_mask(files.mask)
        require_size(files.mask, stored.shape, size)
        mask = self._from_file[stored]
        if (mask == OUTSIDE).any():
            wrong = sorted({int(value) for value in np.unique(stored[mask == OUTSIDE])})
            meant = f"; if {wrong[0]} means no label, say `void: {wrong[0]}`" if len(wrong) == 1 else ""
            raise ValueError(
                f"{files.mask} holds the label {', '.join(map(str, wrong[:5]))}, but labels are 0 to "
                f"{len(self.labels) - 1} and void is {self.labels.void}{meant}{lossy_note(files.mask)}"
            )
        return mask


class IdMasks(MaskReader):
    """Masks that store ids, of 8 or 16 bits, of which several may mean one class.

    Args:
        ids: class index, or `VOID`, of each id.
    """

    def __init__(self, ids: Mapping[int, int]) -> None:
        self.ids = sorted(ids)
        self._from_file = np.full(MOST_ID + 1, OUTSIDE, dtype=np.uint8)
        self._from_file[list(ids)] = list(ids.values())
        self.form = f"ids {sorted(ids.items())}"

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The index of each pixel's id."""
        assert files.mask is not None
        stored = read_mask(files.mask, MOST_ID)
        require_size(files.mask, stored.shape, size)
        mask = self._from_file[stored]
        if (found := first_outside(mask, stored)) is not None:
            raise ValueError(
                f"{files.mask} has the id {found}, which is neither a class's nor void's; ids are "
                f"{text_of_numbers(self.ids)}{lossy_note(files.mask)}"
            )
        return mask


class ColourMasks(MaskReader):
    """Masks that show each class in its colour of the palette, exactly.

    Args:
        labels: the K classes with their palette.
        void: RGB colour of unlabelled pixels; None where all pixels are labelled.

    Raises:
        ValueError: two classes, or a class and void, have the same colour.
    """

    def __init__(self, labels: LabelSet, void: Colour | None = None) -> None:
        names = {colour: name for name, colour in zip(labels.names, labels.palette, strict=True)}
        if len(names) < len(labels) or void in names:
            raise ValueError(
                "masks in colours need a `palette` of different colours, none of them that of `void`"
            )
        colours = [*labels.palette, *([void] if void else [])]
        codes = np.array(colours, dtype=np.uint32) @ SHIFTS
        order = codes.argsort()
        self.codes = codes[order]
        self.indices = np.array([*range(len(labels)), VOID], dtype=np.uint8)[order]
        self.form = f"colours {codes.tolist()}"
        if void:
            self.void = f"colour {list(void)}: if it is meant to be a class, add it to `names` and `palette`"

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The index of each pixel's colour."""
        assert files.mask is not None
        colours = read_colours(files.mask)
        require_size(files.mask, colours.shape[:2], size)
        codes = colours @ SHIFTS
        found = self.codes.searchsorted(codes).clip(max=len(self.codes) - 1)
        unknown = self.codes[found] != codes
        if unknown.any():
            y, x = (int(place) for place in np.argwhere(unknown)[0])
            raise ValueError(
                f"{files.mask} has the colour {colours[y, x].tolist()} at pixel (x, y) = ({x}, {y}); "
                f"{unknown.sum():,} of its {unknown.size:,} pixels have colours that are neither a class's "
                "nor void's: add them to the palette, or export the masks anew if they were smoothed or "
                "saved as JPEG, which mixes colours"
            )
        return self.indices[found]


class BinaryMasks(MaskReader):
    """Masks of 0 and 255 (or 1): the second class is white.

    Args:
        void: value of unlabelled pixels in the files; None where all pixels are labelled.

    Raises:
        ValueError: void is the value of a class.
    """

    def __init__(self, void: int | None = None) -> None:
        if void in {0, 1, 255}:
            raise ValueError(f"void is {void}, which is a class in a binary mask (0; 255 or 1)")
        self._from_file = np.full(256, OUTSIDE, dtype=np.uint8)
        self._from_file[[0, 1, 255]] = 0, 1, 1
        if void is not None:
            self._from_file[void] = VOID
            self.void = f"value {void}"
        self.form = f"binary {void}"

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """0 where the file is 0, else 1."""
        assert files.mask is not None
        stored = read_mask(files.mask)
        require_size(files.mask, stored.shape, size)
        mask = self._from_file[stored]
        if (found := first_outside(mask, stored)) is not None:
            raise ValueError(
                f"{files.mask} has the value {found}, but a binary mask holds 0 and 255 (or 1): export it "
                "without smoothing and not as JPEG, or declare the value as `void`"
            )
        return mask


class MappedMasks(MaskReader):
    """Masks of other classes than their files have.

    Args:
        reader: reads the classes of the files.
        table: of 256 entries: what each index becomes.
        ignored: names of the classes that become void.
    """

    def __init__(self, reader: MaskReader, table: Mask, ignored: Sequence[str] = ()) -> None:
        self.reader, self.table = reader, table
        self.optional = reader.optional
        more = f" and {len(ignored) - MOST_NAMES} more" if len(ignored) > MOST_NAMES else ""
        classes = (
            f"the classes {', '.join(ignored[:MOST_NAMES])}{more} become void by `ignore`" if ignored else ""
        )
        self.void = "; ".join(filter(None, [classes, reader.void]))
        self.form = f"{reader.form} {table.tolist()}"

    def read(self, files: SampleFiles, size: tuple[int, int] | None = None) -> Mask:
        """The mapped indices."""
        return self.table[self.reader.read(files, size)]


def palette_image(mask: Mask, labels: LabelSet) -> Image.Image:
    """A mask as a palette image: indices in the file, the label set's colours on the screen."""
    image = Image.fromarray(mask)
    image.putpalette(labels.file_palette)
    return image


SHIFTS = np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
"""A colour times this is its number, 0xRRGGBB."""


def require_size(path: File, shape: tuple[int, ...], size: tuple[int, int] | None) -> None:
    """Refuse a mask whose `shape` (H, W) is not the `size` of its image, where that is known.

    Raises:
        ValueError: it is another.
    """
    if size is not None and shape != size:
        raise ValueError(f"{path} is {shape[1]}x{shape[0]} pixels, but its image is {size[1]}x{size[0]}")


def drawn_size(files: SampleFiles, size: tuple[int, int] | None) -> tuple[int, int]:
    """H, W of a mask that is drawn from annotations: those of its image, which is opened where unknown.

    Raises:
        ValueError: the image is unreadable, or larger than images may be.
    """
    height, width = size or image_size(files.image)
    refuse_large(files.image, (width, height))
    return height, width


def text_of_numbers(numbers: Sequence[int]) -> str:
    """Sorted numbers for a message: the first ten, and how many there are."""
    listed = ", ".join(map(str, numbers[:10]))
    return listed if len(numbers) <= 10 else f"{listed}, ... ({len(numbers)} of them, up to {numbers[-1]})"


def first_outside(mask: Mask, stored: NDArray[np.integer]) -> str | None:
    """Value and place of the first pixel that is no class and not void, for an error; None without one."""
    places = np.argwhere(mask == OUTSIDE)
    if not len(places):
        return None
    y, x = places[0].tolist()
    return f"{stored[y, x]} at pixel (x, y) = ({x}, {y})"
