"""A student of 12-bit images: whatever uses it later reads such files as its training did."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deep_images import png
from PIL import Image

import segdistill
from segdistill import scoring
from segdistill.build import build_experiment
from segdistill.config.deploy import ExportConfig
from segdistill.config.train import DataConfig, TrainConfig
from segdistill.data.datasets import open_dataset
from segdistill.exporting.export import make_card
from segdistill.exporting.quantize import calibration_images
from segdistill.models.card import read_card, save_model
from segdistill.models.export_card import ExportCard
from segdistill.models.trained import load_network
from segdistill.serving.codec import decode_upload

pytestmark = pytest.mark.integration

SHADES = [0, 16, 2048, 4095] * 8
"""Values of 12 bits, as a row of pixels."""
EIGHT = [0, 1, 128, 255] * 8


def reds(image: Image.Image) -> list[int]:
    """The first channel of the first row."""
    return np.asarray(image)[0, :, 0].tolist()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set whose description says 12 bits, of two grey images and two of colours."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        pixels = np.tile(np.array(SHADES, np.uint16)[None, :, None], (32, 1, 3))
        Image.fromarray(pixels[..., 0]).save(root / split / "images" / "grey.png")
        png(root / split / "images" / "colour.png", pixels)
        for name in ("grey", "colour"):
            mask = np.tile(np.array([0, 0, 1, 1] * 8, np.uint8), (32, 1))
            Image.fromarray(mask).save(root / split / "masks" / f"{name}.png")
    (root / "dataset.yaml").write_text(
        'names: [dark, bright]\nimages: "{split}/images"\nmasks: "{split}/masks"\nbits: 12\n'
    )
    return root


@pytest.fixture
def student(configure: Any, root: Path, tmp_path: Path) -> Path:
    """The run folder of a student that is built for these images, as a training leaves it."""
    config: TrainConfig = configure(tmp_path / "run", data=DataConfig(root=str(root), workers=0))
    experiment = build_experiment(config)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run", experiment.student.state_dict(), experiment.card)
    return tmp_path / "run"


@pytest.fixture
def photos(root: Path) -> list[Path]:
    return sorted((root / "val" / "images").iterdir())


def test_the_card_keeps_the_bits_of_the_training_images(student: Path) -> None:
    assert read_card(student).bits == 12
    assert load_network(str(student)).bits == 12


@pytest.mark.parametrize("value", [8, 17, 12.0, "12", True])
def test_a_card_of_impossible_bits_is_refused(student: Path, value: Any) -> None:
    card = student / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"bits": value}))
    with pytest.raises(ValueError, match=r"model\.json is not a model card of segdistill: bits is"):
        read_card(student)


def test_predict_and_load_scale_by_it(student: Path, photos: list[Path], tmp_path: Path) -> None:
    assert [reds(segdistill.load(student)(photo).image) for photo in photos] == [EIGHT, EIGHT]
    with Image.open(photos[1]) as grey:
        assert reds(segdistill.load(student)(grey).image) == EIGHT
    for name, settings in {"whole": {}, "tiles": {"tile": 96, "overlap": 4}}.items():
        found = segdistill.predict(student, photos, out=str(tmp_path / name), **settings)
        assert [reds(prediction.image) for _, prediction in found] == [EIGHT, EIGHT]


def test_colours_that_pil_has_halved_are_refused_in_memory(student: Path, photos: list[Path]) -> None:
    with Image.open(photos[0]) as colours, pytest.raises(ValueError, match="give the path of its file"):
        segdistill.load(student)(colours)


def test_an_upload_is_scaled_by_it(photos: list[Path]) -> None:
    for photo in photos:
        assert reds(decode_upload(photo.read_bytes(), 10_000, 12)) == EIGHT
        assert reds(decode_upload(photo.read_bytes(), 10_000)) != EIGHT


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The samples that networks are scored on."""
    seen: list[Any] = []
    for name in ("evaluate_network", "evaluate_together"):
        real = getattr(scoring, name)

        def noting(network: Any, samples: Any, *rest: Any, real: Any = real, **options: Any) -> Any:
            seen.append(samples)
            return real(network, samples, *rest, **options)

        monkeypatch.setattr(scoring, name, noting)
    return seen


def test_data_that_do_not_say_are_scored_by_it(
    student: Path, root: Path, tmp_path: Path, scored: list[Any]
) -> None:
    described = root / "dataset.yaml"
    described.write_text(described.read_text().replace("bits: 12\n", ""))
    settings = {"data": str(root), "device": "cpu", "out": str(tmp_path / "scores.json")}
    segdistill.evaluate(student, **settings)
    segdistill.compare([student, student], **settings)
    described.write_text(described.read_text() + "bits: 13\n")
    segdistill.evaluate(student, **settings)
    assert [samples.bits for samples in scored] == [12, 12, 13]


def test_an_exported_file_keeps_it(student: Path, photos: list[Path]) -> None:
    network = load_network(str(student))
    card = make_card(network, ExportConfig())
    texts = {name: json.dumps(value) for name, value in card.to_dict().items()}
    assert ExportCard.read(texts, student).bits == 12
    with pytest.raises(ValueError, match=r"the metadata of .* cannot be read: bits is 8"):
        ExportCard.read(texts | {"bits": "8"}, student)
    image = calibration_images(photos[0].parent, 1, None, card.bits)[0]
    assert torch.equal(image[0, 0], torch.tensor(EIGHT, dtype=torch.uint8))


def test_labelled_images_keep_it(student: Path, photos: list[Path], tmp_path: Path) -> None:
    segdistill.label(student, photos, out=str(tmp_path / "labels"), device="cpu")
    samples = open_dataset(tmp_path / "labels", "all")
    assert [samples[index].image[0, 0].tolist() for index in range(2)] == [EIGHT, EIGHT]
