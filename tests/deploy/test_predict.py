"""Predictions: masks, overlays and probabilities of a picture's own size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdistill.data.labels import LabelSet
from segdistill.deploy.benchmark import cost
from segdistill.deploy.predict import find_images, predict, write_prediction
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)))


class Colours(nn.Module):
    """Answers with the image's red and green, and between them with background."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 9 * torch.stack([0 * image[:, 0], image[:, 0], image[:, 1]], dim=1)


@pytest.fixture
def picture() -> Image.Image:
    """64 x 32 pixels, left half red, right half green."""
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    return image


@pytest.fixture
def network() -> TrainedNetwork:
    return TrainedNetwork(Colours(), LABELS, "colours").eval()


@pytest.mark.parametrize("size", [None, 32, 200])
def test_the_mask_has_the_pictures_size(
    network: TrainedNetwork, picture: Image.Image, size: int | None
) -> None:
    prediction = predict(network, picture, size=size)
    assert prediction.mask.shape == (32, 64)
    assert prediction.mask[:, :30].tolist() == [[1] * 30] * 32
    assert prediction.mask[:, 34:].tolist() == [[2] * 30] * 32
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    assert prediction.shares == {"red": pytest.approx(0.5, abs=0.05), "green": pytest.approx(0.5, abs=0.05)}


def test_written_files_hold_what_was_seen(
    network: TrainedNetwork, picture: Image.Image, tmp_path: Path
) -> None:
    prediction = predict(network, picture)
    mask = write_prediction(prediction, tmp_path, Path("sub/p"), probabilities=True)
    with Image.open(mask) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), prediction.mask)
        assert image.convert("RGB").getpixel((5, 5)) == (200, 0, 0)
    stored = np.load(tmp_path / "sub" / "p.npz")
    assert stored["probabilities"].dtype == np.float16
    assert stored["names"].tolist() == ["background", "red", "green"]
    with Image.open(tmp_path / "sub" / "p_overlay.jpg") as overlay:
        assert overlay.width == 64
        red, green, _ = overlay.getpixel((5, 5))
    assert red > 200
    assert green < 40


def test_the_overlay_leaves_background_as_it_is(picture: Image.Image) -> None:
    class Nothing(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(len(image), -1, *image.shape[2:])

    prediction = predict(TrainedNetwork(Nothing(), LABELS, "nothing").eval(), picture)
    shown = np.asarray(prediction.overlay())
    assert np.array_equal(shown[:32], np.asarray(picture))
    assert shown.shape[0] > 32  # the legend


def test_images_are_found_in_files_and_folders(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    names = [str(name) for _, name in find_images([tmp_path, tmp_path / "sub" / "b.png"])]
    assert names == ["a", "sub/b", "b"]
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        list(find_images([tmp_path / "nowhere"]))


def test_cost_counts_parameters_and_operations() -> None:
    network = nn.Conv2d(3, 5, 1)
    network.train()
    [row] = cost({"one": network}, size=8, repeats=2)["networks"]
    assert row["parameters"] == 3 * 5 + 5
    assert row["flops"] == 2 * 3 * 5 * 8 * 8  # a multiplication and an addition per weight and pixel
    assert row["latency_ms"] > 0
    assert network.training
