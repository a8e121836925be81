"""The students that ship with the project: small, whole, and able to tell a cat."""

from pathlib import Path

import pytest
import skimage
from safetensors.torch import load_file

from segdistill import api
from segdistill.build import calibration_source
from segdistill.config.deploy import ExportConfig, PredictConfig
from segdistill.exporting.quantize import calibration_images
from segdistill.models.card import read_card

pytestmark = pytest.mark.integration
PRETRAINED = Path(__file__).parents[1] / "pretrained"


@pytest.mark.parametrize("run", sorted(path.parent.name for path in PRETRAINED.glob("*/model.json")))
def test_a_shipped_student_is_a_light_run_folder(run: str) -> None:
    folder = PRETRAINED / run
    card = read_card(folder)
    state = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in state.values()} <= {"torch.float16", "torch.int64"}
    assert (folder / "model.safetensors").stat().st_size < 8e6
    assert card.metrics["miou"] > 0
    assert "research use" in (folder / "README.md").read_text()


def test_pictures_for_int8_come_with_a_student() -> None:
    folder = PRETRAINED / "voc-animals" / "calibration"
    images = calibration_images(folder, 200, read_card(folder.parent).evaluate_size)
    assert [tuple(image.shape) for image in images] == [(3, 304, 304)] * 32
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6
    assert calibration_source(str(folder.parent), ExportConfig(quantize="int8")) == folder


@pytest.mark.parametrize("run", ["voc-animals", "voc-animals-reference"])
def test_students_of_animals_see_the_cat(run: str, tmp_path: Path) -> None:
    """Chelsea the cat, which scikit-image ships, is in no training set of the project."""
    photo = Path(skimage.__file__).parent / "data" / "chelsea.png"
    config = PredictConfig(out=str(tmp_path), device="cpu")
    [(mask, prediction)] = api.predict(PRETRAINED / run, [photo], config)
    assert mask.is_file()
    foreground = {name: share for name, share in prediction.shares.items() if name != "background"}
    assert max(foreground, key=foreground.__getitem__) == "cat"
    assert foreground["cat"] > 0.2
