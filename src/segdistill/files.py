"""Files as a program may trust them: written whole or not at all, and read only up to a stated size."""

import base64
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock, Timeout

JSON_BYTES = 16 * 2**20
"""Largest JSON file that is read; one of nothing but brackets takes some 30 times as much memory."""
YAML_BYTES = 2**20
"""Largest YAML file that is read: PyYAML takes about ten seconds for it."""
LINES_BYTES = 2**28
"""Largest history.jsonl that is read: some two million records."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, also after a power cut, sees the old content or the new, whole.

    Raises:
        OSError: the file cannot be written; its old content is still there.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files, each atomically; none takes its place before all are on the disk.

    Raises:
        OSError: one cannot be written (its path is in the error); the old ones are all still there.
    """
    with ExitStack() as stack:
        temporaries = {}
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path] = path.with_name(f".{path.name}.tmp")
            stack.callback(temporaries[path].unlink, missing_ok=True)
            try:
                with temporaries[path].open("wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:  # which names no file where the disk is full
                raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        for path, temporary in temporaries.items():
            temporary.replace(path)
    for parent in {path.parent for path in contents}:
        try:
            folder = os.open(parent, os.O_RDONLY)
        except PermissionError:  # Windows opens no folder, and needs none flushed
            continue
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporaries(folder: Path) -> None:
    """Delete what a process that was killed while it wrote left below `folder`."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(lock: Path, doing: str, remedy: str) -> Iterator[None]:
    """Hold a lock file, which one process has at a time.

    Args:
        lock: the file; its folder is made, and it is left behind.
        doing: what only one process may do, for the error: `trains in runs/mine`.
        remedy: what there is to do instead of waiting, for the error: `name another folder with --out`.

    Raises:
        ValueError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise ValueError(f"another process {doing}: wait until it ends, or {remedy}") from None
    try:
        yield
    finally:
        held.release()


def read_text(path: Path, most: int = JSON_BYTES) -> str:
    """The text of a file of at most `most` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger, or is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} has more than {most:,} bytes, the most that is read of such a file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path, most: int = JSON_BYTES) -> Any:
    """What a JSON file of at most `most` bytes holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is larger, is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(read_text(path, most))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def data_url(content: bytes, media_type: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def first_line(error: Exception) -> str:
    """The first line of an exception's text; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML without aliases: a few lines of them can stand for gigabytes, or contain themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed: write the value again")
        return super().compose_node(parent, index)


def read_plain_yaml(path: Path) -> Any:
    """What a YAML file holds: mappings, lists, strings, numbers, truth values and dates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not YAML, has aliases, is nested too deeply, or has more than `YAML_BYTES`.
    """
    text = read_text(path, YAML_BYTES)
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # PyYAML raises anything for impossible dates and numbers.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not valid YAML: {reason}") from None


def refuse_bomb(file: IO[bytes], name: str) -> None:
    """Refuse a zip archive that would unpack to more than its own size; what is no archive passes.

    PyTorch stores tensors in an archive uncompressed.

    Raises:
        ValueError: a member is compressed, or the members overlap.
    """
    file.seek(0)
    if zipfile.is_zipfile(file):
        size = file.seek(0, os.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{name} is a damaged archive: {error}") from None
        packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
        if packed or sum(member.file_size for member in members) > size:
            raise ValueError(
                f"{name} would unpack to more than its own size, as no weights saved by PyTorch do: refused"
            )
    file.seek(0)


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1
