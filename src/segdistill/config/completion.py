"""Scripts that let a shell complete commands, options, choices and file names; shtab writes them."""

import argparse
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser

from segdistill.config.mistakes import alternatives

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`; the parser cannot be used afterwards.

    jsonargparse's own script would print the type of what is typed, in Python's words, between the lines.

    Raises:
        ValueError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise ValueError("completion needs shtab: install segdistill[completion]") from None
    for action in _taking_values(parser):
        kind = getattr(action, "_typehint", str)
        if "str" in str(kind) and "Literal" not in str(kind):  # a text, which may name a file
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif choices := _choices(kind):
            action.choices = choices
    return str(shtab.complete(parser, shell))


def _taking_values(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What takes a value and has no choices yet; of the commands below too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _taking_values(command)
        elif action.choices is None and action.nargs != 0:
            yield action


def _choices(kind: Any) -> list[str]:
    """Every value of a type, as one types it; empty where there are others than names."""
    found: list[str] = []
    for one in alternatives(kind):
        if get_origin(one) is Literal:
            found += map(str, get_args(one))
        elif one in (bool, NoneType):
            found += ["null"] if one is NoneType else ["true", "false"]
        else:
            return []
    return found
