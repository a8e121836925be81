"""Finds the images in tar files of webdataset's layout; each is read at its place, nothing is unpacked."""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from glob import has_magic, iglob
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from segdistill.config.paths import HUB
from segdistill.data.formats.huggingface import is_table
from segdistill.data.images import SUFFIXES, EmbeddedFile, list_images
from segdistill.files import write_atomic

TAR = ".tar"
"""Suffix of the files that are read."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Suffixes of files that are refused: a place in them can be reached only by decompressing all before it."""
MAGIC = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}
"""What compressed files begin with, whatever they are called, and what decompresses them."""
TRAILER_BYTES = 2**20
"""Most bytes after a tar's end: writers fill up a record, of 10 KiB or a few times as much."""
HEADER_BYTES = 1024
"""Read at a time while the headers are: a header and the byte before it, and little of the image behind."""
MOST_TARS = 1_000_000
"""Most files that the numbers of a pattern may stand for."""
BRACES = re.compile(r"\{([^{}]*)\}")
"""Alternatives of a pattern, `{000..099}` or `{a,b}`."""


def find_tars(source: str | Path) -> list[Path]:
    """The tar files that a path stands for: one, those in a folder without images, or those of a pattern.

    Returns:
        None of them for a folder that holds images or a Hugging Face data set.

    Raises:
        FileNotFoundError: there is no such file or folder, or none that fits the pattern.
        ValueError: it is the name of something else, or of a folder in whose folders are tar files too.
    """
    folder, name = Path(source), str(source)
    if folder.is_dir():
        found = sorted(path for path in folder.iterdir() if path.name.lower().endswith((TAR, *COMPRESSED)))
        if not found or is_table(folder) or next(list_images(folder), None) is not None:
            return []
        nested = next((path for path in folder.rglob(f"*{TAR}") if path.parent != folder), None)
        if nested is not None:
            raise ValueError(
                f"{folder} holds {TAR} files, and so do folders in it, such as {nested}: name all with the "
                f"pattern {folder}/**/*{TAR}"
            )
        return found
    if name.startswith(HUB):
        raise ValueError(
            f"{name} is on the Hugging Face Hub, and images are read from the disk: `segdistill data shard "
            f"{name} --out shards` writes them into tar files, then name the folder shards"
        )
    if folder.is_file():
        if not name.lower().endswith((TAR, *COMPRESSED)):
            raise ValueError(f"{name} is a file, but images without masks are in a folder or in {TAR} files")
        return [folder]
    if not has_magic(name) and not BRACES.search(name):
        raise FileNotFoundError(f"{name} is not a folder, nor a {TAR} file or a pattern of their names")
    return list(dict.fromkeys(path for one in expand_braces(name) for path in _matching(one)))


def names_tars(source: str | Path) -> bool:
    """Whether a path stands for tar files rather than for a data set with masks; they need not exist."""
    if Path(source).is_dir():
        return bool(find_tars(source))
    name = str(source).lower()
    return name.endswith((TAR, *COMPRESSED)) or has_magic(name) or bool(BRACES.search(name))


def expand_braces(pattern: str) -> Iterator[str]:
    """What a pattern's `{000..099}` and `{a,b}` stand for, as in a shell.

    Raises:
        ValueError: braces hold something else, or stand for more than `MOST_TARS`.
    """
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    words = found[1].split(",")
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if numbers:
        first, last = numbers.groups()
        if not 0 <= int(last) - int(first) < MOST_TARS:
            raise ValueError(f"{pattern}: {found[0]} must go upwards, and to {MOST_TARS:,} files at most")
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        words = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    elif len(words) == 1:
        raise ValueError(f"{pattern}: braces hold {{000..099}} or {{a,b}}, not {found[0]}")
    for word in words:
        yield from expand_braces(pattern[: found.start()] + word + pattern[found.end() :])


def _matching(pattern: str) -> list[Path]:
    """The files of a pattern without braces, sorted."""
    if Path(pattern).is_file():  # whatever signs are in its name
        return [Path(pattern)]
    named = [Path(one) for one in iglob(pattern, recursive=True)] if has_magic(pattern) else []  # noqa: PTH207  # patterns may be absolute
    found = sorted(one for one in named if one.name.lower().endswith((TAR, *COMPRESSED)) and one.is_file())
    if named and not found:
        raise FileNotFoundError(
            f"{pattern} stands for {len(named):,} files or folders, but for no {TAR} file: a folder of "
            "images is named without a pattern"
        )
    if not found:
        raise FileNotFoundError(f"{pattern} does not exist: name {TAR} files that do, or a folder of them")
    return found


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as webdataset has them: `a/b.seg.png` is `a/b` and `seg.png`."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}" if stem else "", extension.lower()


