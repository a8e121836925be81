"""Writes images into tar files of webdataset's layout, each whole or not at all."""

import io
import json
import os
import tarfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.config.naming import setting
from segdistill.config.paths import LOCK
from segdistill.data.formats.tar import TAR
from segdistill.data.images import EmbeddedBytes, File, decode_image, open_image
from segdistill.data.label_folder import first_difference, free_name
from segdistill.data.masks import Problem
from segdistill.files import locked, read_json, remove_temporaries, write_atomic

SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
"""Suffix of each format that tar files hold; MPO are the JPEG files of phones."""


class Written(NamedTuple):
    """What became of the images of one tar file."""

    images: int
    left_out: int
    """How many cannot be read, and are not in it."""


class ShardFolder:
    """A folder of tar files that a source's images are written into, in their order.

    A record, `shards.json`, says what is there, so that a call that was stopped is continued by the next.

    Args:
        path: need not exist.
        settings: what the tar files depend on.
        each: images of the source for each tar file.

    Attributes:
        written: what is there, by tar file.
        complete: whether that is all of the source.

    Raises:
        ValueError: the folder holds something else, or tar files of other settings.
    """

    record = "shards.json"

    def __init__(self, path: Path, settings: dict[str, Any], each: int) -> None:
        self.path, self.settings, self.each = path, {**settings, "shard_images": each}, each
        self.written: list[Written] = []
        self.complete = False
        check_out(path)
        if (path / self.record).is_file():
            self._read()

    def _read(self) -> None:
        file = self.path / self.record
        try:
            found = read_json(file)
            before, self.complete = dict(found["settings"]), bool(found["complete"])
            self.written = [Written(int(images), int(left_out)) for images, left_out in found["shards"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged ({error}): delete {self.path}, or name another with {setting('out')}"
            ) from None
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"the {TAR} files in {self.path} were made with "
                    f"{first_difference(name, before.get(name), value)}: name another folder with "
                    f"{setting('out')}, or delete this one"
                )

    def locked(self) -> AbstractContextManager[None]:
        """The right to write into the folder, see `segdistill.files.locked`."""
        remedy = f"name another folder with {setting('out')}"
        return locked(self.path / LOCK, f"writes {TAR} files into {self.path}", remedy)

    @property
    def rows(self) -> int:
        """How many images of the source are done."""
        return sum(images + left_out for images, left_out in self.written)

    def file(self, number: int) -> Path:
        """A tar file by its number."""
        return self.path / f"{number:06d}{TAR}"

    def write(self, images: Iterator[tuple[str, File]]) -> Iterator[Problem | None]:
        """Write the images behind the first `rows`, each with its name; a `Problem` for what is left out."""
        remove_temporaries(self.path)
        self._record()
        while not self.complete:
            number = len(self.written)
            temporary = self.path / f".{number:06d}{TAR}.tmp"
            with temporary.open("wb") as file:
                done = yield from _fill(file, islice(images, self.each))
                file.flush()
                os.fsync(file.fileno())
            if done.images:
                temporary.replace(self.file(number))
            else:
                temporary.unlink()
            self.written += [done] if sum(done) else []
            self.complete = sum(done) < self.each
            self._record()

    def _record(self) -> None:
        record = {"settings": self.settings, "complete": self.complete, "shards": self.written}
        write_atomic(self.path / self.record, json.dumps(record) + "\n")


def _fill(
    file: io.BufferedWriter, images: Iterator[tuple[str, File]]
) -> Generator[Problem | None, None, Written]:
    """Write images into one tar file, as they are encoded; their keys are their names, without dots."""
    written, left_out, taken = 0, 0, set[str]()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, image in images:
            try:
                suffix, data = read_encoded(image)
            except (OSError, ValueError) as error:
                left_out += 1
                yield Problem(name, str(error))
                continue
            folder, slash, last = name.rpartition("/")
            key = free_name(Path(f"{folder}{slash}{last.replace('.', '_')}"), taken)
            taken.add(key.casefold())
            member = tarfile.TarInfo(f"{key}{suffix}")  # of no time and no owner: the same bytes each time
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            written += 1
            yield None
    return Written(written, left_out)


def read_encoded(image: File) -> tuple[str, bytes]:
    """Suffix and bytes of an encoded image; it is decoded wholly, for else a training would stumble over it.

    Raises:
        FileNotFoundError: it has vanished.
        ValueError: it cannot be read, see `read_image`, or is of a format that tar files do not hold.
    """
    data = image.read_bytes()
    encoded = EmbeddedBytes(Path(), str(image), data)
    opened = open_image(encoded)
    form = str(opened.format)
    if form not in SUFFIX_OF:
        raise ValueError(
            f"{image} is a {form} file, but tar files hold {', '.join(SUFFIX_OF)}: save it as PNG"
        )
    decode_image(encoded, opened)
    return SUFFIX_OF[form], data


def check_out(path: Path) -> None:
    """Refuse a folder that holds something else than tar files of `data shard`.

    Raises:
        ValueError: it does, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, not a folder; name another with {setting('out')}")
    if path.is_dir() and not (path / ShardFolder.record).is_file():
        others = sorted(one.name for one in path.iterdir() if one.name != LOCK and one.suffix != ".tmp")
        if others:
            raise ValueError(
                f"{path} holds {others[0]} but no {ShardFolder.record}: name another folder with "
                f"{setting('out')}"
            )
