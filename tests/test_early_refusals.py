"""What can be refused without PyTorch is refused before it is loaded, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from segdistill.config import paths

pytestmark = pytest.mark.unit

CASES = {
    "a folder that is not there": (
        ["train", "--data.root", "nowhere"],
        "data.root 'nowhere' is not a folder",
    ),
    "no data set": (["train", "--data.root", "."], ". has none of the layouts that are read"),
    "no layout": (["train", "--data.root", ".", "--data.layout", "no.yaml"], "data.layout no.yaml does not"),
    "no second data set": (
        ["train", "--data.root", "set", "--data.extra", "[no@train]"],
        "'no' is not a fol",
    ),
    "no photos": (
        ["train", "--data.root", "set", "--teacher", "fcn_resnet50", "--data.unlabelled", "[photos]"],
        "photos is not a folder",
    ),
    "no run to start from": (["train", "--data.root", "set", "--init", "set"], "set is not a run folder"),
    "a teacher that is no run": (
        ["train", "--data.root", "set", "--teacher", "set"],
        "set is not a run folder",
    ),
    "another run": (["train", "--data.root", "set", "--out", "run"], "run holds another run"),
    "no run": (
        ["train", "--data.root", "set", "--out", "new", "--resume"],
        "there is no run in new to resume",
    ),
    "other files": (["train", "--data.root", "set", "--out", "set", "--overwrite"], "set holds files but no"),
    "a file": (["train", "--data.root", "set", "--out", "a.png"], "a.png is a file, not a folder"),
    "no dump": (["train", "--replay", "no.json"], "no.json does not exist"),
    "no data to cache": (["cache", "--teacher", "fcn_resnet50"], "data.root '' is not a folder"),
    "evaluate no run": (["evaluate", "set", "--data.root", "set"], "set is not a run folder"),
    "evaluate on nothing": (
        ["evaluate", "fcn_resnet50", "--data.root", "no"],
        "data.root 'no' is not a folder",
    ),
    "compare one": (["compare", "fcn_resnet50"], "compare takes two targets or more"),
    "compare with no run": (["compare", "fcn_resnet50", "set"], "set is not a run folder"),
    "predict nothing": (["predict", "fcn_resnet50", "a.png", "b.png"], "b.png does not exist"),
    "predict no match": (["predict", "fcn_resnet50", "*.jpg"], "*.jpg does not exist, and no file matches"),
    "predict a URL": (
        ["predict", "fcn_resnet50", "https://a.org/b.jpg"],
        "https://a.org/b.jpg is a URL, but",
    ),
    "label a URL": (["label", "fcn_resnet50", "https://a.org/b.jpg"], "https://a.org/b.jpg is a URL, but"),
    "label standard input": (["label", "fcn_resnet50", "-"], "- does not exist"),
    "predict by no run": (["predict", "set", "a.png"], "set is not a run folder with a trained model"),
    "predict by nothing": (
        ["predict", "runs/typo", "a.png"],
        "runs/typo does not exist: it is neither",
    ),
    "label nothing": (["label", "fcn_resnet50", "a.png", "b.png"], "b.png does not exist"),
    "label into a data set": (
        ["label", "fcn_resnet50", "a.png", "--out", "set"],
        "set holds ImageSets but no masks of `segdistill label`",
    ),
    "export no run": (["export", "set"], "set is not a run folder"),
    "benchmark no run": (["benchmark", "fcn_resnet50", "set"], "set is not a run folder"),
    "serve no run": (["serve", "set"], "set is not a run folder"),
    "report on no run": (["report", "run", "set"], "set is not a run folder: it has neither"),
    "pack no student": (["pack", "run", "--out", "packed"], "run is not a run folder with a trained model"),
    "check nothing": (["data", "check", "nowhere"], "data.root 'nowhere' is not a folder"),
}
CODE = f"""
import json, sys
from segdistill import cli
for name, (command, _) in {CASES}.items():
    print(name, cli.main(command), sep="\\n", file=sys.stderr)
    assert "torch" not in sys.modules, name
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Message and exit code of each case, all run in one process that never loads PyTorch."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "a.png").write_text("never opened")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("{}")
    (folder / "set" / "ImageSets").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3 * len(CASES), done.stderr
    return {lines[i + 1]: (lines[i], lines[i + 2]) for i in range(0, len(lines), 3)}


@pytest.mark.parametrize("name", CASES)
def test_refused_without_torch(refused: dict[str, tuple[str, str]], name: str) -> None:
    message, code = refused[name]
    assert message.startswith("segdistill: error: ")
    assert CASES[name][1] in message
    assert code == "1"


def test_a_missing_configuration_is_wrong_usage_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from segdistill import cli\n"
        "assert cli.main(['train', '--config', 'nowhere.yaml']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "nowhere.yaml" in done.stderr


def test_what_a_killed_training_left_is_no_run(tmp_path: Path) -> None:
    for name in (paths.LOCK, f".{paths.SETTINGS}.tmp"):
        (tmp_path / name).touch()
    paths.require_writable(tmp_path, resume=False, overwrite=False)
    with pytest.raises(ValueError, match="to resume"):
        paths.require_writable(tmp_path, resume=True, overwrite=False)


def test_a_run_may_be_continued_or_overwritten_but_not_both(tmp_path: Path) -> None:
    (tmp_path / paths.SETTINGS).touch()
    paths.require_writable(tmp_path, resume=True, overwrite=False)
    paths.require_writable(tmp_path, resume=False, overwrite=True)
    with pytest.raises(ValueError, match="choose one"):
        paths.require_writable(tmp_path, resume=True, overwrite=True)
