"""Looks at mask files that nobody has described: which values they hold, and what names these have."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segdistill.data.images import open_image, read_colours, read_mask
from segdistill.data.labels import VOC, VOC_VOID, VOID
from segdistill.files import read_text

MASKS_READ = 40
"""Masks that are looked at, evenly chosen."""
MOST_COLOURS = VOID - 1
"""Most colours of masks; a picture that has more is a photograph, or a mask saved as JPEG."""
NAME_FILES = ("classes.txt", "names.txt", "labels.txt", "codes.txt", "class_names.txt", "label_names.txt")
"""Files in which the names of the classes often are, one a line."""
COLOUR_FILE = "class_dict.csv"
"""File in which colours often have names: columns name, r, g, b."""


class MaskNotes(NamedTuple):
    """What masks hold.

    Attributes:
        description: `names`, and what else of `palette`, `void` and `mask_format` is needed.
        why: what was seen.
        named: whether the names are more than placeholders.
    """

    description: dict[str, Any]
    why: str
    named: bool


def looks_like_mask(path: Path) -> bool:
    """Whether an image file can be a mask: few values, and not a photograph."""
    try:
        with open_image(path) as image:
            mode, form = image.mode, image.format
        if form == "JPEG":
            return False
        if mode in {"P", "1"}:
            return True
        values = read_colours(path) if mode in {"RGB", "RGBA"} else read_mask(path)
    except (ValueError, OSError):
        return False
    return len(_count(values)) <= min(MOST_COLOURS, max(16, values.size // 64))


def describe_masks(paths: Sequence[Path], folder: Path) -> MaskNotes:
    """What the masks hold, from some of them, and what a file in `folder` calls their classes.

    Raises:
        ValueError: a mask cannot be read, or it has too many values for one.
    """
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(MASKS_READ, len(paths))).astype(int)]
    with open_image(chosen[0]) as image:
        mode, palette = image.mode, image.getpalette() or []
    counts: Counter[Any] = Counter()
    coloured = mode in {"RGB", "RGBA"}
    for path in chosen:
        counts.update(_count(read_colours(path) if coloured else read_mask(path)))
    seen = f"{len(chosen)} of {len(paths):,} masks"
    if coloured:
        return _colours([list(colour) for colour, _ in counts.most_common()], seen, folder)
    values = sorted(counts)
    classes = [value for value in values if value != VOID]
    if values == [0, VOID]:
        names = ["background", "foreground"]
        return MaskNotes({"names": names, "mask_format": "binary"}, f"{seen} hold 0 and 255 alone", False)
    if classes and classes[-1] + 1 > 2 * len(classes) + 10:  # grey levels, far apart
        return _colours([[value] * 3 for value in values], seen, folder)
    count = max(2, classes[-1] + 1 if classes else 2)
    names, named = _read_names(folder, count)
    colours = [palette[3 * index : 3 * index + 3] for index in range(len(names))]
    description: dict[str, Any] = {"names": names}
    if mode == "P" and all(len(colour) == 3 for colour in colours):
        description["palette"] = colours
    why = f"{seen} hold indices from {classes[0] if classes else 0} to {count - 1}"
    return MaskNotes(description | {"void": VOID}, why + (", and 255" if VOID in values else ""), named)


def _colours(colours: list[list[int]], seen: str, folder: Path) -> MaskNotes:
    """What masks of these colours, the most frequent first, are."""
    if len(colours) > MOST_COLOURS:
        raise ValueError(
            f"{seen} have {len(colours)} colours: they are photographs, or masks that were smoothed"
        )
    names = _read_colour_names(folder)
    listed = [colour for colour, _ in names]
    named = bool(names) and all(colour in listed or colour == list(VOC_VOID) for colour in colours)
    own = [colour for colour in colours if colour != list(VOC_VOID)]
    classes = names if named else [(colour, f"class_{index}") for index, colour in enumerate(own)]
    description: dict[str, Any] = {
        "names": [name for _, name in classes],
        "palette": [colour for colour, _ in classes],
        "mask_format": "colours",
    }
    if list(VOC_VOID) in colours and list(VOC_VOID) not in description["palette"]:
        description["void"] = list(VOC_VOID)
    return MaskNotes(description, f"{seen} have {len(colours)} colours", named)


def _read_names(folder: Path, count: int) -> tuple[list[str], bool]:
    """Names of `count` classes or more, and whether a file has them."""
    for name in NAME_FILES:
        if (folder / name).is_file():
            lines = [line.strip() for line in read_text(folder / name).splitlines() if line.strip()]
            if count <= len(lines) < VOID and len(set(lines)) == len(lines):
                return lines, True
    return [f"class_{index}" for index in range(count)], False


def _read_colour_names(folder: Path) -> list[tuple[list[int], str]]:
    """Colours and names of a class_dict.csv; none where there is none, or where it is of another form."""
    path = folder / COLOUR_FILE
    if not path.is_file():
        return []
    rows = list(csv.DictReader(read_text(path).splitlines()))
    try:
        return [([int(row["r"]), int(row["g"]), int(row["b"])], str(row["name"])) for row in rows]
    except (KeyError, TypeError, ValueError):
        return []


def _count(values: np.ndarray) -> dict[Any, int]:
    """Pixels of each value of an H x W mask, or of each colour (a triple) of an H x W x 3 one."""
    if values.ndim == 2:
        found, counts = np.unique(values, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))
    found, counts = np.unique(values.reshape(-1, 3), axis=0, return_counts=True)
    return dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))


def voc_names(notes: MaskNotes) -> MaskNotes:
    """VOC's own classes for the masks of a devkit whose indices fit."""
    if notes.named or "mask_format" in notes.description or len(notes.description["names"]) > len(VOC):
        return notes
    description = {"names": list(VOC.names), "void": VOID}
    return MaskNotes(description, f"{notes.why}: VOC's classes, unless you change `names`", True)
