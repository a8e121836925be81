"""A data set of images and masks that are computed for them, which grows image by image.

An image is put beside its mask once the mask is written, so that what is there can be opened at each moment.
"""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.config.naming import setting
from segdistill.config.paths import LOCK
from segdistill.data.formats.layout import DESCRIPTION, dump_description
from segdistill.data.images import SUFFIXES
from segdistill.data.labels import VOID, LabelSet
from segdistill.files import locked, read_text, remove_temporaries, write_together

RECORD_BYTES = 2**28
"""Largest record that is read: some two million images."""
MOST_SHOWN = 80
"""Characters that a message shows of a setting."""
CLOCK_NS = 2 * 10**9
"""Nanoseconds by which a copy's time may differ from its file's: no file system rounds times further."""


class LabelledImage(NamedTuple):
    """One image of the data set."""

    source: Path
    """The file that was named."""
    name: Path
    """Relative path of image and mask, without suffix."""


class LabelFolder:
    """The folder of such a data set: images, masks, its dataset.yaml, and a record of where they come from.

    Args:
        path: need not exist.

    Attributes:
        record: name of the file that says how the masks were made, and which file each image is.
        verb: the command that writes the folder, for messages.
        images, masks: the folders of these.
        bits: of the images, see `Layout.bits`.
        sheet: the picture of some of them.
    """

    record = "label.json"
    verb = "label"
    bits: int | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.images, self.masks = self.path / "images", self.path / "masks"
        self.sheet = self.path / "labels.jpg"

    def describe(self, labels: LabelSet) -> dict[str, Any]:
        """The content of its dataset.yaml."""
        return {
            **replace(labels, void=VOID).to_dict(),
            "images": self.images.name,
            "masks": self.masks.name,
            "mask_name": "{stem}.png",
            **({"bits": self.bits} if self.bits else {}),
        }

    def check(self, paths: Iterable[str | Path]) -> None:
        """Refuse a folder that holds something else, or that `paths` overlap, before anything is read.

        Raises:
            ValueError: see above.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, not a folder; name another as `out`")
        own = self.path.resolve()
        for path in paths:
            given = Path(path).resolve()
            if own.is_relative_to(given) or given.is_relative_to(own):
                raise ValueError(
                    f"{path} and the data set's folder {self.path} lie in each other, so that it would read "
                    "its own images; name a folder outside as `out`"
                )
        if self.path.is_dir() and not (self.path / self.record).is_file():
            left = {
                LOCK,
                f".{self.record}.tmp",
                f".{DESCRIPTION}.tmp",
            }  # by a call that ended before it began
            others = sorted(path.name for path in self.path.iterdir() if path.name not in left)
            if others:
                raise ValueError(
                    f"{self.path} holds {others[0]} but no masks of `segdistill {self.verb}`; "
                    "name another folder as `out`"
                )

    def locked(self) -> AbstractContextManager[None]:
        """The right to write into the folder, see `segdistill.files.locked`."""
        remedy = f"name another folder with {setting('out')}"
        return locked(self.path / LOCK, f"writes masks into {self.path}", remedy)

    def open(
        self, found: Iterable[tuple[Path, Path]], labels: LabelSet, settings: dict[str, Any]
    ) -> list[LabelledImage]:
        """Give each image its name, and write what describes the data set.

        An image keeps its name in later calls. Where two would get one name, the later one gets a number.

        Args:
            found: image files, each with the relative path, without suffix, that it would like to have.
            labels: what the indices of the masks mean.
            settings: what the masks depend on.

        Returns:
            The images in their order; one that was named twice is there once.

        Raises:
            ValueError: the masks that are there were made with other settings, the record is damaged, or a
                file is none that a data set can hold.
        """
        sources = self._read_sources(settings)
        names = {source: name for name, source in sources.items()}
        taken = {name.casefold() for name in sources}  # some file systems do not tell a from A
        images: dict[str, LabelledImage] = {}
        for path, wanted in found:
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                allowed = ", ".join(sorted(SUFFIXES))
                raise ValueError(f"{path} is no image that a data set can hold ({allowed}, not hidden)")
            source = os.path.abspath(path)  # noqa: PTH100  # of a link, its own name
            if source not in names:
                names[source] = free_name(wanted, taken)
                taken.add(names[source].casefold())
                sources[names[source]] = source
            images[source] = LabelledImage(path, Path(names[source]))
        record = {"settings": settings, "sources": sources}
        remove_temporaries(self.path)
        write_together(
            {
                self.path / self.record: json.dumps(record, indent=1) + "\n",
                self.path / DESCRIPTION: dump_description(self.describe(labels)),
            }
        )
        return list(images.values())

    def _read_sources(self, settings: dict[str, Any]) -> dict[str, str]:
        """The file of each image that is there, by name; the settings must be the same."""
        file = self.path / self.record
        if not file.is_file():
            return {}
        try:
            record = json.loads(read_text(file, RECORD_BYTES))
            before, sources = dict(record["settings"]), dict(record["sources"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file} is damaged ({error}): delete {self.path}, or name another as `out`"
            ) from None
        for name, value in settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"the masks in {self.path} were made with "
                    f"{first_difference(name, before.get(name), value)}: name another folder as `out`, or "
                    "delete this one"
                )
        return {str(name): str(source) for name, source in sources.items()}

    def image_file(self, image: LabelledImage) -> Path:
        """Where the image is, with the suffix that its file has."""
        return self.images / image.name.with_name(image.name.name + image.source.suffix)

    def mask_file(self, image: LabelledImage) -> Path:
        """Where its mask is."""
        return self.masks / image.name.with_name(f"{image.name.name}.png")

    def has(self, image: LabelledImage) -> bool:
        """Whether image and mask are there, and the image is what its file is now."""
        copy, mask = self.image_file(image), self.mask_file(image)
        if not (copy.is_file() and mask.is_file()):
            return False
        here, now = copy.stat(), image.source.stat()
        alike = here.st_size == now.st_size and abs(here.st_mtime_ns - now.st_mtime_ns) <= CLOCK_NS
        same = copy.samefile(image.source) or alike
        return same and mask.stat().st_mtime_ns >= here.st_mtime_ns

    def add(self, image: LabelledImage) -> None:
        """Put the image beside its mask: as a hard link, which takes no room, else as a copy."""
        target, mask = self.image_file(image), self.mask_file(image)
        changed = image.source.stat().st_mtime_ns
        if mask.stat().st_mtime_ns < changed:  # by a clock that is ahead: the mask is newer
            os.utime(mask, ns=(changed, changed))
        if target.is_file() and target.samefile(image.source):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            os.link(image.source.resolve(), temporary)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(image.source, temporary)
        temporary.replace(target)


def first_difference(name: str, before: Any, value: Any) -> str:
    """`NAME OLD, not NEW` for the first part in which two JSON values differ, each bounded in length."""
    if isinstance(before, dict) and isinstance(value, dict):
        key = next(key for key in [*before, *value] if before.get(key) != value.get(key))
        return first_difference(f"{name}.{key}", before.get(key), value.get(key))
    if isinstance(before, list) and isinstance(value, list) and len(before) == len(value):
        place = next(place for place, one in enumerate(before) if one != value[place])
        return first_difference(f"{name}[{place}]", before[place], value[place])
    return f"{name} {shown(before)}, not {shown(value)}"


def shown(value: Any) -> str:
    """A value as text, without its middle where it is long: paths differ at their ends."""
    text, half = str(value), MOST_SHOWN // 2
    return text if len(text) <= MOST_SHOWN else f"{text[:half]}...{text[-half:]}"


def free_name(wanted: Path, taken: set[str]) -> str:
    """The name, or the name with the first number from 2 on that is not `taken`, in lower case."""
    name, number = wanted.as_posix(), 1
    while name.casefold() in taken:
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}").as_posix()
    return name
