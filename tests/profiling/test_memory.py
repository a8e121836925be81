"""Memory of a process, and what is known of it where the system does not tell."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from segdistill.profiling import memory
from segdistill.profiling.memory import peak_memory, resident_memory

pytestmark = pytest.mark.unit


def test_a_process_does_not_inherit_the_peak_of_the_one_that_made_it() -> None:
    held = bytearray(3 * 10**9)  # zeroed page by page, so that it is resident
    code = "from segdistill.profiling.memory import peak_memory; held = b'x' * 10**8; print(peak_memory())"
    peak = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    )
    assert len(held) == 3 * 10**9
    assert 10**8 < peak < 2 * 10**9


def test_where_the_system_does_not_tell_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "nothing")
    peak = peak_memory()
    assert peak is not None
    assert resident_memory() == pytest.approx(peak, rel=0.01)  # getrusage has no other number
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: importing it fails
    assert peak_memory() is None
    assert resident_memory() is None


def test_the_module_can_be_imported_without_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    importlib.reload(memory)
