"""The cache of a teacher that averages, or that has an output stride: as exact as the live teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segdistill import api
from segdistill.build import build_experiment
from segdistill.config.deploy import PredictConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import AugmentConfig, DataConfig, ObjectiveConfig, TeacherConfig, TrainConfig
from segdistill.data.cache.teacher import TeacherCache, image_key
from segdistill.data.labels import LabelSet
from segdistill.data.loaders import training_batches
from segdistill.data.masks import SampleFiles
from segdistill.data.shapes import write_shapes
from segdistill.engine.experiment import Experiment
from segdistill.engine.fill_caches import open_teacher_cache
from segdistill.engine.runtime import make_accelerator
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.integration


class Cornered(nn.Module):
    """The darkness and brightness of every 16th pixel, upsampled with aligned corners; counts its passes."""

    def __init__(self, labels: LabelSet) -> None:
        super().__init__()
        self.labels, self.layer, self.passes = labels, nn.Identity(), 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        coarse = self.layer(image.mean(dim=1, keepdim=True)[:, :, ::16, ::16])
        coarse = coarse * torch.linspace(-3, 3, len(self.labels)).view(1, -1, 1, 1)
        return nn.functional.interpolate(coarse, image.shape[2:], mode="bilinear", align_corners=True)


def open_cache(experiment: Experiment) -> TeacherCache:
    return open_teacher_cache(experiment, make_accelerator("cpu", "fp32"))


def stored(experiment: Experiment, cache: TeacherCache, index: int) -> torch.Tensor:
    """2 x K x h x w logits of one image and its mirror image."""
    files: SampleFiles = experiment.files.files(index)
    found = cache.logits.read(image_key(files.id, files.image), experiment.files[index].native)
    assert found is not None
    return found


@pytest.fixture
def cornered(configure: Any, tmp_path: Path) -> Any:
    """An experiment on images of 48 x 48 pixels with such a teacher."""

    def make(output_stride: int | None = None, **settings: Any) -> Experiment:
        root = tmp_path / "data"
        if not root.exists():
            write_shapes(root, train=4, val=2, size=48)
        data = DataConfig(root=str(root), workers=0)
        teacher = TeacherConfig(
            spec="any", cache=str(tmp_path / "cache"), cache_stride=settings.pop("stride", None)
        )
        config = configure(
            tmp_path / "out", teacher=teacher, size=48, data=data, **settings.pop("config", {})
        )
        experiment = build_experiment(TrainConfig(data=config.data, student=config.student))
        network = TrainedNetwork(Cornered(experiment.labels), experiment.labels, "cornered")
        network.output_stride = output_stride
        return replace(experiment, config=config, teacher=Teacher(network, experiment.labels, **settings))

    return make


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
@pytest.mark.parametrize(
    "teacher",
    [{"flip": True}, {"scales": [0.5, 1.0]}, {"mix": [3.0, 1.0]}, {"flip": True, "mix": [1.0, 2.0]}],
    ids=str,
)
def test_cached_averages_are_those_of_the_live_teacher(
    configure: Any, run: Path, distilled: Path, tmp_path: Path, mirrored: float, teacher: dict[str, Any]
) -> None:
    settings = TeacherConfig(
        spec=[str(run), str(distilled)] if "mix" in teacher else str(run),
        cache=str(tmp_path / "cache"), cache_stride=1, **teacher,
    )  # fmt: skip
    whole = AugmentConfig(scale=(1, 1), flip=mirrored, jitter=0)
    config = configure(tmp_path / "out", teacher=settings, augment=whole, size=48)
    experiment = build_experiment(config)
    assert experiment.teacher is not None
    cache = open_cache(experiment)
    for batch in training_batches(experiment.train, config, range(2), cache=cache):
        crops = batch.normalized()
        assert crops.teacher_logits is not None
        expected = experiment.teacher(crops.image)
        torch.testing.assert_close(crops.teacher_logits.float(), expected, atol=0.02, rtol=0.01)


def test_with_flip_the_mirror_images_logits_are_the_mirrored_ones(cornered: Any) -> None:
    """So a mirrored crop has the average too, in one pass over the two views of each image."""
    plain, flipped = cornered(stride=1), cornered(stride=1, flip=True)
    caches = [open_cache(plain), open_cache(flipped)]
    assert plain.teacher.network.module.passes == flipped.teacher.network.module.passes == len(plain.files)
    for index in range(len(plain.files)):
        alone, both = (stored(*pair, index) for pair in zip((plain, flipped), caches, strict=True))
        assert torch.equal(both[1], both[0].flip(2))
        assert not torch.equal(alone[1], alone[0].flip(2))
        mean = (alone[0].float().softmax(dim=0) + alone[1].float().flip(2).softmax(dim=0)) / 2
        torch.testing.assert_close(both[0].float().softmax(dim=0), mean, atol=2e-3, rtol=2e-3)


def test_each_scale_and_network_is_one_pass(cornered: Any) -> None:
    experiment = cornered(stride=1, scales=(1.0, 1.5, 2.0), flip=True)
    cache = open_cache(experiment)
    assert experiment.teacher.network.module.passes == 3 * len(experiment.files)
    assert stored(experiment, cache, 0).shape[2:] == (96, 96)  # the largest input
    assert len(open_cache(experiment).logits) == len(experiment.files)
    assert experiment.teacher.network.module.passes == 3 * len(experiment.files)  # nothing anew


def test_a_corner_aligned_teacher_is_cached_on_its_own_grid(cornered: Any, capsys: Any) -> None:
    experiment = cornered(output_stride=16)
    cache = open_cache(experiment)
    form = cache.logits.form
    assert (form.stride, form.grid, form.output_stride) == (16, "corners", 16)
    assert form.input_size((48, 48)) == (49, 49)
    assert stored(experiment, cache, 0).shape[2:] == (4, 4)
    assert "output_stride" not in capsys.readouterr().err
    by_hand = open_cache(cornered(output_stride=16, stride=8)).logits.form
    assert (by_hand.grid, by_hand.grid_size((48, 48))) == ("corners", (7, 7))


@pytest.mark.parametrize("flip", [False, True])
def test_its_crops_are_those_of_the_live_teacher(cornered: Any, flip: bool) -> None:
    whole = {"augment": AugmentConfig(scale=(1, 1), flip=1.0, jitter=0)}
    experiment = cornered(output_stride=16, flip=flip, config=whole)
    cache = open_cache(experiment)
    for batch in training_batches(experiment.train, experiment.config, range(1), cache=cache):
        crops = batch.normalized()
        expected = experiment.teacher(crops.image)
        difference = (crops.teacher_logits.float() - expected).abs()
        assert difference.mean() < 0.01 * expected.std()


@pytest.mark.parametrize("flip", [False, True])
def test_the_setting_for_a_corner_aligned_teacher_is_named(cornered: Any, capsys: Any, flip: bool) -> None:
    open_cache(cornered(flip=flip))
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("lie on a grid of stride 16 with aligned corners: teacher.output_stride 16 makes") == 1
    open_cache(cornered(scales=(33 / 48,), flip=flip))  # 33 x 33, where the grid is exact anyway
    assert "output_stride" not in capsys.readouterr().err


def test_features_of_a_corner_aligned_teacher_keep_their_grid(cornered: Any) -> None:
    objective = ObjectiveConfig(losses={"cosine": 1.0}, teacher_layer="layer")
    experiment = cornered(output_stride=16, scales=(1.0, 2.0), flip=True, config={"objective": objective})
    cache = open_cache(experiment)
    assert cache.features is not None
    form = cache.features.form
    assert (form.stride, form.grid, form.grid_size((48, 48)), form.classes) == (16, "corners", (4, 4), 1)
    files = experiment.files.files(0)
    features = cache.features.read(image_key(files.id, files.image), (48, 48))
    module = experiment.teacher.network.module
    logits = open_cache(cornered(output_stride=16)).logits
    plain = logits.read(image_key(files.id, files.image), (48, 48))
    assert features is not None
    assert plain is not None
    # The last class is three times the feature: the plain view at the first scale, and no average.
    torch.testing.assert_close(3 * features[:, 0].float(), plain[:, -1].float(), atol=0.02, rtol=0.01)
    assert len(module.labels) == plain.shape[1]


ALIGNED = """
import torch
from torch import nn

