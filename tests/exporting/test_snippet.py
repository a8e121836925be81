"""The Python code of docs/deploy.md, run as a reader would, gives what `segdistill predict` gives."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from segdistill import api
from segdistill.config.deploy import ExportConfig, PredictConfig
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import normalise, resize_long_side
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import ModelCard
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.integration
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


def draw_photo(path: Path, size: tuple[int, int]) -> None:
    """A JPEG file with smooth colours and sharp edges, W x H pixels."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(columns / 23) + np.cos(rows / 31), np.sin((rows + columns) / 47), np.cos(columns / 13)]
    pixels = np.stack([127 + 60 * wave for wave in waves], axis=2)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (220, 40, 30)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def with_balanced_classes(student: DSUNet) -> DSUNet:
    """A copy whose logits of the photo have the same mean and spread in each class."""
    student = copy.deepcopy(student)
    photo = F.pil_to_tensor(Image.open("photo.jpg"))
    with torch.no_grad():
        logits = student(normalise(resize_long_side(photo, 64))[None]).movedim(1, 0).flatten(1)
        spread, mean = logits.std(dim=1), logits.mean(dim=1)
        student.head.weight /= spread.view(-1, 1, 1, 1)
        assert student.head.bias is not None
        student.head.bias.sub_(mean).div_(spread)
    return student


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's code, in a folder with the photo that it opens."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    draw_photo(Path("photo.jpg"), (203, 150))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    [code] = [block for block in blocks if "import onnxruntime" in block]
    return code


def run_code(code: str) -> np.ndarray:
    """H x W class indices that it leaves in `classes`."""
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["classes"].shape == (150, 203)
    return names["classes"]


def test_the_onnx_code_gives_the_classes_of_predict(student: DSUNet, code: str) -> None:
    Path("run").mkdir()
    card = ModelCard(
        spec="dsunet", width=0.1, labels=LabelSet(names=tuple("abcde")), size=64, evaluate_size=64
    )
    RunFolder(Path("run")).save_student(with_balanced_classes(student), card)
    api.export("run", ExportConfig(out="student.onnx"))
    [(_, prediction)] = api.predict("run", ["photo.jpg"], PredictConfig(device="cpu"))
    assert len(prediction.shares) > 1
    assert (run_code(code) == prediction.mask).mean() >= 0.999
    # The size counts: at the photo's own the student gives other classes.
    [(_, whole)] = api.predict("run", ["photo.jpg"], PredictConfig(size=203, device="cpu"))
    assert (whole.mask == prediction.mask).mean() < 0.99


def test_the_onnx_code_leaves_the_image_as_it_is_for_a_network_without_a_size(
    run: Path, exported: Callable[[str], Path], code: str
) -> None:
    shutil.copy(exported("onnx"), "student.onnx")
    [(_, prediction)] = api.predict(run, ["photo.jpg"], PredictConfig(device="cpu"))
    assert len(prediction.shares) > 1
    assert (run_code(code) == prediction.mask).mean() >= 0.999
