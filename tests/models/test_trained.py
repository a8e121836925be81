"""Trained networks: their classes, their normalisation and their weights, from every form of spec."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segdistill.data.labels import VOC, LabelSet
from segdistill.models.card import CARD, WEIGHTS, ModelCard, read_card
from segdistill.models.state_files import load_state, read_state
from segdistill.models.student import DSUNet
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network
from segdistill.models.zoo import TorchvisionNetwork, build_model

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))
REAL = Path(__file__).parents[2].parent / "shared" / "weights"
TORCHVISION = "lraspp_mobilenet_v3_large"


class Echo(nn.Module):
    """Returns the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def trained(width: float = 0.1) -> TrainedNetwork:
    torch.manual_seed(0)
    return TrainedNetwork(DSUNet(3, width=width), LABELS, "dsunet")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder's model: dsunet of width 0.1 with the weights of `trained`."""
    card = ModelCard(
        spec="dsunet", width=0.1, labels=LABELS, size=64, evaluate_size=96, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    (tmp_path / CARD).write_text(card.to_json())
    save_file(trained().module.state_dict(), tmp_path / WEIGHTS)
    return tmp_path


def test_the_network_gets_its_own_normalisation() -> None:
    network = TrainedNetwork(Echo(), LABELS, "echo", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    # White is 1 in RGB: (1 - 0.5) / 0.25, / 0.5, / 1; black is 0.
    white, black = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([-2.0, -1.0, -0.5])
    torch.testing.assert_close(network((1 - mean) / std), white.view(1, 3, 1, 1))
    torch.testing.assert_close(network((0 - mean) / std), black.view(1, 3, 1, 1))


def test_imagenets_normalisation_leaves_the_image_alone() -> None:
    image = torch.randn(1, 3, 4, 4)
    assert torch.equal(TrainedNetwork(Echo(), LABELS, "echo")(image), image)


def test_coarse_logits_are_enlarged_to_the_image() -> None:
    network = TrainedNetwork(nn.AvgPool2d(2), LABELS, "coarse")
    # Pairs average to 0 and 4; bilinear without aligned corners puts 1/4 and 3/4 of the way between them.
    image = torch.tensor([-1.0, 1.0, 3.0, 5.0]).expand(1, 3, 4, 4)
    torch.testing.assert_close(network(image), torch.tensor([0.0, 1.0, 3.0, 4.0]).expand(1, 3, 4, 4))


def test_fingerprint_is_stable_and_tells_weights_apart() -> None:
    first, second = trained(), trained()
    assert first.fingerprint() == second.to(memory_format=torch.channels_last).fingerprint()
    with torch.no_grad():
        next(second.parameters()).add_(1e-6)
    assert first.fingerprint() != second.fingerprint()


def test_fingerprint_tells_specs_and_normalisations_apart() -> None:
    module = DSUNet(3, width=0.1)
    networks = [
        TrainedNetwork(module, LABELS, "dsunet"),
        TrainedNetwork(module, LABELS, "mine.py:build"),
        TrainedNetwork(module, LABELS, "dsunet", mean=(0.5, 0.5, 0.5)),
    ]
    assert len({network.fingerprint() for network in networks}) == 3


def test_fingerprint_of_an_onnx_file_follows_its_content(make_onnx: Any) -> None:
    first, second = (load_network(str(make_onnx(nn.Conv2d(3, 21, 1)))).fingerprint() for _ in range(2))
    assert first != second


def test_a_run_folder_brings_weights_classes_and_normalisation(run: Path) -> None:
    network, image = load_network(str(run)), torch.randn(1, 3, 9, 9)
    assert (network.labels, network.mean, network.std) == (LABELS, (0.5,) * 3, (0.25,) * 3)
    assert (network.size, network.spec, network.training) == (96, str(run), False)
    expected = TrainedNetwork(trained().module, LABELS, "", mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.no_grad():
        assert torch.equal(network(image), expected(image))


def test_a_run_folder_takes_other_weights(run: Path, tmp_path: Path) -> None:
    other = DSUNet(3, width=0.1).state_dict()
    torch.save(other, tmp_path / "other.pth")
    loaded = load_network(str(run), LoadOptions(weights=tmp_path / "other.pth")).module.state_dict()
    assert all(torch.equal(other[name], tensor) for name, tensor in loaded.items())


def test_a_temperature_comes_with_the_runs_own_weights_and_changes_no_logit(
    run: Path, tmp_path: Path
) -> None:
    image = torch.randn(1, 3, 9, 9)
    plain = load_network(str(run))
    (run / CARD).write_text(replace(read_card(run), temperature=2.5).to_json())
    calibrated = load_network(str(run))
    assert (plain.temperature, calibrated.temperature) == (1.0, 2.5)
    with torch.no_grad():
        assert torch.equal(plain(image), calibrated(image))
    assert plain.fingerprint() == calibrated.fingerprint()  # as a teacher it teaches the same
    save_file(trained().module.state_dict(), tmp_path / "other.safetensors")
    assert load_network(str(run), LoadOptions(weights=tmp_path / "other.safetensors")).temperature == 1.0


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run folder with a trained model"):
        load_network(str(tmp_path))


def test_a_run_folder_without_weights_is_refused(run: Path) -> None:
    (run / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        load_network(str(run))


def test_an_unknown_name_is_an_error_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no network 'dsunett'; did you mean dsunet\?"):
        load_network("dsunett")


def test_a_function_may_name_its_classes_and_normalisation(file: Path) -> None:
    network = load_network(f"{file}:teacher")
    assert network.labels.names == ("ground", "road")
    assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [("16", None, 16), ("16", 8, 8), ("None", 8, 8), ("'any'", None, None), ("0", None, None)],
)
def test_a_function_may_name_its_output_stride(
    tmp_path: Path, declared: str, given: int | None, expected: int | None
) -> None:
    code = "from torch import nn\ndef build():\n    net = nn.Conv2d(3, 21, 1)\n"
    (tmp_path / "deep.py").write_text(f"{code}    net.output_stride = {declared}\n    return net\n")
    assert (
        load_network(f"{tmp_path}/deep.py:build", LoadOptions(output_stride=given)).output_stride == expected
    )


def test_an_image_is_resized_to_a_multiple_of_the_output_stride_and_one() -> None:
    sizes = []

    class Sized(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(image.shape[2:]))
            return image

    network, image = TrainedNetwork(Sized(), LABELS, "sized"), torch.randn(2, 3, 30, 50)
    assert torch.equal(network(image), image)
    network.output_stride = 16
    assert network(image).shape == image.shape
    assert sizes == [(30, 50), (33, 49)]


@pytest.mark.parametrize(("text", "expected"), [("16", 16), ("null", None)])
def test_a_file_may_name_its_output_stride(make_onnx: Any, text: str, expected: int | None) -> None:
    network = load_network(str(make_onnx(nn.Conv2d(3, 21, 1), output_stride=text)))
    assert network.output_stride == expected
    for wrong in ("0", '"16"', "1.5"):
        with pytest.raises(ValueError, match=r"output_stride is .* but must be above 0, or null"):
            load_network(str(make_onnx(nn.Conv2d(3, 21, 1), output_stride=wrong)))


def test_a_function_may_name_a_whole_label_set(file: Path) -> None:
    assert load_network(f"{file}:with_label_set").labels.palette == ((1, 2, 3), (4, 5, 6))


def test_a_function_is_told_the_classes_and_takes_weights(file: Path, tmp_path: Path) -> None:
    state = nn.Conv2d(3, 3, 1).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    network = load_network(f"{file}:student", LoadOptions(labels=LABELS, weights=tmp_path / "mine.pth"))
    assert network.labels == LABELS
    assert torch.equal(network.module.weight, state["weight"])


def test_an_onnx_file_brings_classes_and_normalisation(make_onnx: Any) -> None:
    metadata = {
        "labels": '["ground", "road"]',
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.5, 0.5, 0.25]",
        "x": "y",
    }
    network = load_network(str(make_onnx(nn.Conv2d(3, 2, 1), **metadata)))
    assert network.labels.names == ("ground", "road")
    assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.25))


