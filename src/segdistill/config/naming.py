"""How messages name a setting: as an option to who gave a command, by its name to who called a function.

It holds for the whole process, threads included. A process that was started anew, such as a spawned loader's,
names settings as Python does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_options = False


@contextmanager
def options_named() -> Iterator[None]:
    """While it lasts, settings are named as options of the command line."""
    global _options
    before, _options = _options, True
    try:
        yield
    finally:
        _options = before


def setting(name: str) -> str:
    """A setting as whoever reads the message knows it: `--data.root` or `data.root`."""
    return f"--{name}" if _options else name


def call(command: str, function: str) -> str:
    """What to call next, in the form that whoever reads the message can use.

    Args:
        command: a command line.
        function: the same in Python.
    """
    return command if _options else function
