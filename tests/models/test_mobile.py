"""Files for phones: one square image, padded and cropped; here and in a process of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.models import isolated, mobile
from segdistill.models.exported import ExportedNetwork
from segdistill.models.trained import LoadOptions, load_network

pytestmark = pytest.mark.unit

MakeNcnn = Callable[..., Path]
CARD = {"labels": {"names": ["a", "b", "c"]}, "mean": [0.5] * 3, "std": [0.5] * 3, "side": 64, "version": "1"}


@pytest.fixture
def make_ncnn(tmp_path: Path) -> MakeNcnn:
    """Writes a network of one layer as ncnn has it, with its card: by default the absolute value."""
    pytest.importorskip("ncnn")

    def make(layer: str = "UnaryOp abs 1 1 in0 out0 0=0", **card: object) -> Path:
        path = tmp_path / "one.ncnn.param"
        path.write_text(f"7767517\n2 2\nInput in0 0 1 in0\n{layer}\n")
        path.with_suffix(".bin").touch()
        path.with_name(f"{path.name}.json").write_text(json.dumps(CARD | {"input": "tensor"} | card))
        return path

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_smaller_image_is_padded_and_its_output_cropped(make_ncnn: MakeNcnn, precision: str) -> None:
    network = ExportedNetwork(make_ncnn("Pooling mean 1 1 in0 out0 0=1 1=64 2=64"), precision=precision)
    assert network.largest == (1, 64)
    image = torch.ones(1, 3, 16, 32)
    # The mean over the square: an eighth of its pixels are 1, the others the mean, 0.
    assert network(image).flatten().tolist() == pytest.approx([1 / 8] * 3, abs=1e-3)
    plain = ExportedNetwork(make_ncnn())
    torch.testing.assert_close(plain(-2 * image), 2 * image)


def test_images_are_planes_from_0_to_255(make_ncnn: MakeNcnn) -> None:
    network = ExportedNetwork(make_ncnn(input="image"))
    values = torch.tensor([-1.0, 0.2, 1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    assert network(values)[0, :, 0, 0].tolist() == [0, 153, 255]


def test_a_larger_image_is_refused(make_ncnn: MakeNcnn) -> None:
    network = ExportedNetwork(make_ncnn())
    with pytest.raises(ValueError, match=r"one\.ncnn\.param takes images of 64x64 pixels, not 65x64"):
        network(torch.zeros(1, 3, 65, 64))


def test_a_file_without_its_json_names_no_classes(make_ncnn: MakeNcnn) -> None:
    path = make_ncnn()
    path.with_name(f"{path.name}.json").unlink()
    assert ExportedNetwork(path).card.labels is None


def test_a_process_computes_the_same(make_ncnn: MakeNcnn, no_runtimes: None) -> None:
    path, image = make_ncnn(), torch.randn(1, 3, 64, 64)
    network = load_network(str(path), LoadOptions(isolated=True))
    module = network.module
    assert isinstance(module, ExportedNetwork)
    run = module.runs[1]
    assert isinstance(run, isolated.IsolatedRun)
    for scale in (1, 2):
        torch.testing.assert_close(module(scale * image), scale * image.abs())
    module.close()
    assert run.process.returncode == 0


def test_a_process_that_fails_says_why(make_ncnn: MakeNcnn, no_runtimes: None) -> None:
    path = make_ncnn("Unheard of 1 1 in0 out0")
    network = ExportedNetwork(path, isolated=True)
    with pytest.raises(ValueError, match=r"cannot take .*: ValueError: ncnn cannot load it"):
        network(torch.zeros(1, 3, 64, 64))
    network.close()


def test_a_program_that_fails_says_why(tmp_path: Path, no_runtimes: None) -> None:
    program = tmp_path / "converter.py"
    program.write_text("import sys\nassert sys.argv[1:] == ['1']\nraise ValueError('no rule for mod')\n")
    with pytest.raises(ValueError, match=r"^ValueError: no rule for mod$"):
        isolated.run_isolated(("converter==1",), program, 1)


def test_without_uv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("UV", raising=False)
    with pytest.raises(ValueError, match=r"converter==1 is run in an environment of its own.*pip install uv"):
        isolated.command(("converter==1",), Path("x.py"))


def test_arrays_go_through_pipes() -> None:
    code = "import sys; from segdistill.models.mobile import send, receive; "
    code += "send(sys.stdout.buffer, receive(sys.stdin.buffer) + 1)"
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        mobile.send(child.stdin, np.arange(6, dtype=np.uint8).reshape(2, 3))
        answer = mobile.receive(child.stdout)
        assert answer is not None
        assert answer.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert mobile.receive(child.stdout) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs there")
def test_core_ml_is_not_run_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "x.mlpackage"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"x\.mlpackage is not a Core ML network: .*macOS only"):
        ExportedNetwork(folder)
