"""Pictures in memory and bytes from standard input give what their files give, also in tiles."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdistill.config.deploy import PredictConfig
from segdistill.data.images import EmbeddedBytes
from segdistill.data.inputs import find_inputs
from segdistill.data.labels import LabelSet
from segdistill.data.pictures import PictureInMemory
from segdistill.inference.pipeline import Pipeline, UnreadableFilesError
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("red", "green", "blue"))


@pytest.fixture
def network() -> TrainedNetwork:
    """The largest channel of each pixel."""
    return TrainedNetwork(nn.Identity(), LABELS, "brightest", mean=(0, 0, 0), std=(1, 1, 1)).eval()


def predict(network: TrainedNetwork, files: Any, out: Path, **settings: Any) -> list[np.ndarray]:
    config = PredictConfig(out=str(out), **settings)
    results = Pipeline(network, config, torch.device("cpu")).run(list(files))
    return [prediction.mask for _, prediction in results]


@pytest.mark.parametrize(
    "settings", [{}, {"streams": 3}, {"tile": 96, "overlap": 0}, {"flip": True}, {"probabilities": True}]
)
def test_masks_are_those_of_the_files(
    network: TrainedNetwork, photos: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    paths = sorted(photos.iterdir())[:4]
    lazy = [Image.open(path) for path in paths]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    piped = EmbeddedBytes(Path("-"), "standard input", paths[0].read_bytes())
    expected = predict(network, find_inputs(paths), tmp_path / "out", **settings)
    files = [(piped, Path("stdin")), *find_inputs([*lazy, lazy[0], *arrays])]
    found = predict(network, files, tmp_path / "out", **settings)
    both = zip(found, [expected[0], *expected, expected[0], *expected], strict=True)
    assert all(np.array_equal(*masks) for masks in both)
    assert (tmp_path / "out" / "stdin.png").is_file()
    assert (tmp_path / "out" / "image_8_overlay.jpg").is_file()
    assert [image.getpixel((0, 0)) for image in lazy] == [tuple(pixels[0, 0]) for pixels in arrays]  # open


def test_a_picture_that_cannot_be_decoded_is_named_and_the_others_are_done(
    network: TrainedNetwork, photos: Path, tmp_path: Path
) -> None:
    data = (photos / "0.png").read_bytes()
    pictures = [Image.open(BytesIO(data)), Image.open(BytesIO(data[:1000]))]
    with pytest.raises(UnreadableFilesError, match="1 of 2 files failed: image_1 cannot be decoded: "):
        predict(network, find_inputs(pictures), tmp_path / "out")
    assert (tmp_path / "out" / "image_0.png").is_file()
    piped = EmbeddedBytes(Path("-"), "standard input", b"no image")
    with pytest.raises(UnreadableFilesError, match=r"^standard input is not an image that can be read"):
        predict(network, [(piped, Path("stdin"))], tmp_path / "out")


def test_a_deep_picture_is_scaled_by_the_networks_bits(network: TrainedNetwork, tmp_path: Path) -> None:
    network.bits = 12
    values = np.array([[0, 2048, 4095]], np.uint16)
    results = Pipeline(network, PredictConfig(out=str(tmp_path)), torch.device("cpu")).run(
        [(PictureInMemory(Image.fromarray(values), "deep"), Path("deep"))]
    )
    [(_, prediction)] = results
    assert np.asarray(prediction.image)[0, :, 0].tolist() == [0, 128, 255]
