"""A table of verbs becomes the parser of a command line, and what was typed becomes settings."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

SHORT = {"--student": "--student.spec", "--teacher": "--teacher.spec", "--init": "--student.init"}
"""Options under the name of a group of settings stand for the network itself; and another short one."""

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
        check: refuses what can be refused before PyTorch is loaded, which takes seconds.
        verbs: the commands that it consists of, instead of all of the above.
    """

    help: str
    run: Callable[[Options], Result | None] = lambda options: None
    settings: type | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[[Options], None] = lambda options: None
    verbs: Mapping[str, "Verb"] = field(default_factory=dict)


def make_parser(verbs: Mapping[str, Verb], version: str, description: str) -> ArgumentParser:
    """The parser of a program's verbs."""
    parser = ArgumentParser(prog="segdistill", version=version, exit_on_error=False, description=description)
    _add_verbs(parser, verbs)
    return parser


def _add_verbs(parser: ArgumentParser, verbs: Mapping[str, Verb]) -> None:
    commands = parser.add_subcommands()
    for name, verb in verbs.items():
        command = ArgumentParser(exit_on_error=False, description=f"{verb.help[0].upper()}{verb.help[1:]}.")
        for argument, form in verb.arguments.items():
            command.add_argument(argument, **form)
        if verb.settings is not None:
            help_config = "YAML file of settings; later options override it"
            command.add_argument("--config", action="config", help=help_config)
            command.add_class_arguments(verb.settings, None)
        commands.add_subcommand(name, command, help=verb.help)
        if verb.verbs:
            _add_verbs(command, verb.verbs)


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """`--teacher SPEC`, `--student SPEC` and `--init RUN` in full: `--teacher.spec SPEC` and so on."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        yield SHORT.get(name, name) + equals + value


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
    _refuse_empty_groups(options, verb.settings)
    _, options = _chosen(parser.instantiate(parsed), verbs)
    values = {setting.name: options[setting.name] for setting in fields(verb.settings)}
    options.settings = verb.settings(**values)
    return verb, options


def usage_error(error: Exception, given: list[str], verbs: Mapping[str, Verb]) -> str:
    """What is wrong with what was typed, in its own words, and where to look."""
    words, verb = [], None
    for word in given:
        if word not in verbs:
            break
        words.append(word)
        verb = verbs[word]
        verbs = verb.verbs
    text = str(error)
    for argument in verb.arguments if verb is not None else ():
        text = text.replace(".".join([*words, argument.lstrip("-")]), argument)
    text = text.replace(f'"{".".join([*words, "subcommand"])}"', "a command")
    if verb is not None and text.startswith("unrecognized arguments: --"):
        unknown = text.split()[2].partition("=")[0].replace("-", "_").replace("__", "--", 1)
        near = get_close_matches(unknown, option_names(verb), n=1, cutoff=0.8)
        text += f"; did you mean {near[0]}?" if near else ""
    return f"{text} ({' '.join(['segdistill', *words])} --help lists the options)"


def option_names(verb: Verb) -> list[str]:
    """The options of a verb as they are typed: its own, those of its settings, and the short ones."""

    def settings(cls: type, prefix: str) -> Iterator[str]:
        for setting in fields(cls):
            kind = get_type_hints(cls)[setting.name]
            if isinstance(kind, type) and is_dataclass(kind):
                yield from settings(kind, f"{prefix}{setting.name}.")
            else:
                yield prefix + setting.name

    own = [argument for argument in verb.arguments if argument.startswith("--")]
    found = [] if verb.settings is None else [*settings(verb.settings, "--")]
    return [*own, *found, *(short for short, full in SHORT.items() if full in found)]


def _chosen(parsed: Namespace, verbs: Mapping[str, Verb]) -> tuple[Verb, Namespace]:
    """The verb that was typed, or the one below it, and its part of what was parsed."""
    verb, options = verbs[parsed.subcommand], parsed[parsed.subcommand]
    return _chosen(options, verb.verbs) if verb.verbs else (verb, options)


def _refuse_empty_groups(options: Namespace, settings: type) -> None:
    """A group of settings that a file gives as null, `teacher:` with nothing below it, is an error."""
    for group in (setting.name for setting in fields(settings) if is_dataclass(setting.type)):
        if options[group] is None:
            raise ValueError(f"{group} is null, but is a group of settings: leave it out for the defaults")