def test_an_onnx_file_brings_its_temperature(make_onnx: Any) -> None:
    assert load_network(str(make_onnx(nn.Conv2d(3, 21, 1)))).temperature == 1.0
    assert load_network(str(make_onnx(nn.Conv2d(3, 21, 1), temperature="1.5"))).temperature == 1.5


@pytest.mark.parametrize("text", ["0", "-1", "NaN", "Infinity", "null", '"1.5"', "[1]"])
def test_an_impossible_temperature_is_refused(make_onnx: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"metadata of .* cannot be read: temperature is "):
        load_network(str(make_onnx(nn.Conv2d(3, 21, 1), temperature=text)))


def test_21_nameless_logits_are_vocs(make_onnx: Any) -> None:
    assert load_network(str(make_onnx(nn.Conv2d(3, 21, 1)))).labels == VOC


def test_the_given_label_set_is_for_nameless_networks(make_onnx: Any, file: Path) -> None:
    assert load_network(str(make_onnx(nn.Conv2d(3, 3, 1))), LoadOptions(labels=LABELS)).labels == LABELS
    other = LabelSet(names=("water", "land"))
    assert load_network(f"{file}:teacher", LoadOptions(labels=other)).labels.names == ("ground", "road")


def test_nameless_logits_need_a_label_set(make_onnx: Any) -> None:
    with pytest.raises(ValueError, match=r"names no classes for its 3 logits; set teacher\.labels"):
        load_network(str(make_onnx(nn.Conv2d(3, 3, 1))))