class Entry(NamedTuple):
    """One image of a tar file."""

    offset: int
    """Where its first byte is."""
    size: int
    name: bytes


def read_entries(path: Path) -> NDArray[Any]:
    """Offset, size and name of each image of a tar file, in its order; headers alone are read.

    Raises:
        FileNotFoundError: there is no such file, or no image in it.
        ValueError: it is compressed, cut short or damaged, or has two images of one name.
    """
    entries: dict[str, Entry] = {}
    other = ""
    with path.open("rb", buffering=HEADER_BYTES) as file:
        _refuse_compressed(path, file)
        for member in _members(path, file):
            key, extension = split_name(member.name)
            if not key or f".{extension}" not in SUFFIXES:
                other = other or member.name
                continue
            name = member.name.encode("utf-8", "surrogateescape")
            if key in entries:
                other = entries[key].name.decode(errors="replace")
                raise ValueError(
                    f"{path} has two images of the sample {key!r} ({other} and {member.name}): write it "
                    "again with one image for each name"
                )
            entries[key] = Entry(member.offset_data, member.size, name)
    if not entries:
        what = f"such as 0001.jpg, but has {other!r}" if other else "but has no files"
        raise FileNotFoundError(
            f"{path} holds no images: it must have files of one dot in their names, {what}"
        )
    longest = max(len(entry.name) for entry in entries.values())
    return np.array(list(entries.values()), [("offset", "<u8"), ("size", "<u8"), ("name", f"S{longest}")])


def _refuse_compressed(path: Path, file: IO[bytes]) -> None:
    """Refuse what begins as compressed files do."""
    start = file.read(max(map(len, MAGIC)))
    file.seek(0)
    for magic, command in MAGIC.items():
        if start.startswith(magic):
            raise ValueError(
                f"{path} is compressed, and its images cannot be read at any place: decompress it, "
                f"`{command} {path}`"
            )


def _members(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files in an open tar file, whose end must be there."""
    size = os.fstat(file.fileno()).st_size
    fix = "copy it again from where it is whole, or leave it out"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would grow by a kilobyte each time
                if tar.offset <= end:
                    raise tarfile.ReadError(f"header at byte {member.offset:,} leads back")
                end = tar.offset
                if member.isreg():
                    yield member
            end = tar.offset
    except (tarfile.TarError, LookupError, ArithmeticError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut short, or no tar file ({error}): {fix}") from None
    # `tarfile` takes whatever is no header for the end.
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise ValueError(f"{path} is cut short or damaged: it has {size:,} bytes and no end; {fix}")
    if size - end > TRAILER_BYTES:
        raise ValueError(
            f"{path} has {size - end:,} bytes after its end, as where tar files were joined: keep them apart"
        )


class TarIndex:
    """Where the images of a tar file are in it: made once, then read by all processes, an image at a time.

    It is kept in the user's cache, under the file's path, length and time, so that a changed file gets
    another. Where that cache cannot be written, it is made anew by each program. No file stays open: a data
    set may be of more tar files than a process may have open.

    Args:
        tar: the file.

    Attributes:
        state: its length in bytes, and its time in nanoseconds, when it was opened.
        file: the index in the user's cache.

    Raises:
        FileNotFoundError, ValueError: see `read_entries`.
    """

    def __init__(self, tar: Path) -> None:
        self.tar = tar
        self.state = _state(tar.stat())
        digest = hashlib.blake2b(os.fsencode(tar.resolve()), digest_size=8).hexdigest()
        self.file = index_folder() / f"{digest}-{self.state[0]:x}-{self.state[1]:x}.npy"
        self.stored: StoredEntries | None = None
        self.entries: NDArray[Any] | None = None
        self._open()

    def __len__(self) -> int:
        if self.entries is not None:
            return len(self.entries)
        assert self.stored is not None
        return self.stored.images

    def entry(self, row: int) -> Entry:
        """One image; an index that has vanished, or is damaged, is made again.

        Raises:
            FileNotFoundError: and the tar file has changed, or is not there any more.
        """
        if self.stored is not None:
            try:
                return self.stored.read(self.file, row)
            except OSError:
                self.require_unchanged(self.tar.stat())
                self._open()
                return self.entry(row)
        assert self.entries is not None
        return Entry(*self.entries[row].item())

    def require_unchanged(self, found: os.stat_result, tar: Path | None = None) -> None:
        """Raise a `FileNotFoundError` if a tar file's state is not that of when the index was opened."""
        if _state(found) != self.state:
            raise FileNotFoundError(f"{tar or self.tar} has changed since it was opened: start again")

    def _open(self) -> None:
        self.stored = StoredEntries.find(self.file)
        if self.stored is not None:
            return
        with ExitStack() as stack:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.file.with_name("lock")))
            except OSError:
                self.entries = read_entries(self.tar)
                return
            self.stored = StoredEntries.find(self.file)
            if self.stored is None:  # else another process has made it meanwhile
                entries = read_entries(self.tar)
                with suppress(OSError):
                    self._write(entries)
                self.stored = StoredEntries.find(self.file)
                self.entries = entries if self.stored is None else None

    def _write(self, entries: NDArray[Any]) -> None:
        buffer = BytesIO()
        np.save(buffer, entries)
        write_atomic(self.file, buffer.getvalue())
        for path in self.file.parent.glob(f"{self.file.name.partition('-')[0]}-*"):
            if path != self.file:
                with suppress(OSError):  # Windows keeps what another process reads
                    path.unlink()


