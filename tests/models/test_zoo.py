"""Spec strings: each form gives a network, each mistake an error that helps."""

import re
from pathlib import Path

import pytest
import torch

from segdistill.data.labels import VOC
from segdistill.models.trained import load_network, read_state
from segdistill.models.zoo import TORCHVISION, build_model, output_classes

pytestmark = pytest.mark.unit
SHARED = Path(__file__).parents[2].parent / "shared"

NETWORK = """
import torch
from torch import nn

def student(num_classes):
    return nn.Conv2d(3, num_classes, 1)

def teacher():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 1)
    network.labels = ["ground", "road"]
    network.mean, network.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return network

def nothing():
    return 3

def flat():
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(NETWORK)
    return path


@pytest.mark.parametrize("spec", ["dsunet", "lraspp_mobilenet_v3_large", "smp:Unet/resnet18"])
def test_built_in_networks_give_logits_of_any_size(spec: str) -> None:
    network = build_model(spec, 5).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 45, 67)).shape == (1, 5, 45, 67)


def test_every_torchvision_name_is_known_to_torchvision() -> None:
    from torchvision.models import list_models, segmentation

    assert sorted(TORCHVISION) == sorted(list_models(module=segmentation))


def test_a_function_of_a_file_is_told_the_classes(file: Path) -> None:
    assert output_classes(build_model(f"{file}:student", 7), "mine") == 7


def test_a_function_of_a_package() -> None:
    assert output_classes(build_model("segdistill.models.student:DSUNet", 4), "") == 4


def test_a_function_may_name_its_classes_and_normalisation(file: Path) -> None:
    network = load_network(f"{file}:teacher")
    assert network.labels.names == ("ground", "road")
    assert network.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dsunett", r"no network 'dsunett'; did you mean dsunet\?.*fcn_resnet50.*\.onnx"),
        ("smp:Unnet/resnet18", r"no network 'smp:Unnet/resnet18'"),
        ("FILE:absent", "has no function 'absent'"),
        ("FILE:nothing", "returned a int, not an nn.Module"),
        ("nopackage.models:build", "No module named 'nopackage'"),
    ],
)
def test_an_unknown_network_is_an_error_that_helps(file: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(spec.replace("FILE", str(file)), 3)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.py does not exist"):
        build_model("absent.py:build", 3)


def test_what_is_no_segmentation_network_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("with (1, 2), not with 1xKxHxW logits")):
        output_classes(build_model(f"{file}:flat", 2), "flat")


def test_width_belongs_to_dsunet() -> None:
    with pytest.raises(ValueError, match="only dsunet can be made wider"):
        build_model("fcn_resnet50", 3, width=0.5)


def test_torchvision_teacher_without_a_network_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from urllib.error import URLError

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded.*https://.*--teacher\.weights FILE"):
        load_network("lraspp_mobilenet_v3_large")


def test_torchvision_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    own = build_model("lraspp_mobilenet_v3_large", 21)
    torch.save(own.inner.state_dict(), tmp_path / "own.pth")
    network = load_network("lraspp_mobilenet_v3_large", weights=tmp_path / "own.pth")
    assert network.labels.names == VOC.names
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), own.eval()(image))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(build_model("dsunet", 3, width=0.1).state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"small\.pth"):
        load_network("lraspp_mobilenet_v3_large", weights=tmp_path / "small.pth")


def test_weights_with_code_in_them_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": Path("a path is an object, and its unpickling runs code")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read_state(tmp_path / "evil.pth")


def test_an_onnx_file_is_a_teacher_with_its_classes(tmp_path: Path, file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    plain = load_network(f"{file}:teacher").module
    parts = {name: numpy_helper.from_array(p.detach().numpy(), name) for name, p in plain.named_parameters()}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        list(parts.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": '["ground", "road"]'})
    onnx.save(model, tmp_path / "network.onnx")
    network, image = load_network(str(tmp_path / "network.onnx")), torch.randn(2, 3, 9, 5)
    assert network.labels.names == ("ground", "road")
    with torch.no_grad():
        torch.testing.assert_close(network(image), plain(image))


def test_a_broken_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.onnx is not an ONNX network"):
        load_network(str(tmp_path / "broken.onnx"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real teacher lies in ../shared, which is not here")
def test_the_real_teacher_is_the_same_as_onnx_and_as_a_function() -> None:
    function = load_network(f"{SHARED}/weights/voc_teacher.py:build")
    onnx = load_network(f"{SHARED}/weights/deeplabv3_mobilenetv2_voc.onnx")
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(function(image), onnx(image), atol=1e-3, rtol=1e-3)
    assert function.labels.names == onnx.labels.names == VOC.names
