"""Settings are named as options on the command line, and by their names in Python."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill import api, cli
from segdistill.build import make_student
from segdistill.config.naming import call, options_named, setting
from segdistill.data.label_folder import LabelFolder
from segdistill.data.shard_folder import ShardFolder
from segdistill.engine.run_folder import RunFolder

pytestmark = pytest.mark.unit


def test_a_setting_is_an_option_while_a_command_runs() -> None:
    with options_named():
        assert setting("data.root") == "--data.root"
        assert call("segdistill train", "segdistill.train()") == "segdistill train"
    assert setting("data.root") == "data.root"
    assert call("segdistill train", "segdistill.train()") == "segdistill.train()"


def test_messages_name_settings_as_the_caller_knows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.txt").write_text("no run")
    with pytest.raises(ValueError, match=r"name another folder with out$"):
        api.train(data="anything", out=str(tmp_path))
    assert cli.main(["train", "--data", "anything", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("name another folder with --out\n")


def test_a_cache_without_settings_asks_for_them_as_the_caller_writes_them() -> None:
    with pytest.raises(
        ValueError, match=r"^name the teacher with teacher and the folder with teacher\.cache$"
    ):
        api.cache()
    with options_named(), pytest.raises(ValueError, match=r"with --teacher and .* with --teacher\.cache$"):
        api.cache()


@pytest.mark.parametrize(
    "make", [RunFolder, LabelFolder, lambda path: ShardFolder(path, {}, 1)], ids=["run", "masks", "tar files"]
)
@pytest.mark.parametrize(("named", "option"), [(nullcontext, "out"), (options_named, "--out")])
def test_a_folder_that_is_taken_names_the_setting(
    tmp_path: Path, make: Callable[[Path], Any], named: Any, option: str
) -> None:
    with make(tmp_path).locked(), named():
        with pytest.raises(ValueError, match=f"wait until it ends, or name another folder with {option}$"):
            with make(tmp_path).locked():
                pass


@pytest.mark.integration
def test_a_student_of_another_shape_names_the_settings_that_fit(run: Path) -> None:
    folder = RunFolder(run)
    labels = folder.require_student().labels
    other = replace(folder.config.student, width=0.2, init=str(run))
    with pytest.raises(ValueError, match=r"another network: start from it with student\.width 0\.1$"):
        make_student(other, labels)
    with options_named(), pytest.raises(ValueError, match=r"start from it with --student\.width 0\.1$"):
        make_student(other, labels)
