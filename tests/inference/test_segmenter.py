"""A network as an object that is called with pictures in memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import segdistill
from segdistill.data.labels import LabelSet
from segdistill.data.pictures import as_image
from segdistill.inference.prediction import predict_image
from segdistill.inference.segmenter import Segmenter
from segdistill.models.trained import TrainedNetwork, load_network

pytestmark = pytest.mark.unit
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)


@pytest.fixture
def segmenter() -> Segmenter:
    """Of the classes red, green and blue: the largest channel of a pixel."""
    network = nn.Conv2d(3, 3, 1, bias=False)
    network.weight.data = 10 * nn.init.dirac_(network.weight.data)
    labels = LabelSet(names=("red", "green", "blue"))
    return Segmenter(TrainedNetwork(network, labels, "rgb", mean=(0, 0, 0), std=(1, 1, 1)))


def test_every_form_of_a_picture_gives_one_result(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    given = [PIXELS, Image.fromarray(PIXELS), path, str(path), Image.fromarray(PIXELS).convert("RGBA")]
    predictions = segmenter(given)
    assert len(predictions) == len(given)
    for prediction in [*predictions, *(segmenter(one) for one in given), *segmenter(tuple(given))]:
        assert prediction.mask.shape == (23, 31)
        assert prediction.mask.dtype == np.uint8
        assert (prediction.mask == PIXELS.argmax(axis=2)).mean() > 0.99  # but for equal channels
        assert prediction.probabilities is None
    assert segmenter(PIXELS[:, ::-1]).mask.tolist() == segmenter(PIXELS).mask[:, ::-1].tolist()


def test_what_a_prediction_tells(segmenter: Segmenter) -> None:
    picture = np.zeros((4, 10, 3), np.uint8)
    picture[:, :3, 0] = picture[:, 3:, 2] = 200
    prediction = segmenter(picture, probabilities=True)
    assert prediction.shares == {"blue": 0.7, "red": 0.3}
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (3, 4, 10)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, rtol=1e-5)
    assert prediction.overlay().size[0] == 10
    assert segmenter.labels.names == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PIXELS[:, :, 0], r"shape \(23, 31\) of uint8, but must be H x W x 3 uint8"),
        (PIXELS / 255, r"of float64, but must be H x W x 3 uint8 RGB .*\(255 \* image\)"),
        (PIXELS[None], r"shape \(1, 23, 31, 3\)"),
        (PIXELS[:0], r"shape \(0, 31, 3\)"),
        (7, "a picture is a int, but must be a PIL image, an array or a path"),
    ],
)
def test_what_is_no_picture_is_refused(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_image(picture)  # type: ignore[arg-type]


def test_a_missing_file_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg does not exist"):
        segmenter("nowhere.jpg")


def test_load_gives_what_predict_gives(run: Path) -> None:
    picture = Image.fromarray(PIXELS).resize((65, 47))
    config = segdistill.LoadConfig(size=40, flip=True, device="cpu")
    found = segdistill.load(run, config)(picture, probabilities=True)
    expected = predict_image(load_network(str(run)), picture, size=40, flip=True)
    assert (found.mask == expected.mask).mean() > 0.999  # fused: up to rounding
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
