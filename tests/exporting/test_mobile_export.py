"""Files for phones, converted by the real converters: uv and a package index, or its cache, are needed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segdistill import api
from segdistill.config.deploy import ExportConfig
from segdistill.data.transforms import normalise
from segdistill.exporting import writers
from segdistill.exporting.export import runs_here
from segdistill.exporting.parity import draw_images
from segdistill.models.exported import FORMATS, ExportedNetwork
from segdistill.models.isolated import command
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration

CONVERTERS = {"litert": writers.LITERT, "ncnn": writers.PNNX, "coreml": writers.COREML}


@pytest.fixture
def require_converter(tmp_path: Path) -> Callable[[str], None]:
    """Skips a test where the environment of a format's converter cannot be made in two minutes."""

    def require(form: str) -> None:
        program = tmp_path / "nothing.py"
        program.touch()
        try:
            made = subprocess.run(
                command(CONVERTERS[form], program), capture_output=True, text=True, check=False, timeout=120
            )
        except (ValueError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no environment for {form}: {error}")
        if made.returncode:
            pytest.skip(f"no environment for {form}: {made.stderr.strip().splitlines()[-1]}")

    return require

    return require


@pytest.mark.parametrize(("form", "quantize"), [("litert", None), ("litert", "int8"), ("ncnn", None)])
def test_a_file_for_phones_computes_what_its_run_does(
    run: Path, tmp_path: Path, require_converter: Callable[[str], None], form: str, quantize: str | None
) -> None:
    require_converter(form)
    pytest.importorskip(FORMATS[form].runtime)
    out = tmp_path / f"student{FORMATS[form].suffix}"
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