class Aligned(nn.Module):
    labels = [{names}]
    {declares}

    def forward(self, image):
        right = all((side - 1) % 16 == 0 for side in image.shape[2:])
        logits = image.new_zeros(len(image), len(self.labels), *image.shape[2:])
        logits[:, 0 if right else 1] = 1
        return logits
"""


@pytest.mark.parametrize(
    ("declares", "given", "aligned"), [("", None, False), ("", 16, True), ("output_stride = 16", None, True),
                                       ("output_stride = 16", 5, False)]
)  # fmt: skip
def test_evaluate_and_predict_take_an_output_stride(
    shapes: Path, run: Path, tmp_path: Path, declares: str, given: int | None, aligned: bool
) -> None:
    """The network calls all pixels background at the right sizes, else the next class."""
    names = api.load_student(run).labels.names
    code = tmp_path / "aligned.py"
    code.write_text(ALIGNED.format(names=", ".join(map(repr, names)), declares=declares))
    config = EvaluateConfig(
        data=EvaluationDataConfig(root=str(shapes), workers=0), out=str(tmp_path / "scores.json"),
        output_stride=given, classes=names[0],
    )  # fmt: skip
    summary = api.evaluate(f"{code}:Aligned", config)
    assert (summary["miou_of_classes"] > 0) == aligned
    picture = next((shapes / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())
    predicting = PredictConfig(out=str(tmp_path / "out"), output_stride=given)
    (_, prediction), *_ = api.predict(f"{code}:Aligned", picture, predicting)
    assert set(prediction.mask.ravel().tolist()) == {0 if aligned else 1}
    assert prediction.mask.shape == (48, 48)