class StoredEntries(NamedTuple):
    """Where the images of an index are in its file, which `numpy.save` has written."""

    images: int
    start: int
    """Where the first one begins, in bytes."""
    kind: np.dtype[Any]

    @classmethod
    def find(cls, file: Path) -> Self | None:
        """Those of a file; None where it is not there, or not whole."""
        try:
            with file.open("rb") as opened:
                if np.lib.format.read_magic(opened) != (1, 0):
                    return None
                shape, _, kind = np.lib.format.read_array_header_1_0(opened)
                start, size = opened.tell(), os.fstat(opened.fileno()).st_size
        except (OSError, ValueError):
            return None
        whole = len(shape) == 1 and shape[0] > 0 and size == start + shape[0] * kind.itemsize
        return cls(shape[0], start, kind) if whole and kind.names == Entry._fields else None

    def read(self, file: Path, row: int) -> Entry:
        """One image.

        Raises:
            FileNotFoundError: the file is not there.
            OSError: it cannot be read, or is shorter.
        """
        if not 0 <= row < self.images:
            raise IndexError(f"image {row} of {self.images}")
        with file.open("rb", buffering=0) as opened:
            opened.seek(self.start + row * self.kind.itemsize)
            content = opened.read(self.kind.itemsize)
        if len(content) < self.kind.itemsize:
            raise OSError(f"{file} is cut short")
        return Entry(*np.frombuffer(content, self.kind)[0].item())


class TarImage(EmbeddedFile):
    """An image in a tar file.

    Args:
        index: of the tar file.
        row: which of its images.
        container: the tar file, by another path than the index has it.
    """

    def __init__(self, index: TarIndex, row: int, container: Path | None = None) -> None:
        self.index, self.row, self.container = index, row, container or index.tar
        self.offset, self.size, name = index.entry(row)
        self.member = name.decode(errors="replace")
        self.name = f"{self.container} ({self.member})"

    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            FileNotFoundError: the tar file is not there any more, or is another one.
        """
        with self.container.open("rb") as file:
            self.index.require_unchanged(os.fstat(file.fileno()), self.container)
            file.seek(self.offset)
            return file.read(self.size)

    def stat(self) -> os.stat_result:
        """Those of the tar file, but with the image's own length."""
        whole = self.container.stat()
        return os.stat_result(
            (*whole[:6], self.size, *whole[7:10]), {"st_mtime_ns": whole.st_mtime_ns}
        )  # st_size is the seventh

    def absolute(self) -> Self:
        """The image in the tar file by its absolute path."""
        return type(self)(self.index, self.row, self.container.absolute())


def index_folder() -> Path:
    """The folder of the indexes in the user's cache."""
    return user_cache_path("segdistill") / "tar"


def _state(found: os.stat_result) -> tuple[int, int]:
    """What tells whether a file has changed."""
    return found.st_size, found.st_mtime_ns
