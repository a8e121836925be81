"""A run's student in the formats of other runtimes, each file with the record of what it was made from."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from segdistill.files import read_json, write_atomic
from segdistill.models.file_formats import FORMATS


class RuntimeFiles:
    """The files of one run.

    Args:
        folder: where they are; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, form: str) -> Path:
        """The file of a format, whether it is there or not."""
        return self.folder / f"model{FORMATS[form].suffix}"

    def record(self, form: str, source: Mapping[str, str]) -> dict[str, Any] | None:
        """The record of a file that was made from `source`; None where there is none, or one of another."""
        if not all(file.is_file() for file in FORMATS[form].files(self.file(form))):
            return None
        try:
            record = read_json(self._record_file(form))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("source") == source else None

    def write_record(self, form: str, record: Mapping[str, Any]) -> None:
        """Write the record of a file; `source` in it is what it was made from."""
        write_atomic(self._record_file(form), json.dumps(record, indent=2) + "\n")

    def remove(self, form: str) -> None:
        """Delete a file and its record."""
        for file in (self._record_file(form), *FORMATS[form].files(self.file(form))):
            file.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process makes a file, and keep others from it.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield

    def _record_file(self, form: str) -> Path:
        file = self.file(form)
        return file.with_name(f"{file.name}.json")
