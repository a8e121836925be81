"""Looks at a folder that nobody has described: which ways there are to read it, and their dataset.yaml."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.data.discovery.folders import find_pairings, place_of
from segdistill.data.discovery.masks import describe_masks, voc_names
from segdistill.data.formats.coco import CocoLayout, read_instances
from segdistill.data.formats.folders import STEM, FolderLayout
from segdistill.data.formats.layout import DESCRIPTION, SPLIT
from segdistill.data.formats.table import LAYOUTS
from segdistill.data.formats.voc import MASKS, SETS, VocLayout, find_devkit
from segdistill.data.images import list_images

DESCRIBED = (VocLayout, CocoLayout, FolderLayout)
"""Readers that a dataset.yaml is written for; the others have files of their own that say all."""


class Reading(NamedTuple):
    """One way to read a folder.

    Attributes:
        layout: what it is chosen by.
        why: what was found.
        file: the description that is, or would be, in effect.
        description: the content of the dataset.yaml to write; None where the data set describes itself.
        named: whether the class names are known.
    """

    layout: str
    why: str
    file: Path
    description: dict[str, Any] | None = None
    named: bool = True


def find_readings(folder: Path) -> list[Reading]:
    """All ways to read a folder, without regard to a dataset.yaml that it may have.

    Raises:
        FileNotFoundError: it is no folder.
        ValueError: a file in it that describes it is damaged, or a devkit has no mask.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    own = list(_self_described(folder))
    if own:
        return own
    devkit = list(_devkits(folder))
    if devkit:
        return devkit
    files = list(list_images(folder))
    return _numbered([*_instances(folder, files), *_pairs(folder, files)])


def _self_described(folder: Path) -> Iterator[Reading]:
    """Data sets with a description of their own kind."""
    for reader in LAYOUTS:
        if reader in DESCRIBED:
            continue
        found = reader.find(folder, None)
        if found is not None:
            name = reader.__name__.removesuffix("Layout").lower()
            why = f"{found.title}, recognised by {found.signs}"
            yield Reading(name, why, found.root / found.described_by)


def _devkits(folder: Path) -> Iterator[Reading]:
    """The VOC devkit that the folder is or holds."""
    devkit = find_devkit(folder)
    if devkit is None or not (devkit / MASKS).is_dir():
        return
    files = list(list_images(devkit / MASKS))
    if not files:
        raise ValueError(f"{devkit / MASKS} is empty: put the masks there, PNG files called as their images")
    notes = voc_names(describe_masks(files, devkit))
    why = f"a VOC devkit ({SETS} and {MASKS}); {notes.why}"
    yield Reading("voc", why, devkit / DESCRIPTION, notes.description, notes.named)


def _instances(folder: Path, files: list[Path]) -> Iterator[Reading]:
    """JSON files of instances, one for each split, whose images are below the folder."""
    templates: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for pattern in ("*.json", "*/*.json"):
        for path in sorted(folder.glob(pattern)):
            place = place_of(path.relative_to(folder))
            templates[place.template].append((path, place.split))
    for template, found in templates.items():
        path, split = min(found, key=lambda one: one[0].stat().st_size)
        try:
            listed = [str(image["file_name"]) for image in read_instances(path)["images"]]
        except ValueError:
            continue  # another kind of JSON
        end = f"/{listed[0]}" if listed else ""
        parents = [name.removesuffix(end) for name in map(Path.as_posix, files) if end and name.endswith(end)]
        if not parents:
            continue
        # Of several folders with such a file, the one whose path has the split in it.
        parent = next((one for one in parents if split and split in one), parents[0])
        images = Path(parent).relative_to(folder).as_posix()
        images = images.replace(split, SPLIT) if split and SPLIT in template else images
        description = {"annotations": template, "images": images}
        names = CocoLayout(folder, folder / DESCRIPTION, description).labels.names
        why = f"COCO's JSON ({len(found)} files {template}, with {len(names) - 1} categories)"
        yield Reading("coco", why, folder / DESCRIPTION, {"names": list(names), **description})


def _pairs(folder: Path, files: list[Path]) -> Iterator[Reading]:
    """Folders of images with folders of masks."""
    for pairing in find_pairings(folder, files):
        notes = describe_masks(pairing.mask_files, folder)
        name = f"{STEM}{pairing.suffix}{pairing.ending}"
        description = {**notes.description, "images": pairing.images, "masks": pairing.masks}
        if name != f"{STEM}.png":
            description["mask_name"] = name
        why = f"images in {pairing.images}, masks in {pairing.masks}; {notes.why}"
        yield Reading("folders", why, folder / DESCRIPTION, description, notes.named)


def _numbered(readings: list[Reading]) -> list[Reading]:
    """Readings of which no two are chosen by the same name."""
    kinds = [reading.layout for reading in readings]
    return [
        reading
        if kinds.count(reading.layout) == 1
        else reading._replace(layout=f"{reading.layout}-{kinds[:number].count(reading.layout) + 1}")
        for number, reading in enumerate(readings)
    ]
