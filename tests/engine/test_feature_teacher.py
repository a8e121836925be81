"""Training from an encoder without a head: features first, without masks, then the task; live and cached."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segdistill import api, cli
from segdistill.build import build_experiment, open_scored
from segdistill.config.evaluate import EvaluateConfig
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    StudentConfig,
    TeacherConfig,
)
from segdistill.config.yaml import to_yaml
from segdistill.data.loaders import training_batches
from segdistill.engine.fill_caches import open_teacher_cache
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import make_accelerator

pytestmark = pytest.mark.integration
STUDENT = "timm:test_efficientnet"
ENCODERS = {"ViT": "test_vit3", "ConvNeXt": "test_convnext"}
WHOLE = AugmentConfig(scale=(1, 1), jitter=0)


@pytest.fixture(params=ENCODERS)
def teacher(request: Any, tmp_path: Path) -> dict[str, Any]:
    """Settings of a tiny encoder with random weights."""
    name = ENCODERS[request.param]
    torch.manual_seed(1)
    save_file(timm.create_model(name).state_dict(), tmp_path / "encoder.safetensors")
    return {"spec": f"timm:{name}", "weights": str(tmp_path / "encoder.safetensors"), "features_only": True}


@pytest.fixture
def features(configure: Any, shapes: Path, tmp_path: Path, teacher: dict[str, Any]) -> Any:
    """Makes the settings of a first stage: features alone, with unlabelled images."""

    def make(name: str, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "data": DataConfig(root=str(shapes), unlabelled=[str(shapes)], unlabelled_share=0.5, workers=0),
            "augment": WHOLE,
            "size": 48,
            "steps": 4,
            "evaluate_every": 2,
            "student": StudentConfig(spec=STUDENT),
            "teacher": TeacherConfig(**teacher, **changes.pop("teacher", {})),
            "objective": ObjectiveConfig(alpha=0, beta=0, losses={"cosine": 1.0}),
        }
        return configure(tmp_path / name, **settings | changes)

    return make


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def test_features_first_then_the_task(features: Any, configure: Any, tmp_path: Path) -> None:
    cold, warm = (
        api.train(features(name, teacher={"cache": str(tmp_path / "cache")}), report=False)
        for name in ("cold", "warm")
    )
    live = api.train(features("live"), report=False)
    first, again, third = map(weights_of, (cold, warm, live))
    fresh = build_experiment(features("fresh")).student.state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        # The cache keeps float16, and the encoder sees one image at a time.
        torch.testing.assert_close(tensor, third[name], atol=2e-2, rtol=2e-2)
    moved = {name.split(".")[0] for name, tensor in first.items() if "running" not in name
             and "num_batches" not in name and (tensor - fresh[name]).abs().max() > 1e-4}  # fmt: skip
    assert moved == {"encoder"}
    assert RunFolder(live).best["step"] == 4  # the newest, however its untrained logits score
    assert RunFolder(live).require_student().temperature == 1.0

    def task(name: str, student: StudentConfig, **changes: Any) -> dict[str, Tensor]:
        objective = ObjectiveConfig(alpha=1, beta=0)
        return weights_of(
            api.train(
                configure(tmp_path / name, student=student, objective=objective, **changes), report=False
            )
        )

    frozen = task("frozen", StudentConfig(spec=STUDENT, init=str(live), freeze=["encoder"]))
    slowed = task(
        "slowed",
        StudentConfig(spec=STUDENT, init=str(live)),
        optim=OptimConfig(lr=5e-3, groups={"encoder": 0.1}),
    )
    for name, tensor in third.items():
        assert torch.equal(tensor, frozen[name]) == name.startswith("encoder"), name
    assert not all(torch.equal(tensor, slowed[name]) for name, tensor in third.items() if "encoder" in name)


@pytest.mark.parametrize("layer", [None, "second"])
def test_cached_features_are_those_of_the_live_encoder(
    features: Any, tmp_path: Path, teacher: dict[str, Any], layer: str | None
) -> None:
    """Whole images as crops, half of them mirrored: each feature lies where the encoder's own map has it."""
    if layer:
        layer = "blocks.2" if "vit" in teacher["spec"] else "stages.1"
    objective = ObjectiveConfig(alpha=0, beta=0, losses={"fitnet": 1.0}, teacher_layer=layer)
    config = features("run", teacher={"cache": str(tmp_path / "cache")}, objective=objective, size=64,
                      augment=AugmentConfig(scale=(1, 1), jitter=0, stretch=True))  # fmt: skip
    experiment = build_experiment(config)
    encoder: Any = experiment.teacher
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    assert cache.logits is None
    cells = 64 // encoder.stride
    for batch in training_batches(
        experiment.train, config, range(2), cache=type(cache)(None, cache.features, stride=encoder.stride)
    ):
        crops = batch.normalized()
        assert crops.teacher_logits is None
        assert crops.teacher_features.shape == (4, encoder.channels, cells, cells)
        torch.testing.assert_close(crops.teacher_features.float(), encoder(crops.image), atol=0.03, rtol=0.03)
    record = api.cache(config)
    assert record["stride"] == encoder.stride
    assert record["bytes"] == record["images"] * 2 * encoder.channels * cells**2 * 2


