"""Predictions: masks, overlays and probabilities of a picture's own size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdistill.data.labels import VOID, LabelSet
from segdistill.inference.prediction import (
    Prediction,
    blend,
    predict_image,
    write_prediction,
)
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
    prediction = predict_image(network, picture, size=size)
    assert prediction.mask.shape == (32, 64)
    assert prediction.mask[:, :30].tolist() == [[1] * 30] * 32
    assert prediction.mask[:, 34:].tolist() == [[2] * 30] * 32
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    assert prediction.shares == {"red": pytest.approx(0.5, abs=0.05), "green": pytest.approx(0.5, abs=0.05)}


@pytest.mark.parametrize("flip", [False, True])
def test_a_temperature_changes_probabilities_and_not_one_pixel_of_a_mask(flip: bool) -> None:
    torch.manual_seed(0)
    network = TrainedNetwork(nn.Conv2d(3, 3, 3, padding=1, stride=2), LABELS, "noise").eval()
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    image, predictions, fast = Image.fromarray(pixels), [], []
    for temperature in (1.0, 1.7, 0.3):
        network.temperature = temperature
        predictions.append(predict_image(network, image, flip=flip))
        fast.append(predict_image(network, image, flip=flip, probabilities=False).mask)
    raw = torch.from_numpy(predictions[0].probabilities).log()
    for prediction, temperature in zip(predictions, (1.0, 1.7, 0.3), strict=True):
        assert np.array_equal(prediction.mask, predictions[0].mask)
        expected = (raw / temperature).softmax(dim=0)
        torch.testing.assert_close(torch.from_numpy(prediction.probabilities), expected)
    assert all(np.array_equal(mask, fast[0]) for mask in fast)
    means = [prediction.probabilities.max(axis=0).mean() for prediction in predictions]
    assert means[1] < means[0] < means[2]


def test_void_is_pale_in_the_overlay_and_in_no_share(picture: Image.Image, tmp_path: Path) -> None:
    mask = np.ones((32, 64), dtype=np.uint8)
    mask[:, 32:] = VOID
    prediction = Prediction(image=picture, mask=mask, probabilities=None, labels=LABELS)
    assert prediction.shares == {"red": 0.5}
    shown = blend(prediction)
    assert shown[5, 5].tolist() == [225, 0, 0]  # 0.45 * 255 + 0.55 * 200, as without void
    assert shown[5, 40].tolist() == [179, 230, 154]  # 0.2 * (0, 255, 0) + 0.8 * (224, 224, 192)
    with Image.open(write_prediction(prediction, tmp_path, Path("p"), overlay=False)) as stored:
        assert stored.getpalette()[-3:] == [224, 224, 192]
        assert np.array_equal(np.asarray(stored), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_written_files_hold_what_was_seen(
    network: TrainedNetwork, picture: Image.Image, tmp_path: Path
) -> None:
    prediction = predict_image(network, picture)
    mask = write_prediction(prediction, tmp_path, Path("sub/p"), probabilities=True)
    with Image.open(mask) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), prediction.mask)
        assert image.convert("RGB").getpixel((5, 5)) == (200, 0, 0)
    with np.load(tmp_path / "sub" / "p.npz") as stored:
        assert stored["probabilities"].dtype == np.float16
        assert stored["probabilities"].shape == (3, 32, 64)
        np.testing.assert_allclose(stored["probabilities"].sum(axis=0, dtype=np.float32), 1, atol=2e-3)
        np.testing.assert_array_equal(stored["probabilities"].argmax(axis=0), prediction.mask)
        assert stored["names"].tolist() == ["background", "red", "green"]
    with Image.open(tmp_path / "sub" / "p_overlay.jpg") as overlay:
        assert overlay.width == 64
        red, green, _ = overlay.getpixel((5, 5))
    assert red > 200
    assert green < 40


def test_probabilities_are_written_on_request_only(
    network: TrainedNetwork, picture: Image.Image, tmp_path: Path
) -> None:
    mask = write_prediction(predict_image(network, picture), tmp_path, Path("v1.2"))
    assert mask == tmp_path / "v1.2.png"  # what follows a dot in a name is no suffix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1.2.png", "v1.2_overlay.jpg"]


def test_the_network_sees_the_size_of_its_run_or_the_one_asked_for(picture: Image.Image) -> None:
    class Recorder(Colours):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.seen = tuple(image.shape[2:])
            return super().forward(image)

    recorder = Recorder()
    network = TrainedNetwork(recorder, LABELS, "recorder", size=128).eval()
    for size, seen in ((None, (64, 128)), (32, (16, 32))):
        assert predict_image(network, picture, size=size).mask.shape == (32, 64)
        assert recorder.seen == seen


@pytest.mark.parametrize("size", [(1, 1), (7, 1), (2, 5), (33, 31)])
def test_tiny_and_odd_pictures_are_segmented(
    network: TrainedNetwork, tmp_path: Path, size: tuple[int, int]
) -> None:
    prediction = predict_image(network, Image.new("RGB", size, (255, 0, 0)), size=8, flip=True)
    assert prediction.shares == {"red": 1.0}
    with Image.open(write_prediction(prediction, tmp_path, Path("tiny"))) as mask:
        assert mask.size == size


def test_the_mirrored_view_is_averaged_with(picture: Image.Image) -> None:
    class Left(nn.Module):
        """Says red in the left half and green in the right one, whatever it sees."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            left = (torch.arange(image.shape[3]) < image.shape[3] // 2).float().expand(1, image.shape[2], -1)
            return 9 * torch.stack([torch.zeros_like(left), left, 1 - left], dim=1)

    network = TrainedNetwork(Left(), LABELS, "left").eval()
    plain = predict_image(network, picture).probabilities
    both = predict_image(network, picture, flip=True).probabilities
    np.testing.assert_allclose(both, (plain + plain[:, :, ::-1]) / 2, atol=1e-6)


