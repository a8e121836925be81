"""Settings: what is impossible is refused by name, and the YAML form reads back."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from segdistill import config
from segdistill.config import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    load,
    to_yaml,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (ObjectiveConfig, {"temperature": 0}, "objective.temperature is 0, but must be above 0"),
        (ObjectiveConfig, {"alpha": -1.0}, "objective.alpha is -1.0"),
        (ObjectiveConfig, {"alpha": 0, "beta": 0}, "objective.alpha and objective.beta"),
        (AugmentConfig, {"scale": (2.0, 0.5)}, "augment.scale"),
        (AugmentConfig, {"flip": 1.5}, "augment.flip is 1.5"),
        (OptimConfig, {"lr": 0}, "optim.lr is 0"),
        (OptimConfig, {"ema": 1.0}, "optim.ema is 1.0"),
        (OptimConfig, {"accumulate": 0}, "optim.accumulate is 0"),
        (StudentConfig, {"width": 0}, "student.width is 0"),
        (TeacherConfig, {"scale": -1}, "teacher.scale is -1"),
        (DataConfig, {"workers": -1}, "data.workers is -1"),
        (TrainConfig, {"size": -3}, "size is -3"),
        (TrainConfig, {"batch": 0}, "batch is 0"),
        (TrainConfig, {"steps": 0, "epochs": 0}, "epochs is 0"),
        (TrainConfig, {"batch": 6, "optim": OptimConfig(accumulate=4)}, "a multiple of optim.accumulate"),
        (TrainConfig, {"objective": ObjectiveConfig(alpha=0)}, "above 0 where there is no teacher"),
        (TrainConfig, {"data": DataConfig(unlabelled=["photos"])}, "data.unlabelled"),
        (EvaluateConfig, {"scales": []}, "scales"),
        (PredictConfig, {"size": 0}, "size is 0"),
    ],
)
def test_impossible_values_are_refused_by_name(cls: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)


def test_yaml_reads_back_to_an_equal_configuration(tmp_path: Path) -> None:
    changed = TrainConfig(
        data=DataConfig(root="data: with, signs", unlabelled=["a", "b"]),
        augment=AugmentConfig(scale=(0.25, 0.75)),
        teacher=TeacherConfig(spec="fcn_resnet50", map={"motorcycle": "motorbike"}),
        optim=OptimConfig(lr=1e-4, name="sgd"),
        evaluate_size=320,
    )
    for config_ in (TrainConfig(), changed):
        (tmp_path / "c.yaml").write_text(to_yaml(config_))
        assert load(TrainConfig, tmp_path / "c.yaml") == config_


@pytest.mark.parametrize(
    "text", ["sise: 3", "optim: {lrr: 1}", "size: large", "- a list", "size: [", "batch: 0"]
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c\.yaml is not a valid TrainConfig"):
        load(TrainConfig, tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"c\.yaml does not exist"):
        load(TrainConfig, tmp_path / "c.yaml")


def test_every_setting_is_explained() -> None:
    source = Path(config.__file__).read_text()
    for cls in (c for c in vars(config).values() if isinstance(c, type) and is_dataclass(c)):
        body = source.split(f"class {cls.__name__}:")[1].split("\n@dataclass")[0]
        for field in fields(cls):
            after = body.split(f"\n    {field.name}: ", 1)[1].splitlines()[1].strip()
            assert after.startswith('"""'), f"{cls.__name__}.{field.name}"
