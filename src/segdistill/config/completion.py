"""Scripts that let a shell complete commands, options, choices and file names; shtab writes them."""

import argparse
from collections.abc import Iterator

from jsonargparse import ArgumentParser

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`; the parser cannot be used afterwards.

    Raises:
        ValueError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise ValueError("completion needs shtab: install segdistill[completion]") from None
    for action in _texts(parser):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(parser.get_completion_script(f"shtab-{shell}"))


def _texts(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What takes a text, which may name a file; of the commands below too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _texts(command)
        elif action.choices is None and action.nargs != 0:
            kind = str(getattr(action, "_typehint", str))
            if "str" in kind and "Literal" not in kind:
                yield action
