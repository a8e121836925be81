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
from segdistill.data.cache.teacher import cut_logits, image_key
from segdistill.data.datasets import open_dataset
from segdistill.data.formats.table import open_layout
from segdistill.data.labels import LabelSet
from segdistill.data.loaders import training_batches
from segdistill.data.transforms import Crop, normalise
from segdistill.engine.experiment import Experiment
from segdistill.engine.fill_caches import find_grid, open_teacher_cache
from segdistill.engine.runtime import make_accelerator
from segdistill.models.card import ModelCard
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


class Strided(nn.Module):
    """Features of cells of 16 pixels, without context; logits upsampled from them."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer, self.scale = nn.Conv2d(3, 2, 16, stride=16), scale

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows, columns = (-side % 16 for side in image.shape[2:])
        features = self.layer(nn.functional.pad(image, (0, columns, 0, rows)))
        return self.scale * nn.functional.interpolate(features, image.shape[2:], mode="bilinear")


def photos(folder: Path, size: tuple[int, int]) -> DataConfig:
    """A data set of three images of H x W pixels of noise."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray((pixels[..., 0] > 127).astype(np.uint8)).save(folder / "masks" / f"{number}.png")
    (folder / "dataset.yaml").write_text("names: [a, b]\nimages: images\nmasks: masks\n")
    return DataConfig(root=str(folder), val_share=0.5, workers=0)


def experiment_of(config: Any, network: nn.Module, names: tuple[str, ...] = ()) -> Experiment:
    """An experiment whose teacher is `network`, over all classes of the data or over those of `names`."""
    labels = open_layout(config.data.root).labels
    samples = open_dataset(config.data.root, "train")
    card = ModelCard(spec="dsunet", width=0.1, labels=labels, size=config.size, evaluate_size=None)
    return Experiment(
        config=config, student=nn.Identity(), files=samples, train=samples, val=samples, card=card,
        teacher=Teacher(
            TrainedNetwork(network, LabelSet(names=names) if names else labels, "strided"),
            labels,
            shared_only=True,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("size", [(113, 94), (112, 96)])
def test_features_lie_where_the_encoder_has_them(
    configure: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    """As exact where the sides are no multiples of the stride as where they are."""
    objective = ObjectiveConfig(losses={"cosine": 1.0}, teacher_layer="layer")
    teacher = TeacherConfig(spec="any", cache=str(tmp_path / "cache"))
    config = configure(
        tmp_path / "out", data=photos(tmp_path / "data", size), teacher=teacher, objective=objective
    )
    experiment = experiment_of(config, Strided())
    assert experiment.teacher is not None
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    assert cache.features is not None
    assert (cache.features.form.stride, cache.features.form.grid) == (16, "strided")
    module = experiment.teacher.network.module
    for index in range(3):
        files, image = experiment.files.files(index), experiment.files[index].image
        stored = cache.features.read(image_key(files.id, files.image), size)
        assert stored is not None
        box = Crop(
            size=64, top=48, left=16, height=64, width=64, out_height=64, out_width=64, pad_top=0, pad_left=0,
            flip=False,
        )  # fmt: skip
        cut = cut_logits(stored, box, size, size, cache.features.form, cells=4).interpolate()
        live = module.layer(normalise(image[None, :, 48:112, 16:80]))[0]
        torch.testing.assert_close(cut.float(), live, atol=2e-3, rtol=2e-3)


def test_what_float16_cannot_hold_is_clamped_and_named_once(
    configure: Any, tmp_path: Path, capsys: Any
) -> None:
    teacher = TeacherConfig(spec="any", cache=str(tmp_path / "cache"))
    config = configure(tmp_path / "out", data=photos(tmp_path / "data", (32, 48)), teacher=teacher)
    experiment = experiment_of(config, Strided(scale=1e6))
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("The teacher's logits of 3 images go beyond 65,504") == 1
    for batch in training_batches(experiment.train, config, range(2), cache=cache):
        crops = batch.normalized()
        assert crops.teacher_logits is not None
        assert crops.teacher_logits.isfinite().all()


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


class Coarse(nn.Module):
    """Logits of each pixel's colours, at a stride of 4; the third class has four times the first one's."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grid = nn.functional.interpolate(
            image[:, :3] * torch.tensor([1.0, -1.0, 4.0])[:, None, None], scale_factor=0.25
        )
        return nn.functional.interpolate(grid, image.shape[2:], mode="bilinear")


LACKING = ("a", "b", "c", "only", "masks", "teach", "these", "classes")


@pytest.mark.parametrize("topk", [0, 2])
def test_classes_that_the_teacher_lacks_are_cached_as_it_gives_them(
    configure: Any, tmp_path: Path, capsys: Any, topk: int
) -> None:
    data = photos(tmp_path / "data", (48, 48))
    (tmp_path / "data" / "dataset.yaml").write_text(
        f"names: [{', '.join(LACKING)}]\nimages: images\nmasks: masks\n"
    )
    teacher = TeacherConfig(spec="any", cache=str(tmp_path / "cache"), cache_topk=topk, cache_stride=4)
    whole = AugmentConfig(scale=(1, 1), flip=0, jitter=0)
    config = configure(tmp_path / "out", data=data, teacher=teacher, augment=whole, size=48)
    experiment = experiment_of(config, Coarse(), LACKING[:3])
    assert isinstance(experiment.teacher, Teacher)
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    assert "go beyond" not in capsys.readouterr().err
    for batch in training_batches(experiment.train, config, range(1), cache=cache):
        crops = batch.normalized()
        assert crops.teacher_logits is not None
        expected = experiment.teacher(crops.image)
        # Of three classes two are kept and the third is what is left, so that the sparse form is exact too.
        assert crops.teacher_logits.shape == expected.shape
        torch.testing.assert_close(
            crops.teacher_logits.float().softmax(1), expected.softmax(1), atol=0.05 if topk else 0.01, rtol=0
        )


def test_the_sparse_form_counts_the_classes_that_the_teacher_has(configure: Any, tmp_path: Path) -> None:
    data = photos(tmp_path / "data", (48, 48))
    (tmp_path / "data" / "dataset.yaml").write_text("names: [a, b, c]\nimages: images\nmasks: masks\n")
    teacher = TeacherConfig(spec="any", cache=str(tmp_path / "cache"), cache_topk=2)
    experiment = experiment_of(configure(tmp_path / "out", data=data, teacher=teacher), Strided(), ("a", "b"))
    with pytest.raises(
        ValueError, match="cache_topk is 2, but must be below the 2 classes that the teacher has"
    ):
        open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))


def test_the_grid_is_lossless_for_the_classes_that_the_teacher_has(configure: Any, tmp_path: Path) -> None:
    """Whose logits have full detail, but lie far above those of the classes that it lacks."""
    data = photos(tmp_path / "data", (48, 48))
    names = [*"ab", *(f"lacking{number}" for number in range(30))]
    (tmp_path / "data" / "dataset.yaml").write_text(
        f"names: [{', '.join(names)}]\nimages: images\nmasks: masks\n"
    )

    class Detailed(nn.Module):
        """Two classes that share each pixel, each as likely as the other is not."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image[:, :1], image[:, :1].neg()], dim=1).clamp(-0.2, 0.2)

    teacher = TeacherConfig(spec="any", cache=str(tmp_path / "cache"))
    experiment = experiment_of(
        configure(tmp_path / "out", data=data, teacher=teacher), Detailed(), ("a", "b")
    )
    cache = open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))
    assert cache.logits is not None
    assert (cache.logits.form.stride, cache.logits.form.classes) == (1, 2)


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
