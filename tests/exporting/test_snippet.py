"""The Python code of docs/deploy.md, run as a reader would, gives what `segdistill predict` gives."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import api
from segdistill.config.deploy import ExportConfig, PredictConfig
from segdistill.data.labels import LabelSet
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


@pytest.mark.parametrize("size", [64, None])
def test_the_onnx_code_gives_the_classes_of_predict(
    student: DSUNet, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    [code] = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "onnx" in block
    ]
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    labels = LabelSet(names=tuple("abcde"))
    card = ModelCard(spec="dsunet", width=0.1, labels=labels, size=64, evaluate_size=size)
    RunFolder(Path("run")).save_student(student, card)
    draw_photo(Path("photo.jpg"), (203, 150))
    api.export("run", ExportConfig(out="student.onnx"))
    [(_, prediction)] = api.predict("run", ["photo.jpg"], PredictConfig(device="cpu"))
    assert len(prediction.shares) > 1
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["classes"].shape == (150, 203)
    assert (names["classes"] == prediction.mask).mean() >= 0.999
    if size:  # which counts: at the photo's own size the student gives other classes
        [(_, whole)] = api.predict("run", ["photo.jpg"], PredictConfig(size=203, device="cpu"))
        assert (whole.mask == prediction.mask).mean() < 0.99
