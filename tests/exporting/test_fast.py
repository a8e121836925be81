"""A run in a faster runtime: the file is made once, checked, and made anew when the weights change."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segdistill import api
from segdistill.config.deploy import LoadConfig, PredictConfig
from segdistill.engine.run_folder import RunFolder
from segdistill.exporting import export, parity
from segdistill.exporting.fast import fast_file
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS

pytestmark = pytest.mark.integration
CPU = torch.device("cpu")


def refuse(*given: Any, **named: Any) -> None:
    raise ValueError("made anew")


@pytest.fixture(scope="module")
def copied_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of one's own, whose OpenVINO file is made."""
    pytest.importorskip("openvino")
    folder = shutil.copytree(run, tmp_path_factory.mktemp("fast") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "SIZES", ((33, 65),))
        fast_file(str(folder), "openvino", "fp32", CPU)
    return folder


def test_a_file_is_made_once_and_again_for_other_weights(
    copied_run: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(copied_run, tmp_path / "run")
    monkeypatch.setattr(export, "export", refuse)
    file = fast_file(str(folder), "auto", "fp32", CPU)
    assert file == folder / "runtimes" / "model.xml"
    text = " ".join(capsys.readouterr().err.split())
    assert "is computed by openvino: 100.000% of the pixels of 4 validation images have PyTorch's" in text
    record = json.loads((folder / "runtimes" / "model.xml.json").read_text())
    assert record["parity"]["equal_pixels"] >= 0.999
    assert record["source"]["student"] == RunFolder(folder).student_digest()
    RunFolder(folder).write_temperature(1.5)
    with pytest.raises(ValueError, match="made anew"):
        fast_file(str(folder), "openvino", "fp32", CPU)
    assert "Making" in capsys.readouterr().err


def test_results_are_those_of_the_run(copied_run: Path, shapes: Path, tmp_path: Path) -> None:
    photo = next(shapes.rglob("JPEGImages/*.*"))
    for options in ({}, {"flip": True, "size": 40}, {"output_stride": 16}):
        masks = []
        for runtime in ("pytorch", "openvino"):
            config = PredictConfig(out=str(tmp_path), device="cpu", runtime=runtime, **options)  # type: ignore[arg-type]
            [(_, prediction)] = api.predict(copied_run, photo, config)
            masks.append(prediction.mask)
        assert (masks[0] == masks[1]).mean() > 0.999, options
    segmenters = [
        api.load(copied_run, LoadConfig(runtime=runtime, device="cpu"))  # type: ignore[arg-type]
        for runtime in ("pytorch", "openvino")
    ]
    one, two = (segment(photo, probabilities=True).probabilities for segment in segmenters)
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert isinstance(segmenters[1].network.module, ExportedNetwork)


def test_a_prediction_with_openvino_does_not_wait_for_imports_that_it_needs_none_of(
    copied_run: Path, shapes: Path, tmp_path: Path
) -> None:
    photo = next(shapes.rglob("JPEGImages/*.*"))
    command = ["predict", str(copied_run), str(photo), "--runtime", "openvino", "--out", str(tmp_path)]
    code = (
        f"import sys, segdistill.cli as cli\nassert cli.main({command!r}) == 0\n"
        "slow = {'torchvision', 'torch._dynamo', 'matplotlib', 'jinja2', 'timm', 'transformers'}\n"
        "assert slow.isdisjoint(sys.modules), slow & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_auto_says_why_pytorch_computes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def missing(form: Any) -> None:
        raise ValueError(f"{form.name} needs {form.runtime}: install segdistill[{form.extra}]")

    monkeypatch.setattr("segdistill.models.exported.FileFormat.import_runtime", missing)
    assert fast_file(str(run), "auto", "fp32", CPU) is None
    text = " ".join(capsys.readouterr().err.split())
    assert "is computed by PyTorch: openvino needs openvino: install segdistill[openvino]; onnx needs" in text
    assert not (run / "runtimes").exists()
    with pytest.raises(ValueError, match="onnx needs onnxruntime: install"):
        fast_file(str(run), "onnx", "fp32", CPU)


def test_what_has_no_faster_runtime(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert fast_file(str(run), "pytorch", "fp32", CPU) is None
    assert fast_file("student.onnx", "auto", "fp32", CPU) is None
    assert capsys.readouterr().err == ""
    assert fast_file("dsunet", "auto", "fp32", CPU) is None
    assert "runtime is for run folders on this disk, and dsunet is none" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(ValueError, match="computes on the CPU, and PyTorch on cuda: add device cpu"):
        fast_file(str(run), "openvino", "fp32", torch.device("cuda"))
    with pytest.raises(ValueError, match="runtime onnx computes in fp32 only"):
        fast_file(str(run), "onnx", "bf16", CPU)


def test_a_file_that_computes_something_else_is_not_used(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(shutil.copytree(copied_run, tmp_path / "run"))
    folder.write_temperature(1.5)
    record = {"parity": {"equal_pixels": 0.99, "images": 4}}
    monkeypatch.setattr(export, "export", lambda *given, **named: nullcontext(SimpleNamespace(record=record)))
    with pytest.raises(ValueError, match=r"openvino has PyTorch's class on 99\.0000% of the pixels, below"):
        fast_file(str(folder), "openvino", "fp32", CPU)
    assert not any(path.is_file() for path in FORMATS["openvino"].files(folder.runtimes.file("openvino")))


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root and Windows write anywhere")
def test_a_folder_that_cannot_be_written_is_computed_by_pytorch(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    folder.chmod(0o500)
    assert fast_file(str(folder), "auto", "fp32", CPU) is None
    assert "Permission denied" in capsys.readouterr().err
