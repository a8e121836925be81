"""Plain keywords as settings: they are those of the command line, and mistakes are answered."""

from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill.config.evaluate import EvaluateConfig
from segdistill.config.keywords import with_keywords
from segdistill.config.train import OptimConfig, TrainConfig

pytestmark = pytest.mark.unit


def test_keywords_are_the_short_names_of_the_command_line() -> None:
    config = with_keywords(
        TrainConfig,
        None,
        {
            "data": Path("mydata"),
            "teacher": ["a", "b"],
            "student": "timm:resnet18",
            "init": "runs/a",
            "steps": 5,
            "optim": {"lr": 0.1},
        },
    )
    assert (config.data.root, config.teacher.spec) == ("mydata", ["a", "b"])
    assert (config.student.spec, config.student.init) == ("timm:resnet18", "runs/a")
    assert (config.steps, config.optim.lr, config.optim.name) == (5, 0.1, "adamw")


def test_keywords_win_over_the_config_object_and_leave_the_rest() -> None:
    config = TrainConfig(steps=3, size=64, optim=OptimConfig(lr=0.5, clip=1.0))
    changed = with_keywords(TrainConfig, config, {"steps": 9, "optim.lr": 0.25})
    assert (changed.steps, changed.size, changed.optim) == (9, 64, OptimConfig(lr=0.25, clip=1.0))
    assert with_keywords(TrainConfig, config, {"optim": OptimConfig()}).optim == OptimConfig()
    assert with_keywords(TrainConfig, config, {}) is config


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"stpes": 1}, TypeError, r"stpes is no setting of TrainConfig; did you mean steps\?"),
        ({"optim": {"lrr": 1}}, TypeError, r"optim.lrr is no setting of OptimConfig; did you mean lr\?"),
        ({"optim": 3}, TypeError, "optim is 3, but must be a mapping or OptimConfig"),
        ({"optim": {3: 1}}, TypeError, "optim.3 is no setting of OptimConfig"),
        ({"steps.many": 3}, TypeError, "steps is one setting, not a group: there is no steps.many"),
        ({"optim": {"lr.x": 3}}, TypeError, "optim.lr is one setting, not a group: there is no optim.lr.x"),
        ({"steps": "many"}, ValueError, "steps"),
        ({"steps": -1}, ValueError, "steps is -1, but must be 0 or more"),
    ],
)
def test_mistakes_are_answered(keywords: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        with_keywords(TrainConfig, None, keywords)


def test_an_entry_of_a_mapping_is_set_as_on_the_command_line() -> None:
    config = TrainConfig(optim=OptimConfig(groups={"encoder": 0.1}))
    changed = with_keywords(TrainConfig, config, {"teacher.map.car": "vehicle", "optim.groups.a.b": 0.5})
    assert changed.teacher.map == {"car": "vehicle"}
    assert changed.optim.groups == {"encoder": 0.1, "a.b": 0.5}
    assert config.optim.groups == {"encoder": 0.1}


def test_every_function_takes_them() -> None:
    calls = [
        lambda **settings: segdistill.train(**settings),
        lambda **settings: segdistill.cache(**settings),
        lambda **settings: segdistill.evaluate("a", **settings),
        lambda **settings: segdistill.compare(["a", "b"], **settings),
        lambda **settings: segdistill.predict("a", "b", **settings),
        lambda **settings: segdistill.label("a", "b", **settings),
        lambda **settings: segdistill.export("a", **settings),
        lambda **settings: segdistill.benchmark(["a"], **settings),
        lambda **settings: segdistill.verify("a", **settings),
        lambda **settings: segdistill.calibrate("a", **settings),
        lambda **settings: segdistill.search(**settings),
        lambda **settings: segdistill.serve("a", **settings),
        lambda **settings: segdistill.load("a", **settings),
        lambda **settings: segdistill.push("a", "me/a", **settings),
        lambda **settings: segdistill.demo(**settings),
    ]
    hints = {"ExportConfig": "", "PushConfig": ""}  # which have no device
    for call in calls:
        with pytest.raises(TypeError, match="devize is no setting of ") as error:
            call(devize="cpu")
        name, semicolon, hint = str(error.value).removeprefix("devize is no setting of ").partition(";")
        assert semicolon + hint == hints.get(name, "; did you mean device?")


def test_a_config_of_another_verb_is_refused() -> None:
    with pytest.raises(TypeError, match="config is EvaluateConfig, but must be TrainConfig or keywords"):
        segdistill.train(EvaluateConfig())
