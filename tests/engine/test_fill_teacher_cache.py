"""The teacher's cache as training uses it: filled once, rebuilt where torn, and equal to the live teacher."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segdistill import api
from segdistill.config.train import AugmentConfig, DataConfig, ObjectiveConfig, TeacherConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.datasets import open_dataset, open_labels, open_training
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
    api.train(config)
    assert api.cache(config)["bytes"] == first["bytes"]


def test_what_is_torn_is_made_again(configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out")
    api.cache(config)
    part = next((tmp_path / "cache").rglob("*.bin"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    api.cache(config)
    accelerator = make_accelerator("cpu", "fp32")
    labels = open_dataset(config.data.root, "train").labels
    teacher = api.open_teacher(config.teacher, labels)
    assert teacher is not None
    before = part.stat().st_size
    assert len(open_teacher_cache(config, teacher, open_training(config.data), accelerator).logits) >= 12
    assert part.stat().st_size == before  # nothing is missing any more


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(("stretch", "size"), [(False, 48), (True, 40)])
def test_cached_crops_are_what_the_live_teacher_answers(
    configure: Any, run: Path, shapes: Path, tmp_path: Path, flip: float, stretch: bool, size: int
) -> None:
    whole = AugmentConfig(scale=(1, 1), flip=flip, jitter=0, stretch=stretch)
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out", augment=whole, size=size)
    accelerator = make_accelerator("cpu", "fp32")
    samples = open_training(config.data)
    teacher = api.open_teacher(config.teacher, open_dataset(shapes, "train").labels)
    assert teacher is not None
    cache = open_teacher_cache(config, teacher, samples, accelerator)
    for batch in training_batches(samples, config, range(2), cache=cache):
        crops = batch.to(accelerator.device).normalized()
        assert crops.teacher_logits is not None
        torch.testing.assert_close(crops.teacher_logits.float(), teacher(crops.image), atol=0.02, rtol=0.01)


def test_training_with_the_cache_is_training_with_the_teacher(
    configure: Any, run: Path, tmp_path: Path
) -> None:
    plain = {"augment": AugmentConfig(scale=(1, 1), jitter=0), "size": 48}
    live = api.train(configure(tmp_path / "live", teacher=TeacherConfig(spec=str(run)), **plain))
    cached = api.train(with_cache(configure, run, tmp_path / "cache", tmp_path / "cached", **plain))
    ours, theirs = (api.load_student(folder).state_dict() for folder in (live, cached))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_cached_features_are_what_the_live_teacher_has(
    configure: Any, run: Path, tmp_path: Path, flip: float
) -> None:
    """Whole images as crops: each feature lies where the teacher's own map has it."""
    whole = AugmentConfig(scale=(1, 1), flip=flip, jitter=0)
    objective = ObjectiveConfig(losses={"cosine": 1.0})
    changes = {"augment": whole, "size": 48, "objective": objective}
    config = with_cache(configure, run, tmp_path / "cache", tmp_path / "out", **changes)
    accelerator, samples = make_accelerator("cpu", "fp32"), open_training(config.data)
    teacher = api.open_teacher(config.teacher, open_labels(config.data.root))
    assert teacher is not None
    cache = open_teacher_cache(config, teacher, samples, accelerator)
    assert cache.features is not None
    assert cache.features.form.stride == 8
    hook = FeatureHook(teacher.network.module, None, "layer")
    for batch in training_batches(samples, config, range(2), cache=replace(cache, stride=8)):
        crops = batch.to(accelerator.device).normalized()
        teacher(crops.image)
        assert crops.teacher_features is not None
        torch.testing.assert_close(crops.teacher_features.float(), hook.take(), atol=0.02, rtol=0.01)


def test_losses_of_features_train_from_the_cache(configure: Any, run: Path, tmp_path: Path) -> None:
    plain = {"augment": AugmentConfig(scale=(1, 1), jitter=0, cutmix=0.5), "size": 48, "steps": 2}
    plain["objective"] = ObjectiveConfig(losses={"fitnet": 1.0, "pairwise": 1.0})
    folder = api.train(with_cache(configure, run, tmp_path / "cache", tmp_path / "cached", **plain))
    first = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    assert first["fitnet"] > 0
    assert first["pairwise"] > 0
    # Logits and features are found again: nothing is computed, and no teacher is asked.
    before = {part: part.stat().st_size for part in (tmp_path / "cache").rglob("*.bin")}
    assert len(before) == 2
    api.train(with_cache(configure, run, tmp_path / "cache", tmp_path / "again", **plain))
    assert before == {part: part.stat().st_size for part in (tmp_path / "cache").rglob("*.bin")}


def test_the_sparse_form_trains(configure: Any, run: Path, tmp_path: Path) -> None:
    config = with_cache(configure, run, tmp_path / "c", tmp_path / "out", teacher={"cache_topk": 2}, steps=2)
    assert (api.train(config) / "model.safetensors").is_file()
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
        """Answers noise on a coarse grid, enlarged as networks do."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            grid = [-(-side // stride) for side in image.shape[2:]]
            noise = torch.randn(len(image), 2, *grid, generator=torch.Generator().manual_seed(0))
            return nn.functional.interpolate(noise, image.shape[2:], mode="bilinear", align_corners=corners)

    labels = LabelSet(names=("a", "b"))
    teacher = Teacher(TrainedNetwork(Coarse(), labels, "coarse"), labels)
    image = torch.randint(0, 256, (3, 129, 97), dtype=torch.uint8)
    found = find_grid(teacher, image, (129, 97), make_accelerator("cpu", "fp32"))
    assert found == (stride, corners)


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
