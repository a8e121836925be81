"""Settings: what is impossible is refused by name, and the YAML form reads back."""

import inspect
from dataclasses import FrozenInstanceError, asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config import demo, deploy, evaluate, search, verify
from segdistill.config import train as config
from segdistill.config.deploy import PredictConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.groups import group_types
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.config.yaml import load, to_yaml

pytestmark = pytest.mark.unit
MOSTLY_UNLABELLED = DataConfig(unlabelled=["photos"], unlabelled_share=0.9)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (ObjectiveConfig, {"temperature": 0}, "objective.temperature is 0, but must be above 0"),
        (ObjectiveConfig, {"alpha": -1.0}, "objective.alpha is -1.0"),
        (ObjectiveConfig, {"beta": float("inf")}, "objective.beta is inf, but must be 0 or more, and finite"),
        (ObjectiveConfig, {"alpha": 0, "beta": 0}, "objective.alpha and objective.beta"),
        (AugmentConfig, {"scale": (2.0, 0.5)}, "augment.scale"),
        (AugmentConfig, {"flip": 1.5}, "augment.flip is 1.5"),
        (OptimConfig, {"lr": 0}, "optim.lr is 0"),
        (OptimConfig, {"ema": 1.0}, "optim.ema is 1.0"),
        (OptimConfig, {"accumulate": 0}, "optim.accumulate is 0"),
        (StudentConfig, {"width": 0}, "student.width is 0"),
        (TeacherConfig, {"scale": -1}, "teacher.scale is -1"),
        (TeacherConfig, {"spec": []}, r"teacher.spec is \[\], but must be one or more networks, or null"),
        (
            TeacherConfig,
            {"scales": [1.0, 0.0]},
            r"teacher.scales is \[1.0, 0.0\], but must be numbers above 0",
        ),
        (
            TeacherConfig,
            {"scale": 1.5, "scales": [1.6, 2.0]},
            r"teacher.scale is 1.5, but must be left out beside teacher.scales \[1.6, 2.0\], or one of them",
        ),
        (
            TeacherConfig,
            {"spec": ["a", "b"], "mix": [1.0]},
            r"teacher.mix is \[1.0\], but must be empty, or one weight for each of the 2 networks",
        ),
        (TeacherConfig, {"spec": "a", "mix": [1.0, 2.0]}, r"each of the 1 networks"),
        (TeacherConfig, {"spec": ["a", "b"], "mix": [1.0, 0.0]}, "teacher.mix .* must be weights above 0"),
        (TeacherConfig, {"spec": ["a", "b"], "weights": "w.pth"}, "teacher.weights .* null beside several"),
        (TeacherConfig, {"output_stride": 0}, "teacher.output_stride is 0, but must be above 0"),
        (EvaluateConfig, {"output_stride": 0}, "output_stride is 0"),
        (PredictConfig, {"output_stride": -1}, "output_stride is -1"),
        (DataConfig, {"workers": -1}, "data.workers is -1"),
        (TrainConfig, {"size": -3}, "size is -3"),
        (TrainConfig, {"batch": 0}, "batch is 0"),
        (TrainConfig, {"steps": 0, "epochs": 0}, "epochs is 0"),
        (TrainConfig, {"batch": 6, "optim": OptimConfig(accumulate=4)}, "a multiple of optim.accumulate"),
        (TrainConfig, {"objective": ObjectiveConfig(alpha=0)}, "above 0 where there is no teacher"),
        (TrainConfig, {"data": DataConfig(unlabelled=["photos"])}, "data.unlabelled"),
        (TrainConfig, {"seed": -1}, "seed is -1"),
        (TrainConfig, {"steps": -1}, "steps is -1"),
        (TrainConfig, {"log_every": 0}, "log_every is 0"),
        (TrainConfig, {"evaluate_every": -1}, "evaluate_every is -1"),
        (TrainConfig, {"checkpoint_every": -1}, "checkpoint_every is -1"),
        (TrainConfig, {"evaluate_size": 0}, "evaluate_size is 0"),
        (ObjectiveConfig, {"beta": -0.1}, "objective.beta is -0.1"),
        (ObjectiveConfig, {"alpha": (0.5, -1.0)}, r"objective.alpha is \(0.5, -1.0\), but must be 0 or more"),
        (ObjectiveConfig, {"temperature": (0.0, 1.0)}, r"objective.temperature is \(0.0, 1.0\)"),
        (ObjectiveConfig, {"losses": {"cwd": -1.0}}, "objective.losses.cwd is -1.0, but must be 0 or more"),
        (ObjectiveConfig, {"losses": {"cwd": {"weight": "much"}}}, "objective.losses.cwd is 'much'"),
        (ObjectiveConfig, {"losses": {"cwd": (1.0, 2.0, 3.0)}}, "objective.losses.cwd is"),
        (ObjectiveConfig, {"alpha": 0, "beta": 0, "losses": {"cwd": 0.0}}, "unless objective.losses names"),
        (ObjectiveConfig, {"label_smoothing": 1.0}, "objective.label_smoothing is 1.0"),
        (ObjectiveConfig, {"class_weights": -0.5}, "objective.class_weights is -0.5"),
        (ObjectiveConfig, {"auxiliary": -1.0}, "objective.auxiliary is -1.0"),
        (
            ObjectiveConfig,
            {"alpha": 0, "beta": 0, "losses": {"cwd": 1.0}, "auxiliary": 0.4},
            "objective.auxiliary is 0.4, but must be .* 0 where alpha and beta",
        ),
        (ObjectiveConfig, {"temperature": float("nan")}, "objective.temperature is nan"),
        (AugmentConfig, {"scale": (0, 1)}, "augment.scale"),
        (AugmentConfig, {"jitter": 1.1}, "augment.jitter is 1.1"),
        (AugmentConfig, {"blur": -0.1}, "augment.blur is -0.1"),
        (OptimConfig, {"weight_decay": -1}, "optim.weight_decay is -1"),
        (OptimConfig, {"momentum": 1}, "optim.momentum is 1"),
        (OptimConfig, {"warmup": -1}, "optim.warmup is -1"),
        (OptimConfig, {"clip": -1}, "optim.clip is -1"),
        (EvaluationDataConfig, {"workers": -1}, "data.workers is -1"),
        (EvaluateConfig, {"scales": []}, "scales"),
        (EvaluateConfig, {"scales": [1.0, 0.0]}, "scales"),
        (EvaluateConfig, {"size": -5}, "size is -5"),
        (PredictConfig, {"size": 0}, "size is 0"),
        (DataConfig, {"unlabelled_share": 0.5}, "data.unlabelled_share is 0.5, but must be null where"),
        (DataConfig, {"labelled_share": 0.0}, "data.labelled_share is 0.0, but must be above 0"),
        (
            TrainConfig,
            {"data": DataConfig(labelled_share=0.5, unlabelled_share=0.5)},
            "null where there is no",
        ),
        (DataConfig, {"unlabelled_share": 1.0, "unlabelled": ["a"]}, "data.unlabelled_share is 1.0"),
        (
            TrainConfig,
            {"batch": 2, "data": MOSTLY_UNLABELLED},
            "data.unlabelled_share is 0.9, but must be one",
        ),
        (DataConfig, {"long_side": 0}, "data.long_side is 0"),
        (DataConfig, {"cache_gb": 0}, "data.cache_gb is 0, but must be above 0"),
        (AugmentConfig, {"hue": 0.6}, "augment.hue is 0.6, but must be from 0 to 0.5"),
        (AugmentConfig, {"grey": 1.1}, "augment.grey is 1.1"),
        (AugmentConfig, {"mixup": -0.1}, "augment.mixup is -0.1"),
        (AugmentConfig, {"cutmix": 2}, "augment.cutmix is 2"),
        (AugmentConfig, {"copy_paste": 2}, "augment.copy_paste is 2"),
        (AugmentConfig, {"mixup": 0.5, "cutmix": 0.3, "copy_paste": 0.3}, "the sum of augment.mixup"),
        (
            TrainConfig,
            {"progressive": [(0.5, 32), (0.5, 48)]},
            r"progressive is \[\(0.5, 32\), \(0.5, 48\)\]",
        ),
        (TrainConfig, {"progressive": [(0, 32)]}, "fractions that rise between 0 and 1"),
        (TrainConfig, {"progressive": [(1.0, 32)]}, "fractions that rise between 0 and 1"),
        (TrainConfig, {"progressive": [(0.5, 0)]}, "and sizes above 0"),
    ],
)
def test_impossible_values_are_refused_by_name(cls: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)


