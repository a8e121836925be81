"""Finds folders of images and folders of their masks, whatever they are called."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segdistill.data.discovery.masks import looks_like_mask
from segdistill.data.formats.layout import SPLIT

SPLIT_WORD = re.compile(
    r"(?<![a-zA-Z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?:\d{4})?(?![a-zA-Z])", re.IGNORECASE
)
"""What names a split in a path."""
MASK_WORD = re.compile(r"mask|label|annot|ann\b|truth|gt|seg", re.IGNORECASE)
"""What often names a folder of masks."""
LOOKED_AT = 3
"""Files of a folder that are looked at."""
PAIRED = 0.5
"""Fraction of the images that must have a mask."""


Group = dict[tuple[str, str], Path]
"""The files of folders that differ in the split alone: by split, and name without suffix."""


class Pairing(NamedTuple):
    """Folders of images, and folders of masks for them."""

    images: str
    masks: str
    """Both below the data set's folder, with {split} where they have one."""
    suffix: str
    """What a mask's name has after its image's."""
    ending: str
    """Of the masks' files, such as .png."""
    mask_files: list[Path]


class Place(NamedTuple):
    """Where a file is: the path of its folder with {split} in it, and the split."""

    template: str
    split: str


def place_of(relative: Path) -> Place:
    """The place of a path below the data set's folder."""
    text = relative.as_posix()
    match = SPLIT_WORD.search(text)
    if match is None:
        return Place(text, "")
    return Place(SPLIT_WORD.sub(lambda one: SPLIT if one[0] == match[0] else one[0], text), match[0])


def find_pairings(folder: Path, files: Iterable[Path]) -> list[Pairing]:
    """The pairs of folders below `folder` of which one has masks for the other's images.

    Args:
        folder: the data set's.
        files: all images below it, masks included.
    """
    groups: dict[str, Group] = defaultdict(dict)
    for path in files:
        place = place_of(path.parent.relative_to(folder))
        groups[place.template][place.split, path.stem] = path
    masks = {name for name, group in groups.items() if _are_masks(group.values())}
    # Images that look like masks themselves, drawings for example, are told by the names of the folders.
    return _pair(groups, [(name, other) for name in groups.keys() - masks for other in masks]) or _pair(
        groups, [(name, other) for name in masks for other in masks if _is_mask_name(name, other)]
    )


def jpeg_masks(folder: Path, files: Iterable[Path]) -> Path | None:
    """A JPEG file in a folder with the name of masks, which these cannot be: JPEG changes their labels."""
    for path in sorted(files):
        if path.suffix.lower() in {".jpg", ".jpeg"} and MASK_WORD.search(
            path.parent.relative_to(folder).name
        ):
            return path
    return None


def _pair(groups: dict[str, Group], candidates: list[tuple[str, str]]) -> list[Pairing]:
    """Those of the candidates, folders of images and of masks, that belong together."""
    found: dict[tuple[str, str, str, str], list[Path]] = defaultdict(list)
    for name, other in sorted(candidates):
        images, masks = groups[name], groups[other]
        suffix = _suffix(images, masks)
        matched = [masks.get((split, stem + suffix)) for split, stem in images]
        pairs = [path for path in matched if path is not None]
        if len(pairs) >= PAIRED * len(images):
            ending = Counter(path.suffix for path in pairs).most_common(1)[0][0]
            found[*_without_common_end(name, other), suffix, ending] += pairs
    return [Pairing(*key, paths) for key, paths in found.items()]


def _are_masks(paths: Iterable[Path]) -> bool:
    """Whether the first, a middle and the last of the files look like masks."""
    files = sorted(paths)
    chosen = {files[place * (len(files) - 1) // (LOOKED_AT - 1)] for place in range(LOOKED_AT)}
    return all(looks_like_mask(path) for path in chosen)


def _is_mask_name(images: str, masks: str) -> bool:
    """Of two folders that both could have masks, whether the name of the second alone says so."""
    return bool(MASK_WORD.search(masks)) and not MASK_WORD.search(images)


def _suffix(images: Group, masks: Group) -> str:
    """What the masks' names most often have after the images'."""
    by_split = defaultdict(list)
    for split, stem in masks:
        by_split[split].append(stem)
    found: Counter[str] = Counter()
    for split, stem in list(images)[:: max(1, len(images) // 20)]:
        found.update(name[len(stem) :] for name in by_split[split] if name.startswith(stem))
    # The shortest of equally frequent ones: 1.png, 10.png and 11.png begin with the name of 1.jpg.
    return min(found, key=lambda suffix: (-found[suffix], len(suffix))) if found else ""


def _without_common_end(images: str, masks: str) -> tuple[str, str]:
    """Two paths without the folders that both end with: masks lie at the same places as their images."""
    first, second = list(Path(images).parts), list(Path(masks).parts)
    while len(first) > 1 and len(second) > 1 and first[-1] == second[-1] and SPLIT not in first[-1]:
        first.pop()
        second.pop()
    return "/".join(first) or ".", "/".join(second) or "."
