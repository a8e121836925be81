"""Training on unlabelled images in tar files: what it learns is what it learns of them in a folder."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tar_shards import write_shards

from segdistill import api, cli
from segdistill.config.train import DataConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import to_yaml
from segdistill.engine.runtime import Stopped
from segdistill.engine.trainer import Trainer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def photos(shapes: Path) -> Path:
    """A folder of 16 images."""
    return shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"


@pytest.fixture
def shards(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same images in four tar files; what is kept of them lies beside them."""
    monkeypatch.setattr("segdistill.data.formats.tar.user_cache_path", lambda name: tmp_path / name)
    images = {path.stem: path.read_bytes() for path in sorted(photos.iterdir())}
    return write_shards(tmp_path / "shards", images, each=5)


@pytest.fixture
def mixed(configure: Any, shapes: Path, run: Path, tmp_path: Path) -> Any:
    """Makes the settings of two steps, of which three in four images have no masks."""

    def make(name: str, source: str | Path, *, cached: bool = False, **changes: Any) -> TrainConfig:
        cache = str(tmp_path / "cache") if cached else None
        data = DataConfig(
            root=str(shapes), unlabelled=[str(source)], unlabelled_share=0.75, cache=cache, workers=1
        )
        teacher = TeacherConfig(spec=str(run), cache=cache)
        return configure(
            tmp_path / name, data=data, teacher=teacher, **{"steps": 2, "evaluate_every": 2} | changes
        )

    return make


def differing(first: Path, second: Path) -> list[str]:
    """Names of the weights that are not equal bit by bit."""
    one, two = (load_file(run / "model.safetensors") for run in (first, second))
    return [name for name, weights in one.items() if not torch.equal(weights, two[name])]


@pytest.mark.parametrize("cached", [False, True])
def test_the_weights_are_those_of_a_folder(mixed: Any, photos: Path, shards: Path, cached: bool) -> None:
    folder = api.train(mixed("folder", photos, cached=cached), report=False)
    for name, source in (("whole", shards), ("pattern", f"{shards}/train-{{000..003}}.tar")):
        assert differing(folder, api.train(mixed(name, source, cached=cached), report=False)) == []
    assert differing(folder, api.train(mixed("seed", shards, cached=cached, seed=1), report=False)) != []


def test_two_processes_learn_of_tar_files_what_they_learn_of_a_folder(
    launch: Any, mixed: Any, photos: Path, shards: Path, tmp_path: Path
) -> None:
    for name, source in (("folder", photos), ("shards", shards)):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(mixed(f"two-{name}", source, cached=True, batch=8)))
        done = launch("train", "--config", tmp_path / f"{name}.yaml")
        assert done.returncode == 0, done.stderr
    assert differing(tmp_path / "two-folder", tmp_path / "two-shards") == []


def test_a_resumed_training_ends_with_the_same_weights(
    mixed: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = api.train(mixed("straight", shards, steps=6, evaluate_every=6), report=False)
    config, step = mixed("stopped", shards, steps=6, evaluate_every=6), Trainer.optimizer_step

    def with_signal(trainer: Trainer, number: int, batches: Any) -> Any:
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", with_signal)
        with pytest.raises(Stopped):
            api.train(config, report=False)
    assert differing(straight, api.train(config, resume=True, report=False)) == []


def test_a_shard_cut_short_ends_the_command_with_one_line(
    shards: Path, shapes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shards / "train-001.tar"
    broken.write_bytes(broken.read_bytes()[:3000])
    command = ["train", "--data.root", str(shapes), "--teacher", str(run), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--data.unlabelled", f'["{shards}"]', "--device", "cpu"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"segdistill: error: {broken} is cut short")
    assert "copy it again from where it is whole" in line
