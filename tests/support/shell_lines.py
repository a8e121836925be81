"""Checks command lines of the documentation without running them."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from markdown_pages import PROJECT

import segdistill
from segdistill.cli import PURPOSE, VERBS
from segdistill.config.verbs import expand, make_parser, read_options

PLACEHOLDERS = {"SIZE": "320", "SHELL": "bash"}
"""What pages write in capitals where a word will not do."""
FOLDERS = ("configs", "benchmarks", "pretrained", "examples", "tests", "docs")
"""A path in one of these is a file of this project."""
OPERATORS = {"|", "||", "&&", "&", ";", "<", ">", ">>"}


def commands_of(code: str) -> Iterator[list[str]]:
    """The commands of a block, each as its words: comments dropped, lines joined, variables of a loop set."""
    variables: dict[str, str] = {}
    for line in code.replace("\\\n", " ").splitlines():
        for name, value in variables.items():
            line = re.sub(rf"\${name}\b|\$\{{{name}\b[^}}]*\}}", value, line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in OPERATORS:
                words.append(word)
                continue
            if words[:1] == ["for"]:
                variables[words[1]] = words[3]
            elif words and words != ["done"]:
                yield words[words[0] == "do" :]
            words = [">"] if word in ("<", ">", ">>") else []


def mistake(command: Sequence[str]) -> str | None:
    """What is wrong with a command, or None; "unknown" for one that these tests know nothing of."""
    words = [word for word in command if word not in ("...", "time")]
    while words and re.match(r"[A-Z0-9_]+=|export$", words[0]):
        words.pop(0)
    if not words or words[0] == ">":
        return None
    if missing := [word for word in words if word.startswith(FOLDERS) and not exists(word)]:
        return f"there is no {missing[0]}"
    if "segdistill.cli" in words:  # python -m, or accelerate launch ... -m
        words = ["segdistill", *words[words.index("segdistill.cli") + 1 :]]
    program, *arguments = words
    if program == "segdistill":
        return refused(arguments)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M)
        return None if set(arguments) <= set(targets) else "no such target"
    if program in ("pip", "uv"):
        return unknown_extras(arguments)
    if program in ("python", "pytest"):
        return unknown_script(arguments)
    return None if program.startswith("benchmarks/") else "unknown"


def exists(word: str) -> bool:
    """Whether a path in a folder of the project is there; a word with wildcards or without a / is no path."""
    path = word.partition("::")[0]
    return "/" not in path or path.split("/")[0] not in FOLDERS or (PROJECT / path).exists()


@cache
def parser_of(*verb: str) -> ArgumentParser:
    """The program's parser with the options of one verb; it takes half a second to make."""
    return make_parser(VERBS, segdistill.__version__, PURPOSE, verb)


def refused(arguments: Sequence[str]) -> str | None:
    """What segdistill's own parser and settings have against a command line."""
    if not arguments or set(arguments) & {"--help", "--help_all", "--version", "--print_config"}:
        return None
    given = [PLACEHOLDERS.get(word, word) for word in expand(arguments)]
    try:
        read_options(parser_of(*given[:2]), VERBS, given)
    except (ArgumentError, ValueError, OSError) as error:
        return str(error)
    return None


def unknown_extras(arguments: Sequence[str]) -> str | None:
    """Extras of this project that pyproject.toml does not have."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        extra for word in arguments for found in re.findall(r"\[(.+)\]", word) for extra in found.split(",")
    }
    return f"no extra {asked - set(extras)}" if asked - set(extras) else None


def unknown_script(arguments: Sequence[str]) -> str | None:
    """A file that is not there, or an option whose name does not occur in it."""
    scripts = [word for word in arguments if word.endswith(".py") and not word.startswith("-")]
    if not scripts:
        return None
    file = PROJECT / scripts[0]
    if not file.exists():
        return f"there is no {scripts[0]}"
    source = file.read_text()
    options = [word.strip("[]").partition("=")[0] for word in arguments if word.strip("[]").startswith("--")]
    unknown = [option for option in options if option not in source and option.lstrip("-") not in source]
    return f"{scripts[0]} has no {unknown[0]}" if unknown else None


def make_workplace(folder: Path) -> None:
    """Links to what commands of the pages name, so that files of settings are found."""
    for name in FOLDERS:
        (folder / name).symlink_to(PROJECT / name)
