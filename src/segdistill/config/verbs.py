"""A table of verbs becomes the parser of a command line, and what was typed becomes settings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from segdistill.config.groups import check_group, group_types
from segdistill.config.help import HelpLines, add_help, list_examples
from segdistill.config.keywords import SHORT_NAMES

PROGRAM = "segdistill"
SHORT_OPTIONS = {f"--{short}": f"--{full}" for short, full in SHORT_NAMES.items()}
"""`--teacher SPEC` for `--teacher.spec SPEC`, and so on."""
VERBOSE = "also print the time of each line, what libraries log, and where an error comes from"

Options = Namespace
"""What was typed: the verb's arguments by name, and `settings`, an instance of the verb's settings class."""
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Attributes:
        help: what it does, in the list of commands.
        run: carries it out; returns its result for machines, in which `problems` above 0 mean exit code 1.
        settings: the dataclass whose fields are its options, and the content of its `--config FILE`.
        arguments: what else it takes: by name, what argparse's `add_argument` gets.
        resumed: with `--resume` and no `--config`, makes the settings from those that were typed, by name.
        check: refuses what can be refused before PyTorch is loaded, which takes seconds.
        first: of many options those that people change first, and an example of each one's value.
        examples: command lines that its help ends with.
        verbs: the commands that it consists of, instead of all of the above.
    """

    help: str
    run: Callable[[Options], Result | None] = lambda options: None
    settings: type | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resumed: Callable[[Mapping[str, Any]], object] | None = None
    check: Callable[[Options], None] = lambda options: None
    first: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[str] = ()
    verbs: Mapping[str, "Verb"] = field(default_factory=dict)


def make_parser(
    verbs: Mapping[str, Verb], version: str, description: str, typed: Sequence[str] | None = None
) -> ArgumentParser:
    """The parser of a program's verbs; where `typed` is given, with the options of the verbs in it alone.

    (Those of all verbs take half a second.)
    """
    parser = ArgumentParser(
        prog=PROGRAM,
        version=version,
        exit_on_error=False,
        description=description,
        formatter_class=HelpLines,  # of the commands, too
    )
    _add_verbs(parser, verbs, [PROGRAM], typed)
    return parser


def _add_verbs(
    parser: ArgumentParser, verbs: Mapping[str, Verb], path: Sequence[str], typed: Sequence[str] | None
) -> None:
    commands = parser.add_subcommands()
    for name, verb in verbs.items():
        words = [*path, name]
        takes = [f"{argument.upper()}{'...' * (form.get('nargs') == '+')}"
                 for argument, form in verb.arguments.items() if not argument.startswith("-")]  # fmt: skip
        command = ArgumentParser(
            exit_on_error=False,
            description=f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=list_examples(verb.examples),
            add_help=False,
            usage=" ".join([*words, "COMMAND ..."] if verb.verbs else [*words, *takes, "[options]"]),
        )
        if typed is not None and name not in typed:
            commands.add_subcommand(name, command, help=verb.help)
            continue
        add_help(command, verb.first, SHORT_OPTIONS)
        for argument, form in verb.arguments.items():
            command.add_argument(argument, **form)
        if not verb.verbs:
            command.add_argument(
                "--quiet", action="store_true", help="print warnings, errors and the result alone"
            )
            command.add_argument("--verbose", action="store_true", help=VERBOSE)
        if verb.settings is not None:
            help_config = "YAML file of settings; later options override it"
            command.add_argument("--config", action="config", help=help_config)
            command.add_class_arguments(verb.settings, None)
        commands.add_subcommand(name, command, help=verb.help)
        if verb.verbs:
            _add_verbs(command, verb.verbs, words, typed)


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """Short options in full: `--teacher SPEC` is `--teacher.spec SPEC`, and so on (`SHORT_OPTIONS`)."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        yield SHORT_OPTIONS.get(name, name) + equals + value


def read_options(
    parser: ArgumentParser, verbs: Mapping[str, Verb], arguments: list[str]
) -> tuple[Verb, Options]:
    """The verb that was typed and its options, with its settings as an object.

    Raises:
        jsonargparse.ArgumentError: an option is unknown, or its value is of the wrong kind.
        ValueError: a setting is impossible.
    """
    parsed = parser.parse_args(arguments)
    verb, options = _chosen(parsed, verbs)
    if verb.settings is None:
        return verb, options
    names = [setting.name for setting in fields(verb.settings)]
    for group in group_types(verb.settings):
        if not isinstance(options[group], Namespace):
            check_group(group, options[group])
    if verb.resumed is not None and options.resume and options.config is None:
        _, typed = _chosen(parser.parse_args(arguments, defaults=False).clone(with_meta=False), verbs)
        given = {name: value for name, value in typed.as_dict().items() if name in names}
        options.settings = verb.resumed(given)
        return verb, options
    _, options = _chosen(parser.instantiate(parsed), verbs)
    options.settings = verb.settings(**{name: options[name] for name in names})
    return verb, options


def _chosen(parsed: Namespace, verbs: Mapping[str, Verb]) -> tuple[Verb, Namespace]:
    """The verb that was typed, or the one below it, and its part of what was parsed."""
    verb, options = verbs[parsed.subcommand], parsed[parsed.subcommand]
    return _chosen(options, verb.verbs) if verb.verbs else (verb, options)
