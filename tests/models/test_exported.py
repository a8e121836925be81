"""Exported files: the table of their formats, how they are read and run, and what is refused."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from segdistill.config import deploy
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS, format_of
from segdistill.models.zoo import output_classes

pytestmark = pytest.mark.unit


def test_the_formats_are_those_of_the_settings() -> None:
    assert tuple(FORMATS) == get_args(deploy.Format)
    assert [form.name for form in FORMATS.values()] == list(FORMATS)


def test_a_file_has_the_format_of_its_suffix() -> None:
    names = {"a.onnx": "onnx", "b/c.xml": "openvino", "d.pt2": "pt2", "e.pte": "executorch"}
    names |= {"f.tflite": "litert", "g.ncnn.param": "ncnn", "h.mlpackage": "coreml"}
    assert {name: format_of(name).name for name in names} == names
    assert format_of("onnx") is format_of("a.ONNX") is format_of("runs/1") is format_of("g.param") is None


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_missing_runtime_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("importlib.import_module", missing)
    form = FORMATS[name]
    package = rf"\[{form.extra}\]" if form.extra else " again"
    with pytest.raises(ValueError, match=rf"{name} needs {form.runtime}: install segdistill{package}$"):
        form.import_runtime()


def test_only_some_formats_run_in_another_precision(make_onnx: Any) -> None:
    path = make_onnx(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match=r"not in bf16; .*: openvino files in bf16, ncnn files in fp16$"):
        ExportedNetwork(path, precision="bf16")


def test_an_onnx_file_has_the_logits_of_the_network_it_was_made_from(make_onnx: Any) -> None:
    plain, image = nn.Conv2d(3, 4, 1), torch.randn(2, 3, 9, 5)
    network = ExportedNetwork(make_onnx(plain, author="me"))
    assert network.metadata == {"author": "me"}
    with torch.no_grad():
        torch.testing.assert_close(network(image), plain(image))
        torch.testing.assert_close(network(image.bfloat16()), plain(image.bfloat16().float()))


def test_an_onnx_file_of_a_fixed_size_refuses_others(make_onnx: Any) -> None:
    network = ExportedNetwork(make_onnx(nn.Conv2d(3, 2, 1), size=(1, 32, 32)))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(ValueError, match=r"network\.onnx cannot take 1x3x64x64 images.*free batch, height"):
        output_classes(network, "network.onnx")


def test_a_broken_onnx_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.onnx is not an ONNX network"):
        ExportedNetwork(tmp_path / "broken.onnx")


def test_a_missing_onnx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx does not exist"):
        ExportedNetwork(tmp_path / "absent.onnx")


def test_an_executorch_of_another_release_of_pytorch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ExecuTorch 1.5 loads its programs beside PyTorch 2.11, and cannot run them."""
    runtime = pytest.importorskip("executorch.runtime")
    message = "tensor does not have a device"

    class Mismatched:
        method_names = ("forward",)

        def load_program(self, _: Path) -> "Mismatched":
            return self

        def load_method(self, _: str) -> "Mismatched":
            return self

        def execute(self, _: list[torch.Tensor]) -> list[torch.Tensor]:
            raise RuntimeError(message)

    monkeypatch.setattr(runtime.Runtime, "get", Mismatched)
    (tmp_path / "student.pte").touch()
    network = ExportedNetwork(tmp_path / "student.pte")
    with pytest.raises(ValueError, match=r"for another release of PyTorch than .*: 1\.5 fits 2\.15"):
        network(torch.zeros(1, 3, 32, 32))
    message = "out of memory"
    with pytest.raises(ValueError, match="images: out of memory"):
        network(torch.zeros(1, 3, 32, 32))
