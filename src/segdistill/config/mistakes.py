"""What is wrong with what was typed, in the words of the one who typed it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from segdistill.config.groups import unknown_setting
from segdistill.config.values import did_you_mean
from segdistill.config.verbs import PROGRAM, SHORT_OPTIONS, Verb

KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list such as '[A, B]'",
    dict: "a mapping such as '{A: B}'",
    NoneType: "null",
}
"""What a value of each type is called."""


def usage_error(error: Exception, given: list[str], verbs: Mapping[str, Verb]) -> str:
    """What is wrong with what was typed, in its own words, and where to look."""
    words, verb = [], None
    for word in given:
        if word not in verbs:
            break
        words.append(word)
        verb = verbs[word]
        verbs = verb.verbs
    text = " ".join(str(error).split())
    for argument in verb.arguments if verb is not None else ():
        text = text.replace(".".join([*words, argument.lstrip("-")]), argument)
    text = text.replace(f'"{".".join([*words, "subcommand"])}"', "a command")
    if "arguments are required" in text:  # a setting goes by its place: data.show.out
        text = text.replace(f" {'.'.join([*words, ''])}", " --")
    text = (
        _unknown_option(text, verb)
        or _unknown_key(text, verb)
        or _wrong_value(text, words, verb)
        or _wrong_choice(text)
        or text
    )
    lists = "options" if verb is not None and not verb.verbs else "commands"
    return f"{text} ({' '.join([PROGRAM, *words])} --help lists the {lists})"


def option_types(verb: Verb) -> dict[str, Any]:
    """The options of a verb as they are typed, the short ones too, with the type of each."""

    def settings(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
        types = get_type_hints(cls)
        for setting in fields(cls):
            kind = types[setting.name]
            if isinstance(kind, type) and is_dataclass(kind):
                yield from settings(kind, f"{prefix}{setting.name}.")
            else:
                yield prefix + setting.name, kind

    own = {name: form.get("type", str) for name, form in verb.arguments.items() if name.startswith("--")}
    found = {} if verb.settings is None else dict(settings(verb.settings, "--"))
    short = {name: found[full] for name, full in SHORT_OPTIONS.items() if full in found}
    return {**own, **found, **short, "--help_all": str, "--quiet": str, "--verbose": str}


def _unknown_option(text: str, verb: Verb | None) -> str:
    """The error for an option that there is not, with the one that was meant; empty for other errors."""
    if verb is None or not text.lower().startswith("unrecognized arguments: --"):
        return ""
    unknown = text.split()[2].partition("=")[0].replace("-", "_").replace("__", "--", 1)
    return text + did_you_mean(unknown, option_types(verb), cutoff=0.8)


def _unknown_key(text: str, verb: Verb | None) -> str:
    """The error for a key that a file has in vain, with the one that was meant; empty for other errors."""
    found = re.search(r"does not accept option '(.*?)'", text)
    if found is None or verb is None or verb.settings is None:
        return ""
    return unknown_setting(verb.settings, found[1])


def _wrong_value(text: str, words: list[str], verb: Verb | None) -> str:
    """The error for a value of the wrong kind, with what is allowed; empty for other errors."""
    found = re.search(r'Parser key "([\w.]+)".*(?:Got|Given) value: (.*)$', text)
    if found is None or verb is None:
        return ""
    option = f"--{found[1].removeprefix('.'.join([*words, '']))}"
    kinds = alternatives(option_types(verb).get(option))
    allowed = [name for kind in kinds for name in _names(kind)]
    if not all(allowed) or not allowed:
        return ""
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    *most, last = allowed
    listed = f"{', '.join(most)} or {last}" if most else last
    return f"{option} is {found[2]!r}, but must be {listed}{did_you_mean(found[2], choices)}"


def _wrong_choice(text: str) -> str:
    """The error for a command that there is not, with the one that was meant; empty for other errors."""
    found = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", text)
    if found is None:
        return ""
    choices = found[2].replace("'", "").split(", ")
    what = "command" if "subcommand" in text else "choice"
    return f"there is no {what} {found[1]!r} among {', '.join(choices)}{did_you_mean(found[1], choices)}"


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _names(kind: Any) -> list[str]:
    """What the values of a type are called: each choice of a `Literal`; [""] where there is no short name."""
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [KINDS.get(get_origin(kind) or kind, "")]
