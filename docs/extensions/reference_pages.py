"""Fills the reference pages when the site is built: options from the parser, public names by autodoc.

A page says where with a comment of one line: `<!-- options -->` or `<!-- public names -->`.
"""

import argparse
import dataclasses
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser
from sphinx.application import Sphinx

import segdistill
from segdistill.cli import PURPOSE, VERBS
from segdistill.config.verbs import PROGRAM, SHORT_OPTIONS, Verb, make_parser

SHORT_OF = {full: short for short, full in SHORT_OPTIONS.items()}
EVERYWHERE = ("--help", "--help_all", "--quiet", "--verbose", "--config", "--print_config")
"""Options that are described once, not for each verb."""


def fill(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the comments in the text of one page (Sphinx's event `source-read`)."""
    for comment, make in {"<!-- options -->": options_page, "<!-- public names -->": names_page}.items():
        if comment in source[0]:
            source[0] = source[0].replace(comment, make())


def options_page() -> str:
    """Markdown with a section for each verb, and a table for each group of its options."""
    parser = make_parser(VERBS, segdistill.__version__, PURPOSE)
    return "\n".join(_sections(parser, VERBS, [PROGRAM]))


def _sections(parser: ArgumentParser, verbs: Mapping[str, Verb], path: list[str]) -> Iterator[str]:
    commands: dict[str, ArgumentParser] = next(
        action._name_parser_map for action in parser._actions if hasattr(action, "_name_parser_map")
    )
    for name, verb in verbs.items():
        if verb.verbs:
            yield from _sections(commands[name], verb.verbs, [*path, name])
        else:
            yield from _section(commands[name], [*path, name], verb)


def _section(command: ArgumentParser, words: list[str], verb: Verb) -> Iterator[str]:
    """Examples, the verb's own arguments and options in one table, one for each group of settings."""
    yield f"## {' '.join(words[1:])}\n\n```text\n{command.usage}\n```\n\n{command.description}\n"
    lines = "\n".join(verb.examples)
    yield f"```sh\n{lines}\n```\n"
    groups: dict[str, list[argparse.Action]] = {}
    for group in command._action_groups:
        for action in filter(_is_shown, group._group_actions):
            title = f"### {words[-1]}: {action.dest.partition('.')[0]}\n\n{group.title}.\n"
            groups.setdefault(title if "." in action.dest else "", []).append(action)
    for title, actions in groups.items():
        yield f"{title}\n```{{list-table}}\n:header-rows: 1\n:class: options\n"
        yield "* - option\n  - value\n  - default\n  - what it does"
        yield from map(_row, actions)
        yield "```\n"


def _is_shown(action: argparse.Action) -> bool:
    """Whether it is an option of this verb, and not the file of a whole group or what all verbs have."""
    names = action.option_strings
    return not (set(names) & set(EVERYWHERE)) and type(action).__name__ != "_ActionConfigLoad"


def _row(action: argparse.Action) -> str:
    """One row of the table."""
    name = action.option_strings[0] if action.option_strings else action.dest.upper()
    names = ", ".join(f"`{each}`" for each in (name, SHORT_OF.get(name)) if each)
    takes_default = action.option_strings and action.nargs != 0 and action.default != argparse.SUPPRESS
    default = _yaml(action.default) if takes_default else ""
    default = "required" if action.required and action.option_strings else default
    help_text = re.sub(r"[*<]", r"\\\g<0>", " ".join((action.help or "").split()))
    cells = (names, _kind(action), default, help_text)
    return "* - " + "\n  - ".join(cells)


def _kind(action: argparse.Action) -> str:
    """What values it takes, in words."""
    if action.nargs == 0:
        return "no value"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    return _words(getattr(action, "_typehint", None) or action.type or str) + ", ..." * (action.nargs == "+")


def _words(kind: Any) -> str:
    """A type in words."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_words, inner))
    if get_origin(kind) is list:
        return f"list of {_inner(inner[0])}"
    if get_origin(kind) is tuple:
        return f"({', '.join(map(_words, inner))})"
    if get_origin(kind) is dict:
        return f"mapping of {_words(inner[0])} to {_inner(inner[1])}"
    return {str: "text", int: "integer", float: "number", bool: "`true`, `false`", NoneType: "`null`"}[kind]


def _inner(kind: Any) -> str:
    """A type inside another one: several in brackets."""
    words = _words(kind)
    return f"({words})" if " or " in words and not words.startswith("(") else words


def _yaml(value: Any) -> str:
    """A default as one writes it in a file of settings."""
    if value == "" or value is None:
        return "`null`" if value is None else ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def names_page() -> str:
    """Markdown with what autodoc says of `segdistill.__all__`: functions first, then settings."""
    public = {name: getattr(segdistill, name) for name in segdistill.__all__ if not name.startswith("__")}
    settings = [name for name, value in public.items() if dataclasses.is_dataclass(value)]
    functions = [name for name in public if name not in settings]
    blocks = ["## Functions", *(f".. autofunction:: segdistill.{name}" for name in functions)]
    blocks.append("## Settings")
    # Without the signature, which repeats all fields; inherited ones are listed too.
    blocks += [
        f".. autoclass:: segdistill.{name}()\n   :members:\n   :inherited-members:" for name in settings
    ]
    return "\n\n".join(
        block if block.startswith("#") else f"```{{eval-rst}}\n{block}\n```" for block in blocks
    )


FIELDS: dict[str, list[str]] = {}
"""The docstring of each field, as it is written."""


def remember(app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """Keep a field's docstring from napoleon, which takes what stands before a colon for a type."""
    if what == "attribute":
        FIELDS[name] = list(lines)


def restore(app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """Put it back."""
    lines[:] = FIELDS.pop(name, lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", remember, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    return {"version": segdistill.__version__, "parallel_read_safe": True}
