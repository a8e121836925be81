"""Every command line of the documentation is one that the programs take: options, values, files, extras."""

from pathlib import Path

import pytest
import yaml
from markdown_pages import PAGES, Block, blocks_of, name_of
from shell_lines import commands_of, make_workplace, mistake

from segdistill.config.train import StudentConfig, TrainConfig
from segdistill.config.yaml import to_yaml

pytestmark = pytest.mark.unit
RIGHT = [page for page in PAGES if page.name != "troubleshooting.md"]
"""The pages whose commands are meant to work; those of the other one are run, and fail as it says."""
LANGUAGES = {"sh", "python", "yaml", "text", "json"}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the pages' commands are typed in, with the files of settings that they name."""
    make_workplace(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").write_text(to_yaml(TrainConfig(student=StudentConfig())))
    (tmp_path / "FILE").write_text(to_yaml(TrainConfig()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RIGHT, ids=name_of)
def test_commands_are_right(page: Path, workplace: Path) -> None:
    blocks = list(blocks_of(page))
    for block in blocks:
        first = block.code.partition("\n")[0]
        if block.language == "yaml" and first.startswith("# ") and first.endswith(".yaml"):
            (workplace / first[2:]).parent.mkdir(parents=True, exist_ok=True)
            (workplace / first[2:]).write_text(block.code)
    wrong = [found for block in blocks if block.language == "sh" for found in mistakes_in(block)]
    assert not wrong


def mistakes_in(block: Block) -> list[str]:
    """What is wrong with its commands; unknown programs pass where a comment says why."""
    found = [(command, mistake(command)) for command in commands_of(block.code)]
    return [
        f"{block}: {' '.join(command)}: {wrong}"
        for command, wrong in found
        if wrong and not (wrong == "unknown" and block.unchecked)
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_is_readable(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict | list), block


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_languages_are_known(page: Path) -> None:
    allowed = {*LANGUAGES, "{toctree}"}
    assert not [str(block) for block in blocks_of(page) if block.language not in allowed]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("segdistill train --data mydata --stepz 3", "--stepz"),
        ("segdistill train --data mydata --optim.lr -1 --teacher runs/big", "optim.lr is -1"),
        ("accelerate launch -m segdistill.cli train --config configs/nothing.yaml", "configs/nothing.yaml"),
        ("python benchmarks/nothing.py", "there is no benchmarks/nothing.py"),
        ("python benchmarks/serve.py runs/mine --sped 3", "no --sped"),
        ("pip install '.[onnx,nothing]'", "nothing"),
        ("make nothing", "no such target"),
        ("curl http://127.0.0.1", "unknown"),
        ("cp a b && segdistill trian", "unknown"),
        ("for x in openvino; do\n  segdistill export runs/mine --format no$x\ndone", "noopenvino"),
    ],
)
def test_a_wrong_command_is_found(line: str, wrong: str, workplace: Path) -> None:
    found = [text for command in commands_of(line) if (text := mistake(command))]
    assert wrong in str(found)
