"""Reads data sets of Hugging Face's `datasets` on the disk: saved ones, parquet files, imagefolders."""

import csv
import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from segdistill.data.formats.layout import (
    ALL,
    DESCRIPTION,
    MASK_KEYS,
    FileList,
    Layout,
    find_description,
    read_description,
    read_masks,
    require_split,
)
from segdistill.data.images import EmbeddedFile, File, list_images
from segdistill.data.labels import read_yaml

KEYS = MASK_KEYS | {"image_column", "mask_column"}
IMAGE_COLUMN, MASK_COLUMN = "image", "mask"
"""Columns where a dataset.yaml names no others."""
SAVED = ("dataset_dict.json", "state.json")
"""Files of which `save_to_disk` writes one, for several splits or for one."""
TABLES = ("*.parquet", "*/*.parquet")
METADATA = ("metadata.jsonl", "metadata.csv", "*/metadata.jsonl", "*/metadata.csv")
"""Files that `load_dataset` reads: tables, and the lists of an imagefolder."""
LINE_BYTES = 2**16
"""Most that is read of the first line of such a list."""
TRAIN = "train"
"""The split of which unlabelled images are taken, where there are several."""


class HuggingFaceLayout(Layout):
    """Rows of tables with an image and its mask in each; nothing is decoded before it is needed.

    Args:
        root: the folder of the data set.
        source: the description.
        description: `image_column` and `mask_column` are columns, the rest is as for mask files.

    Raises:
        ValueError: `datasets` is not installed, or the description is wrong.
    """

    title = "a Hugging Face data set"
    signs = f"{' or '.join(SAVED)} (save_to_disk), parquet files, or metadata.jsonl or .csv (imagefolder)"
    same_images = "has one split"
    to_divide = "save it with `train` and `val`"

    def __init__(self, root: Path, source: Path, description: dict[str, Any]) -> None:
        require_library()
        self.root = root
        self.labels, self.reader = read_masks(description, str(source))
        self.columns = [
            str(description.get("image_column", IMAGE_COLUMN)),
            str(description.get("mask_column", MASK_COLUMN)),
        ]
        self.one_split = (root / SAVED[1]).is_file()

    @classmethod
    def find(cls, folder: Path, description: Path | None) -> Self | None:
        """The data set that `folder` is, with the dataset.yaml that names the classes of its masks.

        Raises:
            ValueError: no description names them.
        """
        if not is_table(folder):
            return None
        described = find_description(description, folder / DESCRIPTION)
        if described is None:
            raise ValueError(
                f"{folder} is a Hugging Face data set, which does not say what its masks hold: list the "
                f"classes as `names` in {folder / DESCRIPTION}"
            )
        # Folders, and other things with paths, may hold tables too.
        if not read_yaml(described).keys().isdisjoint({"images", "masks", "annotations", "tasks"}):
            return None
        return cls(folder, described, read_description(described, KEYS))

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The table of each split."""
        return open_tables(self.root)

    def splits(self) -> list[str]:
        """Names of the splits."""
        return sorted(self.tables)

    def list_files(self, split: str) -> FileList:
        """The rows of a split."""
        require_split(self, split)
        rows = Rows(self.root, split, self.tables[split], self.columns)
        images, masks = (rows.files(column) for column in self.columns)
        return FileList(rows.ids(self.columns[0]), images, masks, self.reader, rows.find)


def open_table_images(folder: Path) -> "Rows":
    """The images, without masks, of the split `train` of the data set in a folder, or of its only split.

    Raises:
        ValueError: `datasets` is not installed, there is no such split, or no column of images `image`.
    """
    tables = open_tables(folder)
    split = next(iter(tables)) if len(tables) == 1 else TRAIN
    if split not in tables:
        raise ValueError(f"{folder} has no split {TRAIN!r} among {', '.join(sorted(tables))}")
    return Rows(folder, split, tables[split], [IMAGE_COLUMN])


class Rows:
    """The files in the rows of a table.

    Args:
        root: the folder of the data set.
        split: whose table it is.
        table: a `datasets.Dataset`.
        columns: whose images are read.

    Raises:
        ValueError: there is no such column of images.
    """

    def __init__(self, root: Path, split: str, table: Any, columns: list[str]) -> None:
        from datasets import Image

        images = [name for name, kind in table.features.items() if isinstance(kind, Image)]
        missing = [name for name in columns if name not in images]
        if missing:
            raise ValueError(
                f"{root} has no column of images {missing[0]!r} in split {split!r}; such columns are "
                f"{', '.join(images) or 'none'}: name them as `image_column`, `mask_column` in {DESCRIPTION}"
            )
        self.root = root
        self.prefix = f"{root} ({split}, row "
        stored = Image(decode=False)
        # One table for each column: a row of it has nothing else, and so reads nothing else.
        self.tables = {name: table.select_columns([name]).cast_column(name, stored) for name in columns}
        cached = [Path(one["filename"]) for one in table.cache_files]
        self.container = cached[0] if cached else root

    def paths(self, column: str) -> list[Path] | None:
        """The files that the rows of a column name; None where they hold the images themselves."""
        cells = self.tables[column].data.column(column).combine_chunks()
        if cells.field("bytes").null_count < len(cells) or cells.field("path").null_count:
            return None
        return [Path(path) for path in cells.field("path").to_pylist()]

    def ids(self, column: str) -> list[str]:
        """A name for each row: that of its file below the data set's folder, or its number from 0 on."""
        paths = self.paths(column)
        root = self.root.resolve()
        if paths is None or not all(path.resolve().is_relative_to(root) for path in paths):
            return [f"{row:06d}" for row in range(len(self.tables[column]))]
        return [path.resolve().relative_to(root).with_suffix("").as_posix() for path in paths]

    def files(self, column: str) -> list[File]:
        """The image in each row of a column."""
        paths = self.paths(column)
        if paths is not None:
            return list(paths)
        return [RowFile(self, column, row) for row in range(len(self.tables[column]))]

    def find(self, name: str) -> File:
        """The file that has this name: of a row, or a path."""
        if not name.startswith(self.prefix):
            return Path(name)
        row, _, column = name.removeprefix(self.prefix).removesuffix(")").partition(", column ")
        return RowFile(self, column, int(row))


