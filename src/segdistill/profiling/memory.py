"""Memory of this process, where the system tells: Linux and macOS, not Windows."""

import os
import sys
from pathlib import Path

PROC = Path("/proc/self")


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell.

    Where there is /proc it is read there: `getrusage` starts a process with the peak of the one that made it.
    """
    try:
        status = (PROC / "status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource  # there is none on Windows
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_memory() -> int | None:
    """Resident memory of this process now, in bytes; its peak, or None, where the system does not tell."""
    try:
        pages = int((PROC / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")
