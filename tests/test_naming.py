"""Settings are named as options on the command line, and by their names in Python."""

from pathlib import Path

import pytest

from segdistill import api, cli
from segdistill.config.naming import options_named, setting

pytestmark = pytest.mark.unit


def test_a_setting_is_an_option_while_a_command_runs() -> None:
    with options_named():
        assert setting("data.root") == "--data.root"
    assert setting("data.root") == "data.root"


def test_messages_name_settings_as_the_caller_knows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.txt").write_text("no run")
    with pytest.raises(ValueError, match=r"name another folder with out$"):
        api.train(data="anything", out=str(tmp_path))
    assert cli.main(["train", "--data", "anything", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("name another folder with --out\n")