def test_shares_are_of_the_classes_that_occur_largest_first() -> None:
    mask = np.array([[2, 2, 2, 0]], dtype=np.uint8)
    prediction = Prediction(
        image=Image.new("RGB", (4, 1)), mask=mask, probabilities=np.zeros((3, 1, 4)), labels=LABELS
    )
    assert list(prediction.shares.items()) == [("green", 0.75), ("background", 0.25)]


def test_the_overlay_blends_the_colours_in(network: TrainedNetwork, picture: Image.Image) -> None:
    shown = predict_image(network, picture).overlay(opacity=0.25)
    # Red (255, 0, 0) under the class's (200, 0, 0): 0.75 * 255 + 0.25 * 200 = 241.25.
    assert shown.getpixel((5, 5)) == (241, 0, 0)
    assert shown.getpixel((60, 5)) == (0, 241, 0)


def test_the_legend_has_a_swatch_of_each_class_that_occurs(picture: Image.Image) -> None:
    mask = np.zeros((200, 300), dtype=np.uint8)
    mask[:, 200:] = 2
    prediction = Prediction(
        image=picture.resize((300, 200)), mask=mask, probabilities=np.zeros((3, 200, 300)), labels=LABELS
    )
    sheet = prediction.overlay()
    legend = sheet.crop((0, 200, 300, sheet.height))
    colours = {tuple(colour) for colour in np.asarray(legend).reshape(-1, 3)}
    assert LABELS.palette[2] in colours
    assert LABELS.palette[1] not in colours  # red does not occur
    assert (255, 255, 255) in colours


def test_a_legend_of_many_classes_takes_more_rows() -> None:
    names = tuple(f"a class with the number {index}" for index in range(6))
    mask = np.arange(6, dtype=np.uint8).repeat(50)[None].repeat(40, axis=0)
    labels = LabelSet(names=names)
    heights = []
    for shown in (np.zeros_like(mask), mask):
        prediction = Prediction(
            image=Image.new("RGB", (300, 40)), mask=shown, probabilities=np.zeros((6, 40, 300)), labels=labels
        )
        heights.append(prediction.overlay().height)
    assert heights[1] > heights[0] + 20


def test_the_overlay_leaves_background_as_it_is(picture: Image.Image) -> None:
    class Nothing(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(len(image), -1, *image.shape[2:])

    prediction = predict_image(TrainedNetwork(Nothing(), LABELS, "nothing").eval(), picture)
    shown = np.asarray(prediction.overlay())
    assert np.array_equal(shown[:32], np.asarray(picture))
    assert shown.shape[0] > 32  # the legend