def test_as_many_logits_as_classes_are_wanted(make_onnx: Any, file: Path) -> None:
    with pytest.raises(ValueError, match="gives 2 logits per pixel for 3 classes"):
        load_network(f"{file}:wrong_labels")
    with pytest.raises(ValueError, match="gives 2 logits per pixel for 3 classes"):
        load_network(str(make_onnx(nn.Conv2d(3, 2, 1))), LoadOptions(labels=LABELS))


def test_torchvision_teacher_without_a_network_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ValueError, match=rf"no route.*https://.*copy it into {tmp_path}/hub/checkpoints"):
        load_network(TORCHVISION)


def test_torchvision_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    own = build_model(TORCHVISION, 21).eval()
    torch.save(own.inner.state_dict(), tmp_path / "own.pth")
    network = load_network(TORCHVISION, LoadOptions(weights=tmp_path / "own.pth"))
    assert network.labels.names == VOC.names
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), own(image))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_torchvision_weights_may_have_an_auxiliary_classifier(tmp_path: Path, auxiliary: bool) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    own = TorchvisionNetwork(name, 21, auxiliary=auxiliary)
    torch.save(own.inner.state_dict(), tmp_path / "own.pth")
    network = load_network(name, LoadOptions(weights=tmp_path / "own.pth"))
    assert (network.module.inner.aux_classifier is not None) is auxiliary


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_network_of_the_zoo_takes_weights_of_a_file(tmp_path: Path, suffix: str) -> None:
    state, path = DSUNet(3).state_dict(), tmp_path / f"own.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    network = load_network("dsunet", LoadOptions(weights=path, labels=LABELS))
    assert network.labels == LABELS
    assert all(torch.equal(state[name], tensor) for name, tensor in network.module.state_dict().items())


def test_a_network_without_published_weights_asks_for_them() -> None:
    with pytest.raises(ValueError, match="dsunet has no published weights"):
        load_network("dsunet")


def test_weights_that_do_not_fit_say_what_is_wrong(tmp_path: Path) -> None:
    torch.save(DSUNet(3, width=0.1).state_dict(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"small\.pth do not fit the network: .*size mismatch"):
        load_network("dsunet", LoadOptions(weights=tmp_path / "small.pth", labels=LABELS))
    with pytest.raises(ValueError, match=r"small\.pth do not fit the network: .*Missing key"):
        load_network(TORCHVISION, LoadOptions(weights=tmp_path / "small.pth"))


def test_a_missing_weight_does_not_pass(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 3, 1, 1)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"Missing key\(s\) in state_dict: \"bias\""):
        load_state(nn.Conv2d(3, 2, 1), tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_absent_weights_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        read_state(tmp_path / name)


def test_weights_with_code_in_them_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": Path("a path is an object, and its unpickling runs code")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is not a state dict"):
        read_state(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [{"model": {"weight": torch.ones(1)}}, [torch.ones(1)], {"epoch": 3}])
def test_weights_are_tensors_alone(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"more\.pth is not a state dict of tensors alone"):
        read_state(tmp_path / "more.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 9, 60, -1])
def test_torn_weights_are_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    state, path = {"weight": torch.ones(4, 4)}, tmp_path / f"torn.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"torn\.{suffix} is not"):
        read_state(path)


def test_a_web_page_instead_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html><title>404</title>")
    with pytest.raises(ValueError, match=r"page\.pth is not a state dict: ."):
        read_state(tmp_path / "page.pth")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real teacher lies in ../shared/weights, which is not here")
def test_the_real_teacher_is_the_same_as_onnx_and_as_a_function() -> None:
    pytest.importorskip("onnxruntime")
    function = load_network(f"{REAL}/voc_teacher.py:build")
    onnx = load_network(f"{REAL}/deeplabv3_mobilenetv2_voc.onnx")
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(function(image), onnx(image), atol=1e-3, rtol=1e-3)
    assert function.labels.names == onnx.labels.names == VOC.names
