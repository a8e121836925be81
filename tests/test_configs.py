"""The shipped configurations: each is parsed, and runs two steps on tiny data of its own layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill import api
from segdistill.config import RuntimeConfig, TeacherConfig, TrainConfig, load
from segdistill.data.datasets import open_labels
from segdistill.data.labels import VOC, LabelSet

pytestmark = pytest.mark.integration
CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def write_pair(image: Path, mask: Path, labels: LabelSet, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(image)
    Image.fromarray(rng.integers(0, len(labels), (40, 48), dtype=np.uint8)).save(mask)


def tiny_data(config: TrainConfig, root: Path) -> LabelSet:
    """Write four images for each split that `config` names, in its layout; returns their label set."""
    root.mkdir()
    labels = open_labels(root, config.data.layout) if config.data.layout else VOC
    devkit = root / "VOCdevkit" / "VOC2012"
    for split in (config.data.split, config.data.val_split):
        names = [f"{split}_{index}" for index in range(4)]
        for index, name in enumerate(names):
            if config.data.layout:
                write_pair(root / split / "images" / f"{name}.jpg", root / split / "masks" / f"{name}.png",
                           labels, index)  # fmt: skip
            else:
                masks = "SegmentationClassAug" if split.endswith("_aug") else "SegmentationClass"
                write_pair(
                    devkit / "JPEGImages" / f"{name}.jpg", devkit / masks / f"{name}.png", labels, index
                )
        if not config.data.layout:
            lists = devkit / "ImageSets" / "Segmentation"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(names))
    return labels


def test_all_configurations_are_found() -> None:
    assert {"shapes", "voc", "voc-animals", "voc-reference", "camvid"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_runs_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config = load(TrainConfig, CONFIGS / f"{name}.yaml")
    labels = tiny_data(config, tmp_path / "data")
    teacher = tmp_path / "teacher.py"
    teacher.write_text(f"from torch import nn\n\n\ndef build():\n    return nn.Conv2d(3, {len(labels)}, 1)\n")
    run = api.train(
        replace(
            config,
            data=replace(config.data, root=str(tmp_path / "data"), workers=0),
            teacher=replace(config.teacher, spec=f"{teacher}:build")
            if config.teacher.spec
            else TeacherConfig(),
            student=replace(config.student, width=0.1),
            runtime=RuntimeConfig(precision="fp32"),
            size=32,
            batch=2,
            steps=2,
            evaluate_every=0,
            device="cpu",
            out=str(tmp_path / "run"),
        )
    )
    assert (run / "report.html").is_file()
    assert (run / "model.safetensors").is_file()
