"""The teacher's cache as training uses it: filled once, refilled where torn, equal to the live teacher."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from segdistill import api
from segdistill.build import build_experiment
from segdistill.config.train import AugmentConfig, DataConfig, ObjectiveConfig, StudentConfig, TeacherConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.labels import LabelSet
from segdistill.data.loaders import training_batches
from segdistill.engine.fill_caches import find_grid, open_teacher_cache
from segdistill.engine.runtime import make_accelerator
from segdistill.models.hooks import FeatureHook
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.integration


def with_cache(configure: Any, run: Path, folder: Path, out: Path, **changes: Any) -> Any:
    teacher = TeacherConfig(spec=str(run), cache=str(folder), **changes.pop("teacher", {}))
    return configure(out, teacher=teacher, **changes)


def test_it_is_filled_once_and_kept(configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out")
    first = api.cache(config)
    assert first["images"] == 12
    # 12 images of 48 x 48 pixels and their mirror images, 9 classes in float16
    assert first["bytes"] == 12 * 2 * 9 * 48 * 48 * 2
    assert api.cache(config) == first | {"seconds": pytest.approx(0, abs=5)}
    api.train(config, report=False)
    assert api.cache(config)["bytes"] == first["bytes"]


def test_what_is_torn_is_made_again(configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out")
    api.cache(config)
    part = next((tmp_path / "cache").rglob("*.bin"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    api.cache(config)
    before = part.stat().st_size
    cache = open_teacher_cache(build_experiment(config), make_accelerator("cpu", "fp32"))
    assert len(cache.logits) >= 12
    assert part.stat().st_size == before  # nothing is missing any more


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(("stretch", "size"), [(False, 48), (True, 40)])
def test_cached_logits_are_those_of_the_live_teacher(
    configure: Any, run: Path, tmp_path: Path, flip: float, stretch: bool, size: int
) -> None:
    whole = AugmentConfig(scale=(1, 1), flip=flip, jitter=0, stretch=stretch)
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out", augment=whole, size=size)
    experiment = build_experiment(config)
    assert experiment.teacher is not None
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    for batch in training_batches(experiment.train, config, range(2), cache=cache):
        crops = batch.normalized()
        assert crops.teacher_logits is not None
        expected = experiment.teacher(crops.image)
        torch.testing.assert_close(crops.teacher_logits.float(), expected, atol=0.02, rtol=0.01)


def test_training_with_the_cache_is_training_with_the_teacher(
    configure: Any, run: Path, tmp_path: Path
) -> None:
    plain = {"augment": AugmentConfig(scale=(1, 1), jitter=0), "size": 48}
    live = api.train(
        configure(tmp_path / "live", teacher=TeacherConfig(spec=str(run)), **plain), report=False
    )
    cached = api.train(
        with_cache(configure, run, tmp_path / "cache", tmp_path / "cached", **plain), report=False
    )
    first, second = (api.load_student(folder).state_dict() for folder in (live, cached))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_cached_features_are_those_of_the_live_teacher(
    configure: Any, run: Path, tmp_path: Path, flip: float
) -> None:
    """Whole images as crops: each feature lies where the teacher's own map has it."""
    whole = AugmentConfig(scale=(1, 1), flip=flip, jitter=0)
    objective = ObjectiveConfig(losses={"cosine": 1.0})
    changes = {"augment": whole, "size": 48, "objective": objective}
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out", **changes)
    experiment = build_experiment(config)
    assert experiment.teacher is not None
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    assert cache.features is not None
    assert cache.features.form.stride == 8
    hook = FeatureHook(experiment.teacher.network.module, None, "layer")
    for batch in training_batches(experiment.train, config, range(2), cache=replace(cache, stride=8)):
        crops = batch.normalized()
        experiment.teacher(crops.image)
        assert crops.teacher_features is not None
        torch.testing.assert_close(crops.teacher_features.float(), hook.pop(), atol=0.02, rtol=0.01)


def test_losses_of_features_train_from_the_cache(configure: Any, run: Path, tmp_path: Path) -> None:
    plain = {"augment": AugmentConfig(scale=(1, 1), jitter=0, cutmix=0.5), "size": 48, "steps": 2}
    plain["objective"] = ObjectiveConfig(losses={"fitnet": 1.0, "pairwise": 1.0})
    folder = api.train(
        with_cache(configure, run, tmp_path / "cache", tmp_path / "cached", **plain), report=False
    )
    first = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    assert first["fitnet"] > 0
    assert first["pairwise"] > 0
    # Logits and features are found again: nothing is computed, and no teacher is asked.
    before = {part: part.stat().st_size for part in (tmp_path / "cache").rglob("*.bin")}
    assert len(before) == 2
    api.train(with_cache(configure, run, tmp_path / "cache", tmp_path / "again", **plain), report=False)
    assert before == {part: part.stat().st_size for part in (tmp_path / "cache").rglob("*.bin")}