@pytest.mark.parametrize(
    ("text", "specs", "scales"),
    [
        ("{}", (), (1.0,)),
        ("{spec: null, scale: 1.6}", (), (1.6,)),
        ("{spec: a.py:build, scale: 1.6, weights: w.pth}", ("a.py:build",), (1.6,)),
        ("{spec: [a, b], mix: [1, 2], scale: 1.6, scales: [1.6, 2]}", ("a", "b"), (1.6, 2.0)),
        ("{spec: [a], mix: [2], scales: [2]}", ("a",), (2.0,)),
        ("{spec: null, mix: [1, 2]}", (), (1.0,)),  # another run's settings, but without its teacher
    ],
)
def test_a_teacher_is_one_network_or_several(
    tmp_path: Path, text: str, specs: tuple[str, ...], scales: tuple[float, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(f"teacher: {text}")
    teacher = load(TrainConfig, tmp_path / "c.yaml").teacher
    assert (teacher.specs, teacher.input_scales) == (specs, scales)


def test_eight_bits_need_a_run_to_start_from() -> None:
    with pytest.raises(ValueError, match=r"quantize is 'int8', but must be null without student\.init"):
        TrainConfig(quantize="int8")
    started = StudentConfig(init="runs/float")
    assert TrainConfig(quantize="int8", student=started).quantize == "int8"
    with pytest.raises(ValueError, match=r"null .* or with runtime\.compile"):
        TrainConfig(quantize="int8", student=started, runtime=RuntimeConfig(compile=True))


def test_yaml_reads_back_to_an_equal_configuration(tmp_path: Path) -> None:
    changed = TrainConfig(
        data=DataConfig(root="data: with, signs", unlabelled=["a", "b"]),
        augment=AugmentConfig(scale=(0.25, 0.75)),
        teacher=TeacherConfig(
            spec=["fcn_resnet50", "runs/a"],
            mix=[1.0, 2.0],
            scales=[1.6, 2.0],
            flip=True,
            output_stride=16,
            map={"motorcycle": "motorbike"},
        ),
        objective=ObjectiveConfig(
            alpha=(1.0, 0.5),
            losses={"cwd": 3.0, "js": (0.0, 1.0), "dist": {"weight": (1.0, 2.0), "beta": 2.0}},
        ),
        optim=OptimConfig(lr=1e-4, name="sgd"),
        evaluate_size=320,
        progressive=[(0.25, 96), (0.5, 128)],
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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sise: 3", r"sise is no setting; did you mean size\?$"),
        ("optim: {lrr: 1}", r"optim\.lrr is no setting; did you mean optim\.lr\?$"),
        ("optim.lrr: 1", r"optim\.lrr is no setting; did you mean optim\.lr\?$"),
        ("optm: {lr: 1}", r"optm is no setting; did you mean optim\?$"),
        ("optim: {abacus: 1}", r"optim\.abacus is no setting$"),
        ("optim: 3", "optim is 3, but is a group of settings"),
        ("teacher:", "teacher is null, but is a group of settings"),
        ("size: large", "size"),
        ("batch: 2.5", "batch"),
        ("optim: {name: rmsprop}", r"optim\.name.*adamw"),
        ("augment: {scale: [1, 2, 3]}", r"augment\.scale"),
        ("objective: {temperature: 0}", r"objective\.temperature"),
        ("data: {workers: -2}", r"data\.workers"),
        ("batch: 6\noptim: {accumulate: 4}", "batch is 6"),
    ],
)
def test_a_wrong_file_names_the_setting(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=name):
        load(TrainConfig, tmp_path / "c.yaml")


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    # In YAML 1.1, 1e-4 without a dot is a string.
    (tmp_path / "c.yaml").write_text("optim: {lr: 1e-4}\nepochs: 3\naugment: {scale: [1, 2]}\n")
    read = load(TrainConfig, tmp_path / "c.yaml")
    assert (read.optim.lr, read.epochs, read.augment.scale) == (1e-4, 3.0, (1.0, 2.0))
    (tmp_path / "c.yaml").write_text(
        "objective: {alpha: [1, 1e-1], losses: {dice: 1e-3, ohem: {kept: 2e-1}}}"
    )
    read = load(TrainConfig, tmp_path / "c.yaml")
    assert (read.objective.alpha, read.objective.losses) == (
        (1.0, 0.1),
        {"dice": 1e-3, "ohem": {"kept": 0.2}},
    )


@given(
    root=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12),
    lr=st.floats(1e-9, 1e3),
    low=st.floats(1e-3, 1),
    every=st.integers(0, 2**40),
    names=st.dictionaries(
        st.sampled_from(["on", "no", "1", "cat", "犬"]), st.sampled_from(["yes", "2", "x: y"])
    ),
)
@settings(max_examples=25, deadline=None)
def test_any_settings_survive_their_file(
    tmp_path_factory: pytest.TempPathFactory,
    root: str,
    lr: float,
    low: float,
    every: int,
    names: dict[str, str],
) -> None:
    original = TrainConfig(
        data=DataConfig(root=root, split="2012"),
        augment=AugmentConfig(scale=(low, 1.0)),
        teacher=TeacherConfig(map=names),
        optim=OptimConfig(lr=lr),
        evaluate_every=every,
    )
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(to_yaml(original))
    assert load(TrainConfig, path) == original


