"""Images in their order, from a folder or from a stream of `datasets`, beginning at any of them."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from segdistill.config.naming import setting
from segdistill.config.paths import HUB
from segdistill.data.formats.huggingface import (
    IMAGE_COLUMN,
    SAVED,
    TRAIN,
    is_table,
    require_library,
    table_digest,
    unlisted_images,
)
from segdistill.data.formats.layout import ALL
from segdistill.data.images import EmbeddedBytes, File, list_images
from segdistill.files import first_line


class ImageSource(ABC):
    """Images that are read once, one after the other.

    Attributes:
        facts: what decides which images these are and their order, as JSON has it.
        total: how many there are; None where only reading them all tells.
    """

    facts: dict[str, Any]
    total: int | None = None

    @abstractmethod
    def read(self, first: int) -> Iterator[tuple[str, File]]:
        """The images from number `first` on, each with a name.

        Raises:
            ValueError: they cannot be read any further.
        """


class FolderSource(ImageSource):
    """The image files below a folder, sorted.

    Raises:
        FileNotFoundError: there is none, or no such folder.
        ValueError: a folder below it is a link, which is not followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, list(list_images(folder))
        links = [path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]
        if links:
            raise ValueError(
                f"{links[0]} is a link to a folder, whose images would be left out: name that folder, or one "
                "without links"
            )
        if not self.files:
            raise FileNotFoundError(f"{folder} holds no images")
        names = json.dumps([self._name(path) for path in self.files]).encode()
        digest = hashlib.blake2b(names, digest_size=8).hexdigest()
        self.facts, self.total = {"source": str(folder.absolute()), "names": digest}, len(self.files)

    def read(self, first: int) -> Iterator[tuple[str, File]]:
        """The files, named by their paths below the folder."""
        return ((self._name(path), path) for path in islice(self.files, first, None))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).with_suffix("").as_posix()


class StreamSource(ImageSource):
    """A column of a data set that `datasets` streams: a row is in memory at a time, none is kept.

    Args:
        source: `hf:ORG/NAME[@REVISION]`, or a folder that `datasets` opens.
        split: None for `train`, or the only one.
        subset: of a repository that has several.
        column: that holds the images.

    Raises:
        ValueError: `datasets` is not installed or cannot open it, it has no such split or column, or would
            leave out images in the folder.
    """

    def __init__(
        self, source: str, split: str | None, subset: str | None = None, column: str = IMAGE_COLUMN
    ) -> None:
        require_library()
        self.source, self.column = source, column
        revision = pinned_revision(source.removeprefix(HUB)) if source.startswith(HUB) else None
        if revision is None:
            _require_listed(Path(source))
        tables = open_streams(source, subset, revision)
        self.split = split or (next(iter(tables)) if len(tables) == 1 else TRAIN)
        if self.split not in tables:
            raise ValueError(f"{source} has no split {self.split!r} among {', '.join(sorted(tables))}")
        self.rows = self._images(tables[self.split])
        self.facts = {
            "source": source if revision else str(Path(source).absolute()),
            "revision": revision,
            "subset": subset,
            "split": self.split,
            "column": column,
            "files": None if revision else table_digest(Path(source)),
        }

    def _images(self, table: Any) -> Any:
        """The column alone, its images encoded as they are stored."""
        from datasets import Image

        features = table.features or {}
        images = [name for name, kind in features.items() if isinstance(kind, Image)]
        if features and self.column not in images:
            raise ValueError(
                f"{self.source} has no column of images {self.column!r} in split {self.split!r}; such "
                f"columns are {', '.join(images) or 'none'}: name one with {setting('column')}"
            )
        return table.select_columns([self.column]).cast_column(self.column, Image(decode=False))

    def read(self, first: int) -> Iterator[tuple[str, File]]:
        """The rows, named by their numbers."""
        import fsspec

        try:
            for number, row in enumerate(self.rows.skip(first), start=first):
                cell = row[self.column] or {}
                data = cell.get("bytes")
                if data is None and cell.get("path"):
                    with fsspec.open(cell["path"], "rb") as file:
                        data = file.read()
                name = f"{self.source} ({self.split}, row {number})"
                yield f"{number:09d}", EmbeddedBytes(Path(self.source), name, data or b"")
        except Exception as error:  # of any kind: the network's, arrow's, its own
            raise ValueError(
                f"{self.source} cannot be read any further ({first_line(error)[:200]}): start again, which "
                "continues"
            ) from None


def _require_listed(folder: Path) -> None:
    """Raise a `ValueError` if `datasets` would leave out images in a folder without a word."""
    left_out = unlisted_images(folder)
    if left_out:
        raise ValueError(
            f"{folder} is read as a data set of Hugging Face, which leaves out {len(left_out):,} image files "
            f"that its tables and lists do not name, such as {left_out[0]}: move them, or what is not an "
            "image file, elsewhere"
        )


def open_source(source: str, split: str | None, subset: str | None, column: str) -> ImageSource:
    """What a path or the name of a repository stands for.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: it is a folder of image files, which has no splits; or see `StreamSource`.
    """
    if source.startswith(HUB) or is_table(Path(source)):
        return StreamSource(source, split, subset, column)
    for name, value in (("split", split), ("subset", subset)):
        if value is not None:
            raise ValueError(f"{source} is a folder of image files, which has no {name}: leave --{name} out")
    return FolderSource(Path(source))


def pinned_revision(name: str) -> str:
    """The commit of ORG/NAME[@REVISION] on the Hugging Face Hub.

    Raises:
        ValueError: there is no such data set, or the Hub cannot be reached.
    """
    import huggingface_hub as hub

    repository, _, revision = name.partition("@")
    try:
        return str(hub.HfApi().dataset_info(repository, revision=revision or None).sha)
    except Exception as error:  # of any kind: the network's, its own
        raise ValueError(
            f"{HUB}{name} cannot be read from {hub.constants.ENDPOINT} ({first_line(error)[:200]}): check "
            "the name, and `hf auth login` where it is private"
        ) from None


def open_streams(source: str, subset: str | None, revision: str | None) -> dict[str, Any]:
    """The stream of each split.

    Raises:
        ValueError: `datasets` cannot open it.
    """
    import datasets

    folder = Path(source)
    try:
        if any((folder / name).is_file() for name in SAVED):
            opened = datasets.load_from_disk(source)
            tables = {ALL: opened} if isinstance(opened, datasets.Dataset) else opened
            return {name: table.to_iterable_dataset() for name, table in tables.items()}
        name = source.removeprefix(HUB).partition("@")[0] if revision else str(folder.resolve())
        return dict(datasets.load_dataset(name, subset, revision=revision, streaming=True))
    except Exception as error:  # of any kind: the network's, arrow's, its own
        raise ValueError(f"{source} cannot be opened by `datasets`: {first_line(error)[:200]}") from None
