"""Feeds the readers of YAML and JSON with bytes that lead to new code: python fuzz.py -max_total_time=60.

Needs atheris, which is not among the project's dependencies: it has wheels for some systems only.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["yaml", "segdistill.files", "segdistill.data.labels"]):
    from segdistill.data.labels import label_set, read_yaml
    from segdistill.files import read_json

FILE = Path(tempfile.mkdtemp()) / "x"


def one(data: bytes) -> None:
    """Anything but a refusal ends the program."""
    FILE.write_bytes(data)
    for read in (read_yaml, read_json):
        try:
            label_set(read(FILE), "x")
        except ValueError as error:
            if not str(error):
                raise AssertionError("a refusal without a word") from error


atheris.Setup(sys.argv, one)
atheris.Fuzz()
