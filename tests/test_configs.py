"""Shipped configurations run two steps on tiny data of their own layout, and grids of settings are valid."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from accuracy import put, read_grid
from pareto import Point
from PIL import Image

from segdistill import api
from segdistill.config.architecture import Architecture
from segdistill.config.evaluate import EvaluateConfig
from segdistill.config.train import RuntimeConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import load
from segdistill.data.formats.table import open_layout
from segdistill.data.labels import VOC, LabelSet
from segdistill.distillation.table import check_losses

pytestmark = pytest.mark.integration
CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
BENCHMARKS = CONFIGS.parent / "benchmarks"
TEACHER = """from collections import OrderedDict
from torch import nn

def build():
    return nn.Sequential(OrderedDict(project=nn.Conv2d(3, 8, 1), classifier=nn.Conv2d(8, {classes}, 1)))
"""


def write_pair(image: Path, mask: Path, labels: LabelSet, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(image)
    indices = rng.integers(0, len(labels), (40, 48), dtype=np.uint8)
    indices[0] = labels.void
    Image.fromarray(indices).save(mask)


def tiny_data(config: TrainConfig, root: Path) -> LabelSet:
    """Write four images for each split that `config` names, in its layout; returns their label set."""
    root.mkdir()
    labels = open_layout(root, config.data.layout).labels if config.data.layout else VOC
    devkit = root / "VOCdevkit" / "VOC2012"
    for split in (config.data.split, config.data.val_split):
        names = [f"{split}_{index}" for index in range(4)]
        images, masks = root / split / "images", root / split / "masks"
        if not config.data.layout:
            images = devkit / "JPEGImages"
            masks = devkit / ("SegmentationClassAug" if split.endswith("_aug") else "SegmentationClass")
            lists = devkit / "ImageSets" / "Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(names))
        for index, name in enumerate(names):
            write_pair(images / f"{name}.jpg", masks / f"{name}.png", labels, index)
    return labels


def test_all_configurations_are_found() -> None:
    animals = {f"voc-animals{end}" for end in ("", "-lite0", "-short", "-quick", "-long", "-gpu")}
    assert set(NAMES) == {"shapes", "camvid", "voc", "voc-reference"} | animals


def test_the_reference_recipe_is_the_one_that_the_design_states() -> None:
    config = load(TrainConfig, CONFIGS / "voc-reference.yaml")
    objective, optim = config.objective, config.optim
    assert (objective.alpha, objective.beta, objective.temperature) == (0.7, 0.3, 2.0)
    assert (optim.name, optim.lr, optim.schedule) == ("adam", 1e-4, "constant")
    assert (config.batch, config.size, config.steps, config.epochs) == (8, 256, 0, 50)
    assert (config.teacher.spec, config.student.spec, config.student.width) == ("fcn_resnet50", "dsunet", 1)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_runs_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config = load(TrainConfig, CONFIGS / f"{name}.yaml")
    assert config.out == f"runs/{name}"
    labels = tiny_data(config, tmp_path / "data")
    file = tmp_path / "teacher.py"
    file.write_text(TEACHER.format(classes=len(labels)))
    cache = str(tmp_path / "cache")
    teacher = TeacherConfig()
    if config.teacher.spec:
        teacher = replace(
            config.teacher, spec=f"{file}:build", cache=config.teacher.cache and f"{cache}/teacher"
        )
    width = 0.1 if config.student.spec == "dsunet" else 1.0
    unlabelled = [str(tmp_path / "data")] if config.data.unlabelled else []
    run = api.train(
        replace(
            config,
            data=replace(
                config.data,
                root=str(tmp_path / "data"),
                unlabelled=unlabelled,
                cache=config.data.cache and f"{cache}/decoded",
                workers=0,
            ),
            teacher=teacher,
            student=replace(config.student, width=width, weights=None),
            runtime=RuntimeConfig(precision="fp32"),
            size=32,
            batch=4,
            steps=2,
            evaluate_every=2,
            log_every=1,
            device="cpu",
            out=str(tmp_path / "run"),
        ),
        report=False,
    )
    steps = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()][:2]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(record["hard"] > 0 and ("soft" in record) == bool(teacher.spec) for record in steps)
    assert list(json.loads((run / "metrics.json").read_text())["best"]["iou"]) == list(labels.names)


@pytest.mark.parametrize("grid", sorted(path.name for path in (BENCHMARKS / "grids").glob("*.yaml")))
def test_every_setting_of_a_grid_is_valid(grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    runs, evaluate = read_grid(BENCHMARKS / "grids" / grid, tmp_path, ["steps=3"])
    assert len({run.folder for run in runs}) == len(runs) > 1
    settings = tmp_path / "settings.yaml"
    for run in (run for run in runs if run.seed == 0):
        settings.write_text(yaml.safe_dump(run.config))
        config = load(TrainConfig, settings)
        assert (config.steps, config.out) == (3, str(run.folder))
        check_losses(config.objective, distils=config.teacher.spec is not None)
    options: dict[str, object] = {}
    for key, value in evaluate.items():
        put(options, key, value)
    settings.write_text(yaml.safe_dump(options))
    assert load(EvaluateConfig, settings).classes == evaluate.get("classes", "")


def test_the_points_of_the_pareto_table_are_valid() -> None:
    grids = [yaml.safe_load(path.read_text()) for path in (BENCHMARKS / "pareto").glob("*.yaml")]
    points = [Point(**point) for grid in grids for point in grid["points"]]
    assert len({point.name for point in points}) == len(points) > 1
    assert all(Architecture(spec=point.target, **point.architecture) for point in points)
