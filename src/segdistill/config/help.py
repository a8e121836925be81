"""The help of one verb: the options that people change first, with `--help_all` every one, and examples."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

MANY = 12
"""A verb with more options than this shows some of them first."""
GENERAL = ("--help", "--help_all", "--config", "--quiet", "--verbose")
"""What stands below the options that are shown first."""
NOTHING_PARSED: dict[str, Any] = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
"""Of an option that prints something and ends the program."""


class HelpLines(DefaultHelpFormatter):
    """The help of a command, in which a text of several lines keeps them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(f"{indent}{line}" for line in text.splitlines())


def list_examples(examples: Sequence[str]) -> str | None:
    """What a help ends with: command lines, each on a line of its own; None where there are none."""
    return "\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None


class PrintFirst(argparse.Action):
    """Print the help of the options that people change first, each with an example, and exit.

    Args:
        first: these options and an example of each one's value, in order; an empty one for a flag.
        full_names: options that have a short name, which is shown, and their full name.
    """

    def __init__(
        self, *args: Any, first: Mapping[str, str], full_names: Mapping[str, str], **more: Any
    ) -> None:
        super().__init__(*args, **(more | NOTHING_PARSED))
        self.first, self.full_names = first, full_names

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Leave all other options out of the parser's groups, print what is left, and exit."""
        by_name = {name: action for action in parser._actions for name in action.option_strings}
        chosen = []
        for name, example in self.first.items():
            action = by_name[self.full_names.get(name, name)]
            action.option_strings = [name]
            action.help = f"{action.help} Example: {name} {example}".rstrip() if example else action.help
            chosen.append(action)
        shown = parser.add_argument_group("what is changed first")
        shown._group_actions = chosen
        general = parser.add_argument_group("general")
        general._group_actions = [by_name[name] for name in GENERAL if name in by_name]
        parser._action_groups = [parser._positionals, shown, general]
        left = sum(bool(action.option_strings) for action in parser._actions) - len(chosen)
        more = f"{left} more options: --help_all"
        parser.epilog = f"{more}\n\n{parser.epilog}" if parser.epilog else more
        parser.print_help()
        parser.exit()


class PrintAll(argparse.Action):
    """Print the help of every option, by topic, and exit.

    Args:
        full_names: see `PrintFirst`.
    """

    def __init__(self, *args: Any, full_names: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **(more | NOTHING_PARSED))
        self.full_names = full_names

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Say what the name of a group of settings takes, print, and exit."""
        by_name = {name: action for action in parser._actions for name in action.option_strings}
        for name, action in by_name.items():
            if any(other.startswith(f"{name}.") for other in by_name):
                full = self.full_names.get(name)
                action.help = f"Short for {full}." if full else "YAML file of the settings below."
                action.metavar = full.rpartition(".")[2].upper() if full else "FILE"
        parser.print_help()
        parser.exit()


def add_help(parser: ArgumentParser, first: Mapping[str, str], full_names: Mapping[str, str]) -> None:
    """Give a parser `--help`, and `--help_all` where `first` chooses what `--help` shows."""
    if not first:
        parser.add_argument(
            "-h", "--help", action=PrintAll, full_names=full_names, help="show the options and exit",
        )  # fmt: skip
        return
    parser.add_argument(
        "-h", "--help", action=PrintFirst, first=first, full_names=full_names,
        help="show the options that are changed first, and exit",
    )  # fmt: skip
    parser.add_argument(
        "--help_all", action=PrintAll, full_names=full_names, help="show all options by topic, and exit"
    )