def test_the_sparse_form_trains(configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "c", tmp_path / "out", teacher={"cache_topk": 2}, steps=2)
    assert (api.train(config, report=False) / "model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"teacher\.cache_topk is 9, but must be below the 9 classes"):
        api.cache(with_cache(configure, run, tmp_path / "c", tmp_path / "out", teacher={"cache_topk": 9}))


def test_unlabelled_images_are_cached_too(configure: Any, run: Path, shapes: Path, tmp_path: Path) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"
    data = DataConfig(root=str(shapes), unlabelled=[str(photos)], workers=0)
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out", data=data)
    assert api.cache(config)["images"] == 12 + 16


@pytest.mark.parametrize(("stride", "corners"), [(16, True), (8, False), (4, True), (1, False)])
def test_the_networks_own_grid_is_found(stride: int, corners: bool) -> None:
    class Coarse(nn.Module):
        """Noise on a coarse grid, upsampled as networks do."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            grid = [-(-side // stride) for side in image.shape[2:]]
            noise = torch.randn(len(image), 2, *grid, generator=torch.Generator().manual_seed(0))
            return nn.functional.interpolate(noise, image.shape[2:], mode="bilinear", align_corners=corners)

    labels = LabelSet(names=("a", "b"))
    teacher = Teacher(TrainedNetwork(Coarse(), labels, "coarse"), labels)
    assert find_grid([teacher(torch.zeros(1, 3, 129, 97))]) == (stride, corners)


class PerPixel(nn.Module):
    """A teacher without any grid: the logits of a pixel are its colours."""

    def __init__(self, classes: int = 9) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 5 * image.repeat(1, -(-self.classes // 3), 1, 1)[:, : self.classes]


@pytest.mark.parametrize("first", ["black", "smooth"])
def test_a_first_image_without_detail_does_not_decide_the_grid(
    configure: Any, shapes: Path, tmp_path: Path, first: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    devkit = root / "VOCdevkit" / "VOC2012"
    name = (devkit / "ImageSets" / "Segmentation" / "train.txt").read_text().split()[0]
    ramp = np.linspace(0, 90, 48, dtype=np.uint8) * (first == "smooth")
    picture = np.tile(ramp.astype(np.uint8)[:, None, None], (1, 48, 3))
    Image.fromarray(picture).save(devkit / "JPEGImages" / f"{name}.jpg")
    code = tmp_path / "teacher.py"
    code.write_text("import torch\nfrom torch import nn\n" + inspect.getsource(PerPixel))
    teacher = TeacherConfig(spec=f"{code}:PerPixel", labels="data", cache=str(tmp_path / "c"))
    config = configure(tmp_path / "out", data=DataConfig(root=str(root), workers=0), teacher=teacher)
    assert api.cache(config)["stride"] == 1


@pytest.mark.parametrize("losses", [{"cosine": 1.0}, {"mgd": 0.1}, {}])
def test_a_cold_cache_and_a_warm_one_give_the_same_weights(
    configure: Any, run: Path, tmp_path: Path, losses: dict[str, float]
) -> None:
    """What trains along (adapters, auxiliary heads) is initialised after the cache is filled."""
    objective = ObjectiveConfig(losses=losses, auxiliary=0.0 if losses else 0.4)
    student = StudentConfig(width=0.15)  # other channels than the teacher's, so that there is an adapter
    changes = {"steps": 3, "objective": objective, "student": student}
    weights = []
    for out in ("cold", "warm"):
        config = with_cache(configure, run, tmp_path / "cache", tmp_path / out, **changes)
        weights.append(load_file(api.train(config, report=False) / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_processes_fill_one_cache(launch: Any, configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "together", tmp_path / "out")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    done = launch("cache", "--config", tmp_path / "config.yaml")
    assert done.returncode == 0, done.stderr
    together = next((tmp_path / "together").iterdir())
    assert len(list(together.glob("shard-*.bin"))) == 2
    alone = api.cache(with_cache(configure, run, tmp_path / "alone", tmp_path / "out"))
    assert Path(alone["cache"][0]).name == together.name
    assert sum(part.stat().st_size for part in together.glob("*.bin")) == alone["bytes"]
    assert api.cache(config)["bytes"] == alone["bytes"]  # one process finds all that two have written