@pytest.mark.parametrize("teacher", ["ConvNeXt"], indirect=True)
def test_a_resumed_first_stage_is_the_uninterrupted_one(features: Any, tmp_path: Path) -> None:
    whole = api.train(features("whole"), report=False)
    api.train(features("part", steps=4), report=False)
    assert json.loads((whole / "metrics.json").read_text())["best"]["step"] == 4
    checkpoints = sorted((tmp_path / "part" / "checkpoints").iterdir())
    checkpoints[-1].unlink()
    part = api.train(features("part"), resume=True, report=False)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(part)[name])


REFUSED = {
    "the soft loss": ({}, {"beta": 0.3}, r"objective\.beta is 0\.3, but must be 0"),
    "a loss of logits": (
        {},
        {"losses": {"cosine": 1, "cwd": 3}},
        r"names cwd, but teacher\.features_only is true, .*: take cosine, fitnet, .*pairwise, ifvd, mgd",
    ),
    "no loss of features": ({}, {"losses": {}}, "names no loss of features"),
    "a map of classes": ({"map": {"a": "b"}}, {}, "teacher.map is {'a': 'b'}, but must be left out"),
    "two encoders": ({"spec": ["timm:a", "timm:b"]}, {}, "must be one encoder where"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_to_do(configure: Any, tmp_path: Path, name: str) -> None:
    teacher, objective, message = REFUSED[name]

    def train() -> None:
        settings = {
            "teacher": TeacherConfig(**{"spec": "timm:test_vit3", "features_only": True} | teacher),
            "objective": ObjectiveConfig(**{"beta": 0, "losses": {"cosine": 1.0}} | objective),
        }
        api.train(configure(tmp_path / "run", **settings))

    with pytest.raises(ValueError, match=message):
        train()
    assert not (tmp_path / "run").exists()


def test_agreement_with_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher\.features_only is True, but must be false"):
        EvaluateConfig(teacher=TeacherConfig(spec="timm:test_vit3", features_only=True))


@pytest.mark.parametrize("teacher", ["ViT"], indirect=True)
def test_the_command_and_its_report(features: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "stage.yaml").write_text(to_yaml(features("cli", steps=2)))
    assert cli.main(["train", "--config", str(tmp_path / "stage.yaml")]) == 0
    out, err = capsys.readouterr()
    assert "distilled from timm:test_vit3" in err
    assert "of logits that no loss trains; the newest student is kept" in err
    assert json.loads(out)["step"] == 2
    names = [network["name"] for network in (RunFolder(tmp_path / "cli").cost or {})["networks"]]
    assert names == ["student", "teacher"]
    _, shown = open_scored({"cli": RunFolder(tmp_path / "cli")})
    assert list(shown) == ["cli"]  # the encoder has no masks to show
