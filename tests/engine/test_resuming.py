"""A run that is resumed without settings has its own; what is given besides wins, and code needs trust."""

from pathlib import Path
from typing import Any

import pytest

from segdistill import cli
from segdistill.config.train import DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.config.verbs import Options, expand, make_parser, read_options
from segdistill.config.yaml import to_yaml
from segdistill.engine.resuming import resumed_config

pytestmark = pytest.mark.unit
CODE = "mine.py:never_called"


@pytest.fixture
def begun(tmp_path: Path) -> TrainConfig:
    """The settings of a run folder that has nothing else, under which it was made and moved since."""
    config = TrainConfig(
        data=DataConfig(root="mydata", unlabelled=["photos"]),
        teacher=TeacherConfig(spec=["a.onnx", "b.onnx"], mix=[1.0, 2.0], map={"car": "vehicle"}),
        optim=OptimConfig(lr=0.5, schedule="constant"),
        device="cpu",
        steps=20,
        evaluate_every=10,
        out="elsewhere",
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return config


def typed(*arguments: object) -> Any:
    """The settings that a command ends up with."""
    words = [*expand(["train", *map(str, arguments)])]
    options: Options
    _, options = read_options(make_parser(cli.VERBS, "0", "", words), cli.VERBS, words)
    return options.settings


def test_without_settings_it_has_those_of_the_run(tmp_path: Path, begun: TrainConfig) -> None:
    own = resumed_config({"out": tmp_path})
    assert own == typed("--out", tmp_path, "--resume")
    assert own.out == str(tmp_path)
    assert (own.data, own.teacher, own.optim, own.steps) == (
        begun.data,
        begun.teacher,
        begun.optim,
        begun.steps,
    )


def test_settings_that_are_given_win_also_where_they_are_the_defaults(
    tmp_path: Path, begun: TrainConfig
) -> None:
    default = OptimConfig().lr
    given = {"out": str(tmp_path), "steps": 40, "optim": {"lr": default}, "data.workers": 0, "device": "auto"}
    changed = resumed_config(given)
    assert (changed.steps, changed.optim.lr, changed.data.workers, changed.device) == (40, default, 0, "auto")
    assert (changed.optim.schedule, changed.teacher) == ("constant", begun.teacher)
    options = ["--steps", 40, "--optim.lr", default, "--data.workers", 0, "--device", "auto"]
    assert typed("--resume", "--out", tmp_path, *options) == changed


def test_groups_and_lists_can_be_typed_too(tmp_path: Path, begun: TrainConfig) -> None:
    (tmp_path / "rate.yaml").write_text("lr: 0.25\n")
    group = ["--optim", tmp_path / "rate.yaml", "--data.extra", "[x]", "--data.extra+", "y"]
    changed = typed("--resume", "--out", tmp_path, *group, "--teacher.map.car", "vehicle")
    assert (changed.optim.lr, changed.data.extra) == (0.25, ["x", "y"])
    assert changed.teacher == begun.teacher


def test_with_a_file_of_settings_those_of_the_run_are_not_read(tmp_path: Path, begun: TrainConfig) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 7\n")
    assert typed("--config", tmp_path / "mine.yaml", "--resume", "--out", tmp_path) == TrainConfig(
        steps=7, out=str(tmp_path)
    )
    assert typed("--out", tmp_path) == TrainConfig(out=str(tmp_path))


def test_without_a_run_there_are_the_given_settings_alone(tmp_path: Path) -> None:
    assert resumed_config({"out": tmp_path / "new", "steps": 3}) == TrainConfig(
        steps=3, out=str(tmp_path / "new")
    )


def test_a_damaged_file_of_settings_is_named(tmp_path: Path, begun: TrainConfig) -> None:
    (tmp_path / "config.yaml").write_text("stpes: 3\n")
    with pytest.raises(
        ValueError, match=r"config\.yaml is not a valid TrainConfig: stpes is no setting; did"
    ):
        resumed_config({"out": tmp_path})


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_code_that_only_the_run_names_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings: dict[str, Any] = {name: {"spec": CODE}}
    (tmp_path / "config.yaml").write_text(to_yaml(TrainConfig(**settings)))
    monkeypatch.delenv("SEGDISTILL_TRUST", raising=False)
    with pytest.raises(ValueError, match=rf"config\.yaml names the network '{CODE}', .* with {name}$"):
        resumed_config({"out": tmp_path})
    for given in ({name: CODE}, {f"{name}.spec": CODE}, {name: {"spec": CODE}}):
        assert getattr(resumed_config({"out": tmp_path, **given}), name).spec == CODE
    with pytest.raises(ValueError, match="names the network"):
        typed("--out", tmp_path, "--resume")
    assert getattr(typed("--out", tmp_path, "--resume", f"--{name}", CODE), name).spec == CODE
    assert getattr(typed("--out", tmp_path, "--resume", f"--{name}", "other"), name).spec == "other"
    monkeypatch.setenv("SEGDISTILL_TRUST", "1")
    assert getattr(resumed_config({"out": tmp_path}), name).spec == CODE
