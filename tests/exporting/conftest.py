"""What the tests of exported files share: the tiny run in every format, and in int8, each exported once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segdistill import api
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.engine.run_folder import RunFolder
from segdistill.models.file_formats import FORMATS
from segdistill.models.student import DSUNet

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch", "executorch": "executorch"}

Export = Callable[[str], Path]


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the tiny run to a format, once; the name is one that a pattern of names would not match."""
    made: dict[str, Path] = {}

    def make(form: str) -> Path:
        pytest.importorskip(PACKAGES[form])
        if form not in made:
            out = tmp_path_factory.mktemp("exports") / f"student[1]{FORMATS[form].suffix}"
            api.export(run, ExportConfig(format=form, out=str(out)))  # type: ignore[arg-type]
            made[form] = out
        return made[form]

    return make


@pytest.fixture(scope="session")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run without its images: as packed, and unpacked where its data set is not."""
    folder = RunFolder(run).pack(tmp_path_factory.mktemp("packed") / "student")
    settings = (folder / "config.yaml").read_text().splitlines()
    moved = ["  root: /elsewhere/shapes" if line.startswith("  root:") else line for line in settings]
    (folder / "config.yaml").write_text("\n".join(moved) + "\n")
    return folder


@pytest.fixture(scope="session")
def quantized(packed: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the packed run to a format as int8, once, calibrated on four photos."""
    made: dict[str, Path] = {}

    def make(form: str) -> Path:
        pytest.importorskip({"openvino": "nncf", "onnx": "onnxruntime"}[form])
        if form not in made:
            out = tmp_path_factory.mktemp("int8") / f"small{FORMATS[form].suffix}"
            config = ExportConfig(
                format=form, quantize="int8", out=str(out), max_loss=100,
                data=EvaluationDataConfig(root=str(shapes), workers=0),
                calibration=str(next(shapes.rglob("JPEGImages"))), calibration_images=4,
            )  # type: ignore[arg-type]  # fmt: skip
            api.export(packed, config)
            made[form] = out
        return made[form]

    return make


@pytest.fixture(scope="session")
def student() -> DSUNet:
    """A student of 5 classes whose norms have statistics: fresh ones would hide a norm folded wrongly."""
    torch.manual_seed(0)
    network = DSUNet(5, 0.1).train()
    with torch.no_grad():
        for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        network(torch.randn(4, 3, 40, 40))
    return network.eval()
