"""What a piece of code adds to the memory of its process, at the most (Linux)."""

from pathlib import Path


class AddedMemory:
    """The peak from here on, above what is resident now, in bytes; earlier peaks do not hide it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        self.before = self._bytes("VmRSS")

    def peak(self) -> int:
        """Bytes added so far, at the most."""
        return self._bytes("VmHWM") - self.before

    @staticmethod
    def _bytes(field: str) -> int:
        return 1024 * int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])