@pytest.mark.parametrize(
    "original", [EvaluateConfig(scales=[0.5, 1.0], map={"a": "b"}), PredictConfig(size=64)]
)
def test_the_other_verbs_settings_read_back_too(tmp_path: Path, original: Any) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(original))
    assert load(type(original), tmp_path / "c.yaml") == original


WITH_GROUPS = [
    found
    for module in (config, demo, deploy, evaluate, search, verify)
    for found in vars(module).values()
    if is_dataclass(found) and found.__module__ == module.__name__ and group_types(found)
]


def test_these_settings_have_groups() -> None:
    assert {TrainConfig, EvaluateConfig, deploy.ExportConfig, search.SearchConfig} < {*WITH_GROUPS}


@pytest.mark.parametrize("cls", WITH_GROUPS)
def test_a_group_of_settings_may_be_a_mapping(cls: Any) -> None:
    groups = {name: asdict(kind()) for name, kind in group_types(cls).items()}
    assert cls(**groups) == cls()
    assert cls(**{name: {} for name in groups}) == cls()
    for name in groups:
        with pytest.raises(ValueError, match=rf"^{name} is 'dsunet', but must be a mapping such as \{{'"):
            cls(**{name: "dsunet"})


def test_a_mapping_sets_some_settings_of_a_group() -> None:
    groups: dict[str, Any] = {
        "data": {"root": Path("mydata")},
        "student": {"spec": "timm:resnet18"},
        "augment": {"scale": (0.25, 0.75)},
        "optim": {"lr": 1e-2},
    }
    assert TrainConfig(**groups, steps=3) == TrainConfig(
        data=DataConfig(root="mydata"),
        student=StudentConfig(spec="timm:resnet18"),
        augment=AugmentConfig(scale=(0.25, 0.75)),
        optim=OptimConfig(lr=1e-2),
        steps=3,
    )
    assert replace(TrainConfig(), **{"optim": groups["optim"]}).optim.lr == 1e-2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"student": {"spce": "dsunet"}}, r"^student\.spce is no setting; did you mean student\.spec\?$"),
        ({"student": {"width": 0}}, r"^student\.width is 0(\.0)?, but must be above 0"),
        ({"optim": {"lr": "fast"}}, r'Setting "optim\.lr"'),
        ({"teacher": None}, "^teacher is None, but must be a mapping"),
    ],
)
def test_a_wrong_mapping_is_refused_by_name(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**groups)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().size = 3  # type: ignore[misc]


def test_teacher_only_and_supervised_are_ordinary_settings() -> None:
    assert (
        TrainConfig(
            teacher=TeacherConfig(spec="fcn_resnet50"), objective=ObjectiveConfig(alpha=0, beta=1)
        ).objective.beta
        == 1
    )
    assert TrainConfig(objective=ObjectiveConfig(alpha=1, beta=0)).teacher.spec is None
    assert TrainConfig(objective=ObjectiveConfig(alpha=0, losses={"dice": 1.0})).teacher.spec is None
    cached = TeacherConfig(spec="fcn_resnet50", cache="c")
    assert TrainConfig(teacher=cached, objective=ObjectiveConfig(losses={"cwd": 1.0, "mgd": 0.0}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"c\.yaml does not exist"):
        load(TrainConfig, tmp_path / "c.yaml")


def test_every_setting_is_explained() -> None:
    for cls in (c for c in vars(config).values() if isinstance(c, type) and is_dataclass(c)):
        body = inspect.getsource(cls)
        for name in cls.__annotations__:
            after = body.split(f"\n    {name}: ", 1)[1].splitlines()[1].strip()
            assert after.startswith('"""'), f"{cls.__name__}.{name}"