class RowFile(EmbeddedFile):
    """An image in a row of a table."""

    def __init__(self, rows: Rows, column: str, row: int) -> None:
        self.rows, self.column, self.row = rows, column, row
        self.container = rows.container
        self.name = f"{rows.prefix}{row}, column {column})"

    def read_bytes(self) -> bytes:
        """The encoded image."""
        cell = self.rows.tables[self.column][self.row][self.column]
        if cell is None or cell["bytes"] is None:
            raise FileNotFoundError(f"{self} is empty")
        return bytes(cell["bytes"])


def require_library() -> None:
    """Refuse to go on without `datasets`, which takes seconds to load and is not loaded for this.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("datasets") is None:
        raise ValueError("Hugging Face data sets need datasets: install segdistill[hf]")


def is_table(folder: Path) -> bool:
    """Whether a folder is a data set that `datasets` opens."""
    if any((folder / name).is_file() for name in SAVED):
        return True
    if any(next(folder.glob(pattern), None) is not None for pattern in TABLES):
        return True
    return any(lists_files(path) for pattern in METADATA for path in folder.glob(pattern))


def lists_files(path: Path) -> bool:
    """Whether a metadata file is an imagefolder's list: it has a column `file_name` or `..._file_name`."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = file.readline(LINE_BYTES)
        names = json.loads(line) if path.suffix == ".jsonl" else next(csv.reader([line]), [])
    except (OSError, ValueError, RecursionError, csv.Error):
        return False
    return isinstance(names, dict | list) and any(
        isinstance(name, str) and (name == "file_name" or name.endswith("_file_name")) for name in names
    )


def unlisted_images(folder: Path) -> list[Path]:
    """The image files below the folder of a data set that `datasets` leaves out without a word.

    Beside parquet files these are all; of an imagefolder those that no list names.
    """
    if any((folder / name).is_file() for name in SAVED):
        return []
    listed: set[Path] = set()
    if not any(next(folder.glob(pattern), None) is not None for pattern in TABLES):
        for name in ("metadata.jsonl", "metadata.csv"):
            for path in folder.rglob(name):
                listed |= {path.parent / file for file in _files_of_list(path)}
    resolved = {path.resolve() for path in listed}
    return [path for path in list_images(folder) if path not in listed and path.resolve() not in resolved]


def _files_of_list(path: Path) -> Iterator[str]:
    """The files that a list of an imagefolder names; none of one that cannot be read, as `datasets` says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = (
                map(json.loads, filter(str.strip, file)) if path.suffix == ".jsonl" else csv.DictReader(file)
            )
            for row in rows:
                yield from (
                    str(value)
                    for name, value in dict(row).items()
                    if str(name) == "file_name" or str(name).endswith("_file_name")
                )
    except (OSError, ValueError, TypeError, RecursionError, csv.Error):
        return


def table_digest(folder: Path) -> str:
    """Changes with the files of a data set: their names, lengths and times."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        # `datasets` puts what it computes, and locks, beside saved tables.
        passing = path.name.startswith((".", "cache-")) or path.suffix == ".lock"
        if not passing and path.is_file():
            state = path.stat()
            text = f"{path.relative_to(folder).as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\0"
            found.update(text.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def open_tables(folder: Path) -> dict[str, Any]:
    """The table of each split of the data set in a folder; nothing is fetched from anywhere.

    Raises:
        ValueError: `datasets` is not installed, or cannot open it.
    """
    require_library()
    import datasets

    saved = any((folder / name).is_file() for name in SAVED)
    try:
        opened = (
            datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(str(folder.resolve()))
        )
    except Exception as error:  # of any kind: arrow's, the file system's, its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{folder} cannot be opened by `datasets`: {reason}") from None
    return {ALL: opened} if isinstance(opened, datasets.Dataset) else dict(opened)
