"""The verb `data init`, as a function: a folder is looked at, and gets the dataset.yaml that it needs."""

import shlex
from pathlib import Path
from typing import Any

from segdistill.config.naming import setting
from segdistill.console import log
from segdistill.data.discovery.folders import jpeg_masks
from segdistill.data.discovery.readings import Reading, find_readings
from segdistill.data.formats.divided import divisible_split
from segdistill.data.formats.layout import DESCRIPTION, Layout, dump_description
from segdistill.data.formats.table import open_layout
from segdistill.data.images import list_images, lossy_note
from segdistill.files import write_atomic

VALIDATION = ("val", "valid", "validation", "test")
"""What splits to validate on are called; the first one that there is serves."""
SHARE = "val: 0.1"
"""The line that holds images out."""


def init_dataset(folder: str | Path, layout: str | None = None, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the dataset.yaml of a folder, from what is in it; what it found and what is missing is logged.

    Args:
        folder: of images and masks, in some layout.
        layout: which reading is meant, where there are several.
        overwrite: replace a dataset.yaml.

    Returns:
        `path`, `layout`, `description` (the file in effect, if any), `written` (whether it is new), `splits`
        (images by split) and `missing` (lines that the description lacks, or that have placeholders).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it can be read in no way or in several, or has a dataset.yaml already.
    """
    root = Path(folder)
    reading = choose_reading(root, layout)
    if reading.description is not None and reading.file.is_file() and not overwrite:
        raise ValueError(f"{reading.file} is there already: {setting('overwrite')} replaces it")
    log(f"{root} is read as {reading.layout}: {reading.why}")
    if reading.description is None:
        log(f"It describes itself: no {DESCRIPTION} is needed")
    else:
        write_atomic(reading.file, dump_description(reading.description))
        log(f"{reading.file} is written:\n{dump_description(reading.description).rstrip()}")
    opened = open_layout(root)
    sizes = {split: len(opened.list_files(split).ids) for split in opened.splits()}
    log(", ".join(f"{split}: {size:,} images" for split, size in sizes.items()) or "No split was found")
    missing = list(_missing(reading, opened, sizes))
    for what, line in missing:
        log(f"Missing: {what}: {line}")
    log(f"Next: segdistill data show {shlex.quote(str(folder))} --out sheet")
    return {
        "path": str(folder),
        "layout": reading.layout,
        "description": str(reading.file) if reading.file.is_file() else None,
        "written": reading.description is not None,
        "splits": sizes,
        "missing": [line for _, line in missing],
    }


def choose_reading(root: Path, layout: str | None) -> Reading:
    """The one way to read a folder, or the one that was asked for.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is none, or several, or not the one that was asked for.
    """
    readings = find_readings(root)
    if not readings:
        if (lossy := jpeg_masks(root, list_images(root))) is not None:
            raise ValueError(f"{lossy} cannot be a mask{lossy_note(lossy)}")
        raise ValueError(
            f"{root} has no layout that is known: neither ImageSets (VOC), nor JSON of instances with its "
            "images (COCO), nor data.yaml (YOLO), nor folders of images and of masks with their names, "
            f"for half of the images or more; docs/own-data.md shows how to write a {DESCRIPTION}"
        )
    described = "; ".join(f"{reading.layout} ({reading.why})" for reading in readings)
    if layout is not None:
        chosen = [reading for reading in readings if reading.layout == layout]
        if not chosen:
            raise ValueError(f"layout is {layout!r}, but {root} can be read as {described}")
        return chosen[0]
    if len(readings) > 1:
        raise ValueError(
            f"{root} can be read in {len(readings)} ways: {described}; choose one with "
            f"{setting('data.layout')} {readings[0].layout}"
        )
    return readings[0]


def _missing(reading: Reading, opened: Layout, sizes: dict[str, int]) -> list[tuple[str, str]]:
    """What the description lacks, each with the line that says it."""
    found = []
    if not reading.named:
        names = opened.labels.names
        line = f"names: [{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}]"
        found.append((f"the names of the classes; replace these in {reading.file}", line))
    validation = next((split for split in VALIDATION if split in sizes), None)
    training = next((split for split in sizes if split.startswith("train")), None)
    if validation is None and divisible_split(list(sizes)) is None:
        found.append(("which splits to train and to validate on", "--data.split NAME --data.val_split NAME"))
    elif validation is None:
        file = opened.root / opened.described_by
        found.append((f"a split for validation; add to {file} (or write it, with this line alone)", SHARE))
    elif validation != "val" or training != "train":
        options = f"--data.split {training or 'NAME'} --data.val_split {validation}"
        found.append(("splits called train and val; name yours to `train`", options))
    return found
