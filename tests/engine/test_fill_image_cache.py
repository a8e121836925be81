"""The cache of decoded images as training uses it: filled once, bounded, and nothing but speed changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from segdistill import api
from segdistill.build import build_experiment
from segdistill.config.train import AugmentConfig, DataConfig, TeacherConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.cache.images import DecodedSamples
from segdistill.data.datasets import open_training
from segdistill.data.loaders import training_batches
from segdistill.data.samples import DownscaledSamples
from segdistill.engine.fill_caches import fill_caches
from segdistill.engine.fill_image_cache import open_image_cache

pytestmark = pytest.mark.integration


def size(folder: Path) -> int:
    """Bytes of all shards of a cache."""
    return sum(part.stat().st_size for part in folder.rglob("shard-*.bin"))


def test_without_a_cache_the_samples_stay_what_they_are(
    configure: Any, shapes: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    plain = build_experiment(configure(tmp_path))
    assert plain.train is plain.files
    data = DataConfig(root=str(shapes), long_side=24)
    downscaled = build_experiment(configure(tmp_path, data=data))
    assert type(downscaled.train) is DownscaledSamples
    assert fill_caches(downscaled, accelerator) == downscaled


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_filled_once_and_gives_the_same_batches(
    configure: Any, shapes: Path, accelerator: Accelerator, tmp_path: Path, capsys: Any, workers: int
) -> None:
    data = DataConfig(root=str(shapes), long_side=24, cache=str(tmp_path / "cache"), workers=workers)
    config = configure(tmp_path / "out", data=data, augment=AugmentConfig(blur=0.5))
    samples = open_training(data)
    state = torch.get_rng_state()
    decoded = open_image_cache(data, samples, accelerator)
    assert torch.equal(torch.get_rng_state(), state)  # training draws what it would without the cache
    assert "Decoding 12 images once" in capsys.readouterr().err
    assert size(tmp_path / "cache") == 12 * 4 * 24 * 24
    again = open_image_cache(data, samples, accelerator)
    assert capsys.readouterr().err == ""
    assert size(tmp_path / "cache") == 12 * 4 * 24 * 24
    plain = training_batches(DownscaledSamples(samples, 24), config, range(5))
    for one, two, three in zip(
        plain, *(training_batches(seen, config, range(5)) for seen in (decoded, again)), strict=True
    ):
        for name in ("image", "mask", "valid"):
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert torch.equal(getattr(one, name), getattr(three, name))


def test_it_stays_within_its_bound_and_says_so(
    shapes: Path, accelerator: Accelerator, tmp_path: Path, capsys: Any
) -> None:
    data = DataConfig(root=str(shapes), cache=str(tmp_path / "cache"), cache_gb=5.5 * 4 * 48 * 48 / 1e9)
    samples = open_training(data)
    for start in range(2):  # the second one finds it full
        decoded = open_image_cache(data, samples, accelerator)
        assert isinstance(decoded, DecodedSamples)
        assert decoded.kept() == 5
        assert size(tmp_path / "cache") == 5 * 4 * 48 * 48
        assert capsys.readouterr().err.count("5 of 12 decoded images fit into data.cache_gb") == 1, start
    for index in range(12):
        assert torch.equal(decoded[index].image, samples[index].image)
        assert torch.equal(decoded[index].mask, samples[index].mask)
    larger = open_image_cache(replace(data, cache_gb=1), samples, accelerator)
    assert isinstance(larger, DecodedSamples)
    assert larger.missing(range(12)) == []


def test_an_unreadable_image_is_named_before_training(
    shapes: Path, accelerator: Accelerator, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "bad.jpg").write_bytes(b"no image")
    data = DataConfig(root=str(shapes), unlabelled=[str(photos)], cache=str(tmp_path / "cache"), workers=2)
    with pytest.raises(ValueError, match=r"bad\.jpg is not an image that can be read"):
        open_image_cache(data, open_training(data), accelerator)


def test_training_from_it_is_training_from_the_files(configure: Any, run: Path, tmp_path: Path) -> None:
    """With a teacher's cache too, which is filled from the whole files."""
    weights = []
    for name, cache in (("files", None), ("cached", str(tmp_path / "decoded"))):
        config = configure(tmp_path / name, steps=3)
        config = replace(
            config,
            data=replace(config.data, long_side=30, cache=cache),
            teacher=TeacherConfig(spec=str(run), cache=str(tmp_path / "logits")),
        )
        weights.append((api.train(config, report=False) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    # 12 images of 48 x 48 pixels and their mirror images, 9 classes in float16: the teacher saw the files
    assert size(tmp_path / "logits") == 12 * 2 * 9 * 48 * 48 * 2
    assert size(tmp_path / "decoded") == 12 * 4 * 30 * 30


def test_two_processes_decode_each_image_once(launch: Any, configure: Any, tmp_path: Path) -> None:
    config = configure(tmp_path / "out", steps=1, evaluate_every=1)
    config = replace(config, data=replace(config.data, cache=str(tmp_path / "cache")))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    done = launch("train", "--config", tmp_path / "config.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Decoding 12 images once") == 1
    assert size(tmp_path / "cache") == 12 * 4 * 48 * 48
    assert len(list((tmp_path / "cache").rglob("shard-*.bin"))) == 2
