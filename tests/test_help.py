"""What the program says about itself: help, the usual way, completion in a shell."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from segdistill import cli, cli_examples
from segdistill.config.completion import SHELLS
from segdistill.config.help import GENERAL, MANY
from segdistill.config.mistakes import option_types
from segdistill.config.verbs import SHORT_OPTIONS, Verb, expand, make_parser, read_options

pytestmark = pytest.mark.integration


def test_the_program_alone_shows_the_usual_way(capsys: Any) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    commands = [line.split()[1] for line in err.splitlines() if line.startswith("  segdistill ")]
    assert commands == ["data", "evaluate", "train", "predict", "export"]
    for line in err.splitlines():
        if line.startswith("  segdistill "):
            typed = [*expand(line.split()[1:])]
            make_parser(cli.VERBS, "0", "", typed).parse_args(typed)


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help(capsys: Any, verb: str) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: segdistill {verb} ")


def shown_options(capsys: Any, *arguments: str) -> list[str]:
    """The options that a help lists."""
    with pytest.raises(SystemExit):
        cli.main([*arguments])
    text = capsys.readouterr().out
    return [*dict.fromkeys(re.findall(r"^  (?:-h, )?(--[\w.]+)", text, flags=re.MULTILINE))]


@pytest.mark.parametrize("verb", [name for name, verb in cli.VERBS.items() if not verb.verbs])
def test_help_shows_few_options_and_help_all_every_one(capsys: Any, verb: str) -> None:
    found = cli.VERBS[verb]
    types = option_types(found)
    shown = shown_options(capsys, verb, "--help")
    if not found.first:
        assert len(types) <= MANY + 2  # beside --quiet and --verbose
        return
    assert shown[: len(found.first)] == [*found.first]
    assert {*shown[len(found.first) :]} <= {*GENERAL}
    every = shown_options(capsys, verb, "--help_all")
    assert {*every} >= {*types} - {*SHORT_OPTIONS}


def test_help_says_what_the_name_of_a_group_takes(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help_all"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--teacher SPEC Short for --teacher.spec." in text
    assert "--optim FILE YAML file of the settings below." in text
    assert "configuration file" not in text


@pytest.mark.parametrize("verb", [name for name, verb in cli.VERBS.items() if verb.first])
def test_the_examples_of_help_can_be_typed(verb: str) -> None:
    arguments = ["x"] * sum(not name.startswith("-") for name in cli.VERBS[verb].arguments)
    for option, example in cli.VERBS[verb].first.items():
        arguments += [option, *shlex.split(example)]
    parser = make_parser(cli.VERBS, "0", "", [verb])
    chosen, _ = read_options(parser, cli.VERBS, [verb, *expand(arguments)])
    assert chosen is cli.VERBS[verb]


def commands(verbs: Mapping[str, Verb], *path: str) -> Iterator[tuple[tuple[str, ...], Verb]]:
    """Each verb that does something, with what is typed for it."""
    for name, verb in verbs.items():
        if verb.verbs:
            yield from commands(verb.verbs, *path, name)
        else:
            yield (*path, name), verb


@pytest.mark.parametrize(
    ("words", "verb"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(cli.VERBS)]
)
def test_every_help_ends_with_whole_commands_that_can_be_typed(
    capsys: Any, words: tuple[str, ...], verb: Verb
) -> None:
    for option in ("--help", "--help_all") if verb.first else ("--help",):
        with pytest.raises(SystemExit):
            cli.main([*words, option])
        lines = capsys.readouterr().out.rstrip().splitlines()
        shown = [line.removeprefix("  ") for line in lines[lines.index("examples:") + 1 :]]
        assert shown == [*verb.examples]
    assert 1 <= len(verb.examples) <= 2
    parser = make_parser(cli.VERBS, "0", "", words)
    for line in verb.examples:
        assert len(line) < 79  # of 80 columns, with its indent
        program, *typed = shlex.split(line)
        chosen, _ = read_options(parser, cli.VERBS, [*expand(typed)])
        assert (program, chosen) == ("segdistill", verb)


def test_every_example_belongs_to_a_command() -> None:
    assert {*cli_examples.EXAMPLES} == {" ".join(words) for words, _ in commands(cli.VERBS)}


COMPLETE = """
source SCRIPT
COMP_WORDS=(TYPED) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=() COMP_TYPE=63
_shtab_segdistill
echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_choices_and_files_and_prints_nothing(
    capsys: Any, tmp_path: Path
) -> None:
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()
    cases = {
        "segdistill ev": "evaluate",
        "segdistill train --objective.te": "--objective.temperature --objective.teacher_layer",
        "segdistill train --optim.name ''": "adamw adam sgd",
        "segdistill train --teacher.flip ''": "true false",
        "segdistill train --steps ''": "",
        "segdistill train --data.long_side ''": "",
        "segdistill train --quantize i": "int8",
        "segdistill data sha": "shard shapes",
        "segdistill predict run pho": "photos",
        "segdistill train --data.root pho": "photos",
    }
    for words, expected in cases.items():
        code = COMPLETE.replace("SCRIPT", "./script").replace("TYPED", words)
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected.split(), words
        assert done.stderr == "", words


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_has_no_words_of_the_library(capsys: Any, shell: str) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--objective.teacher_layer" in script
    assert "jsonargparse" not in script
    assert "Expected type" not in script
    assert "matched choices" not in script
