"""Files for phones, converted by the real converters: uv and a package index, or its cache, are needed.

Where only what comes after the conversion counts, ncnn's file is written by hand.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import api
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.pins import CONVERTER_PACKAGES
from segdistill.data.datasets import open_dataset
from segdistill.data.transforms import normalise
from segdistill.exporting import writers
from segdistill.exporting.export import runs_here
from segdistill.exporting.parity import draw_images
from segdistill.exporting.quantize import QUANTIZERS
from segdistill.models.export_card import ExportCard
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS
from segdistill.models.isolated import IsolatedRun, command
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration


@pytest.fixture
def require_converter(tmp_path: Path) -> Callable[[str], None]:
    """Skips a test where the environment of a format's converter cannot be made in two minutes."""

    def require(form: str) -> None:
        program = tmp_path / "nothing.py"
        program.touch()
        try:
            made = subprocess.run(
                command(CONVERTER_PACKAGES[form], program),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        except (ValueError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no environment for {form}: {error}")
        if made.returncode:
            pytest.skip(f"no environment for {form}: {made.stderr.strip().splitlines()[-1]}")

    return require


@pytest.mark.parametrize(("form", "quantize"), [("litert", None), ("litert", "int8"), ("ncnn", None)])
def test_a_file_for_phones_computes_what_its_run_does(
    run: Path,
    tmp_path: Path,
    require_converter: Callable[[str], None],
    form: str,
    quantize: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_converter(form)
    pytest.importorskip(FORMATS[form].runtime)
    monkeypatch.chdir(tmp_path)
    out = Path(f"student{FORMATS[form].suffix}")  # as most people type it; a converter may change the folder
    config = ExportConfig(
        format=form, quantize=quantize, side=64, out=str(out), max_loss=100, calibration_images=4
    )  # type: ignore[arg-type]  # fmt: skip
    record = api.export(run, config)
    assert record["largest"] == {"batch": 1, "side": 64}
    assert record["parity"]["images"] == 4
    assert record["parity"]["same_class"] >= (0.8 if quantize else 0.999)
    student, network = load_network(str(run)), load_network(str(out))
    image = normalise(draw_images(1, 64, 64, torch.Generator().manual_seed(3)))
    with torch.no_grad():
        difference = float((student(image) - network(image)).abs().max())
        assert network(image[:, :, :20, :30]).shape == (1, len(student.labels), 20, 30)
    assert 1e-4 < difference < 3 if quantize else difference < 1e-3


def test_a_core_ml_package_is_written_and_not_run(
    run: Path, tmp_path: Path, require_converter: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if runs_here(FORMATS["coreml"]):
        pytest.skip("it runs here")
    require_converter("coreml")
    out = tmp_path / "student.mlpackage"
    (out / "older").mkdir(parents=True)
    (out / "older" / "file").touch()  # what it replaces
    record = api.export(run, ExportConfig(format="coreml", side=64, out=str(out)))
    assert not (out / "older").exists()
    assert record["parity"]["same_class"] is None
    assert record["bytes"] == sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) > 50_000
    assert json.loads(out.with_name("student.mlpackage.json").read_text())["side"] == 64
    assert "On a Mac: segdistill verify" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Core ML runs on macOS only"):
        ExportedNetwork(out)


@pytest.fixture
def convolution(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The spec of a network of one 1 x 1 convolution, whose ncnn file needs no converter."""

    def write_ncnn(program: torch.export.ExportedProgram, path: Path, card: ExportCard) -> None:
        state = [value.detach().numpy() for value in program.state_dict.values()]
        weight, bias = sorted(state, key=np.ndim, reverse=True)
        layer = f"Convolution only 1 1 in0 out0 0={len(bias)} 1=1 5=1 6={weight.size}"
        path.write_text(f"7767517\n2 2\nInput in0 0 1 in0\n{layer}\n")
        path.with_suffix(".bin").write_bytes(bytes(4) + weight.tobytes() + bias.tobytes())
        writers._write_card(path, card)

    monkeypatch.setitem(writers.WRITERS, "ncnn", write_ncnn)
    code = tmp_path / "convolution.py"
    code.write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n"
        "    torch.manual_seed(0)\n    net = nn.Conv2d(3, 9, 1)\n"
        f"    net.labels = {list(open_dataset(str(shapes), 'val').labels.names)}\n    return net\n"
    )
    return f"{code}:build"


@pytest.mark.parametrize("calibrated", [False, True])
def test_int8_without_masks_is_checked_on_images_that_the_file_takes(
    convolution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated: bool
) -> None:
    pytest.importorskip("ncnn")
    given: list[torch.Tensor] = []

    def quantize(program: Any, path: Path, card: ExportCard, images: list[torch.Tensor]) -> None:
        given.extend(images)
        writers.WRITERS["ncnn"](program, path, card)

    row = replace(FORMATS["ncnn"], quantize=("int8",), calibrated=calibrated)
    monkeypatch.setitem(FORMATS, "ncnn", row)
    monkeypatch.setitem(QUANTIZERS, "ncnn", quantize)
    config = ExportConfig(
        format="ncnn", quantize="int8", input="tensor", side=64, out=str(tmp_path / "student.ncnn.param")
    )
    if calibrated:
        with pytest.raises(ValueError, match="name a folder of images to calibrate on"):
            api.export(convolution, config)
    else:
        assert "calibration_pixels" not in api.export(convolution, config)["parity"]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (100, 80), "red").save(tmp_path / "photos" / "large.png")
    parity = api.export(convolution, replace(config, calibration=str(tmp_path / "photos")))["parity"]
    assert parity["calibration_pixels"] == 1
    assert [tuple(image.shape) for image in given] == [(3, 51, 64)]


def test_a_file_below_the_size_of_its_network_gets_smaller_images(
    convolution: str, shapes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ncnn")
    out, data = tmp_path / "student.ncnn.param", EvaluationDataConfig(root=str(shapes), workers=0)
    api.export(convolution, ExportConfig(format="ncnn", input="tensor", side=64, out=str(out)))
    card = out.with_name(f"{out.name}.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"size": 96}))
    scores = api.evaluate(out, data=data, device="cpu", out=str(tmp_path / "scores.json"))
    assert scores["size"] == 64
    pair = api.compare([convolution, out], data=data, size=96, device="cpu", out=str(tmp_path / "pair.json"))
    assert [network["size"] for network in pair["networks"]] == [96, 64]
    photo = next(shapes.rglob("JPEGImages/*.*"))
    assert api.load(out, device="cpu")(photo).mask.shape == (48, 48)


def test_the_certificate_is_made_by_the_process_that_ran_the_file(
    convolution: str, shapes: Path, tmp_path: Path, no_runtimes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    started: list[IsolatedRun] = []
    start = IsolatedRun.__init__

    def remember(run: IsolatedRun, *given: Any) -> None:
        start(run, *given)
        started.append(run)

    monkeypatch.setattr(IsolatedRun, "__init__", remember)
    out = tmp_path / "student.ncnn.param"
    data = EvaluationDataConfig(root=str(shapes), workers=0)
    config = ExportConfig(format="ncnn", input="tensor", side=64, out=str(out), data=data)
    api.export(convolution, config)
    certificate = json.loads(out.with_name(f"{out.name}.certificate.json").read_text())
    assert certificate["networks"][1]["latency"]["median_ms"] > 0
    assert certificate["networks"][1]["runtime"].startswith("ncnn ")
    assert [run.process.returncode for run in started] == [0, 0]  # in fp32 and fp16
