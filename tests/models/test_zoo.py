"""Networks of the zoo: each form of spec gives one, each mistake an error that helps."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill.config.architecture import Architecture
from segdistill.models.spec import BUILTIN, KINDS, TORCHVISION, parse_spec
from segdistill.models.student import DSUNet
from segdistill.models.zoo import (
    BUILDERS,
    MainOutput,
    PaddedNetwork,
    TorchvisionNetwork,
    build_model,
    input_statistics,
    load_function,
    output_classes,
    probe,
)

pytestmark = pytest.mark.unit


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
@pytest.mark.parametrize(
    ("encoder", "mean"),
    [
        ("tu-tf_efficientnet_lite0", (0.5, 0.5, 0.5)),
        ("timm-tf_efficientnet_lite0", (0.5, 0.5, 0.5)),
        ("tu-resnet18", (0.485, 0.456, 0.406)),
        ("timm-efficientnet-b0", None),
        ("resnet18", None),
    ],
)
def test_smp_networks_declare_the_statistics_of_timms_weights(
    encoder: str, mean: tuple[float, ...] | None
) -> None:
    assert input_statistics(build_model(f"smp:Unet/{encoder}", 3))[0] == mean


@pytest.mark.parametrize("spec", ["dsunet", "lraspp_mobilenet_v3_large", "smp:Unet/resnet18"])
def test_built_in_networks_give_logits_of_any_size(spec: str) -> None:
    network = build_model(spec, 5).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 45, 67)).shape == (1, 5, 45, 67)


def test_every_torchvision_name_is_known_to_torchvision() -> None:
    from torchvision.models import list_models, segmentation

    assert sorted(TORCHVISION) == sorted(list_models(module=segmentation))


def test_of_a_torchvision_networks_outputs_the_main_logits_are_taken() -> None:
    network = TorchvisionNetwork("deeplabv3_mobilenet_v3_large", 4, auxiliary=True).eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(network(image), network.inner(image)["out"])
    assert network.inner.aux_classifier is not None


def test_width_reaches_the_student() -> None:
    network = build_model(Architecture(width=0.5), 4)
    assert isinstance(network, DSUNet)
    assert network.head.in_channels == 32


def test_padding_is_right_and_below_and_is_cut_back() -> None:
    class Echo(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.input = image
            return image

    network, image = PaddedNetwork(Echo()), torch.randn(1, 3, 33, 64)
    assert torch.equal(network(image), image)
    padded = network.inner.input
    assert padded.shape == (1, 3, 64, 64)
    assert torch.equal(padded[:, :, :33], image)
    assert not padded[:, :, 33:].any()


def test_a_function_of_a_file_is_told_the_classes(file: Path) -> None:
    assert output_classes(build_model(f"{file}:student", 7), "mine") == 7


def test_a_function_without_that_argument_is_called_bare(file: Path) -> None:
    assert output_classes(build_model(f"{file}:teacher", 7), "mine") == 2


def test_a_function_of_a_package() -> None:
    assert output_classes(build_model("segdistill.models.student:DSUNet", 4), "") == 4


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    functions = []
    for number in (1, 2):
        path = tmp_path / str(number) / "mine.py"
        path.parent.mkdir()
        path.write_text(f"NUMBER = {number}\ndef build():\n    return NUMBER\n")
        functions.append(load_function(parse_spec(f"{path}:build")))
    assert [function() for function in functions] == [1, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dsunett", r"no network 'dsunett'; did you mean dsunet\?.*fcn_resnet50.*\.onnx"),
        ("fcn_resnet5", r"did you mean fcn_resnet50\?"),
        ("smp:Unnet/resnet18", r"no network 'smp:Unnet/resnet18'"),
        ("smp:Unet/resnet1", r"no network 'smp:Unet/resnet1'"),
        ("FILE:absent", "has no function 'absent'"),
        ("FILE:nothing", "returned a int, not an nn.Module"),
        ("nopackage.models:build", "No module named 'nopackage'"),
    ],
)
def test_an_unknown_network_is_an_error_that_helps(file: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(spec.replace("FILE", str(file)), 3)


def test_a_name_like_no_other_gets_the_choices_and_no_guess() -> None:
    with pytest.raises(ValueError, match="there is no network 'xyzzy'") as caught:
        build_model("xyzzy", 3)
    assert "did you mean" not in str(caught.value)
    assert all(
        name in str(caught.value)
        for name in (*BUILTIN, *TORCHVISION, "smp:", "file.py:function", "run folder")
    )


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.py does not exist"):
        build_model("absent.py:build", 3)


def test_width_belongs_to_dsunet() -> None:
    with pytest.raises(ValueError, match=r"width is 0\.5, but only dsunet takes one"):
        build_model(Architecture(spec="fcn_resnet50", width=0.5), 3)


def test_every_architecture_has_a_builder() -> None:
    architectures = {name for name, kind in KINDS.items() if not kind.trained}
    assert {"builtin", *BUILDERS} == architectures


@pytest.mark.parametrize("key", ["out", "logits"])
def test_of_a_dictionary_of_outputs_the_logits_are_taken(file: Path, key: str) -> None:
    network, image = build_model(f"{file}:with_{key}", 2), torch.randn(1, 3, 8, 8)
    assert isinstance(network, MainOutput)
    assert torch.equal(network(image), network.inner(image)[key])
    assert output_classes(network, "mine") == 3


@pytest.mark.parametrize(("function", "output"), [("flat", "(1, 2)"), ("Named", "dict")])
def test_what_is_no_segmentation_network_is_refused(file: Path, function: str, output: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"into {output}, not into 1xKxHxW logits")):
        output_classes(build_model(f"{file}:{function}", 2), function)


@pytest.mark.parametrize("mode", [True, False])
def test_asking_for_the_classes_restores_the_modes(mode: bool) -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert not self.training
            raise RuntimeError("broken")

    network, broken = DSUNet(4, width=0.1).train(mode), Broken().train(mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert output_classes(network, "dsunet") == 4
    with pytest.raises(RuntimeError, match="broken"):
        output_classes(broken, "broken")
    assert network.training is broken.training is mode
    network.bottleneck.eval()
    probe(network)
    assert network.training is mode
    assert not network.bottleneck.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
