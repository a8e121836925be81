"""Pictures of validation images for trackers: which ones, what they show, and that TensorBoard gets them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import api
from segdistill.data.datasets import open_dataset
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import Sample
from segdistill.engine import pictures
from segdistill.engine.history import History
from segdistill.engine.pictures import GAP, ExamplePictures, draw_row
from segdistill.engine.runtime import make_accelerator

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("a", "b"), palette=((10, 20, 30), (200, 100, 50)))


def test_a_row_is_image_ground_truth_and_prediction() -> None:
    image = torch.full((3, 2, 3), 77, dtype=torch.uint8)
    mask = torch.tensor([[0, 1, VOID], [1, 1, 0]], dtype=torch.uint8)
    predicted = np.array([[1, 1, 0], [0, 0, 1]], dtype=np.uint8)
    row = draw_row(Sample(image, mask, "x", (2, 3)), predicted, LABELS)
    assert row.shape == (2, 3 * 3 + 2 * GAP, 3)
    first, second, third = row[:, :3], row[:, 3 + GAP : 6 + GAP], row[:, 6 + 2 * GAP :]
    assert (first == 77).all()
    assert (row[:, 3 : 3 + GAP] == 255).all()
    assert second[0, 0].tolist() == third[0, 2].tolist() == [10, 20, 30]
    assert second[0, 1].tolist() == third[0, 0].tolist() == [200, 100, 50]
    assert second[0, 2].tolist() not in ([10, 20, 30], [200, 100, 50])  # void has a colour of its own


def test_large_images_are_drawn_small_and_masks_keep_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LONG_SIDE", 8)
    mask = (torch.arange(16)[None] // 8).expand(12, 16).to(torch.uint8)
    sample = Sample(torch.zeros(3, 12, 16, dtype=torch.uint8), mask, "x", (12, 16))
    row = draw_row(sample, mask.numpy(), LABELS)
    assert row.shape == (6, 3 * 8 + 2 * GAP, 3)
    assert {tuple(colour) for colour in row[:, 8 + GAP : 16 + GAP].reshape(-1, 3)} == set(LABELS.palette)


def test_the_images_are_those_of_the_first_process(shapes: Path) -> None:
    samples = open_dataset(shapes, "train")
    ids = samples.ids.tolist()
    assert ExamplePictures(samples, count=3).ids == {ids[0], ids[4], ids[8]}
    assert ExamplePictures(samples, world=2, count=3).ids == {ids[0], ids[4], ids[8]}
    assert ExamplePictures(samples, world=5, count=3).ids == {ids[0], ids[5], ids[10]}
    assert ExamplePictures(samples, count=0).ids == set()
    assert ExamplePictures(samples, count=99).ids == set(ids)


def test_wandb_gets_lists_of_pictures(tmp_path: Path) -> None:
    given: list[Any] = []

    class Tracker:
        name = "wandb"

        def log_images(self, values: dict[str, Any], step: int) -> None:
            given.append((values, step))

    accelerator = make_accelerator("cpu", "fp32")
    history = History(tmp_path / "history.jsonl", 0, accelerator)
    assert not history.takes_pictures
    accelerator.trackers = [Tracker()]
    assert history.takes_pictures
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    history.pictures(7, {"x": picture})
    [(values, step)] = given
    assert (step, list(values)) == (7, ["val/x"])
    assert [image.shape for image in values["val/x"]] == [(2, 3, 3)]


@pytest.mark.integration
def test_tensorboard_gets_pictures_with_each_evaluation(configure: Any, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = configure(tmp_path / "run", steps=2, evaluate_every=1, trackers=["tensorboard"])
    api.train(config, report=False)
    [folder] = {path.parent for path in (tmp_path / "run" / "tensorboard").rglob("events*")}
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["images"]
    samples = open_dataset(config.data.root, "val")
    assert sorted(tags) == sorted(f"val/{name}" for name in samples.ids)
    seen = events.Images(tags[0])
    assert [image.step for image in seen] == [1, 2]
    shown = np.asarray(Image.open(io.BytesIO(seen[0].encoded_image_string)))
    sample = next(sample for sample in samples if f"val/{sample.id}" == tags[0])
    assert (shown[:, : sample.image.shape[2]] == sample.image.permute(1, 2, 0).numpy()).all()
