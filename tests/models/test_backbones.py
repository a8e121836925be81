"""Encoders without a head: which features they give, on which grid, of which weights; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.models.backbones import load_feature_teacher, tokens_to_map

pytestmark = pytest.mark.unit
transformers = pytest.importorskip("transformers")

VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
Save = Callable[..., str]


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a network of transformers with random weights; returns its spec."""

    def write(model: nn.Module, **processor: Any) -> str:
        torch.manual_seed(0)
        for parameter in model.parameters():  # what begins as zeros would hide what it is added to
            nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path / "encoder")
        settings = {"image_processor_type": "ViTImageProcessor", "image_mean": IMAGENET_MEAN} | {
            "image_std": IMAGENET_STD, **processor
        }  # fmt: skip
        (tmp_path / "encoder" / "preprocessor_config.json").write_text(json.dumps(settings))
        return f"hf:{tmp_path / 'encoder'}"

    return write


def random_timm(name: str, folder: Path) -> tuple[Any, Path]:
    """A timm network with random weights, and the file of these."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    save_file(model.state_dict(), folder / "weights.safetensors")
    return model, folder / "weights.safetensors"


def normalised_for(teacher: Any, image: Tensor) -> Tensor:
    """ImageNet-normalised pixels, normalised with the teacher's statistics instead."""
    rgb = image * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (teacher.renormalize.mean, teacher.renormalize.std))
    return (rgb - mean) / std


def test_a_vits_tokens_are_a_map_without_its_class_and_register_tokens(tmp_path: Path, image: Tensor) -> None:
    model, weights = random_timm("test_vit3", tmp_path)
    teacher = load_feature_teacher("timm:test_vit3", weights=weights)
    assert teacher.renormalize.mean == model.pretrained_cfg["mean"] != IMAGENET_MEAN
    assert teacher.stride == 16
    square = image[..., :64].repeat(1, 1, 3, 3)[..., :160, :160]  # the size that its positions are for
    tokens = model.forward_features(normalised_for(teacher, square))
    extra = model.num_prefix_tokens
    expected = tokens[:, extra:].transpose(1, 2).reshape(2, -1, 10, 10)
    torch.testing.assert_close(teacher(square), expected, atol=1e-4, rtol=1e-4)
    assert teacher(image).shape == (2, expected.shape[1], 4, 6)


@pytest.mark.parametrize(("layer", "stage"), [(None, 3), ("stages.1", 1)])
def test_a_convolutional_encoder_gives_the_map_of_a_stage(
    tmp_path: Path, image: Tensor, layer: str | None, stage: int
) -> None:
    model, weights = random_timm("test_convnext", tmp_path)
    teacher = load_feature_teacher("timm:test_convnext", weights=weights, layer=layer)
    x = model.stem(normalised_for(teacher, image))
    for block in model.stages[: stage + 1]:
        x = block(x)
    torch.testing.assert_close(teacher(image), x, atol=1e-4, rtol=1e-4)
    assert teacher.stride == 4 * 2**stage


@pytest.mark.parametrize("size", [(50, 70), (64, 65), (15, 200)])
def test_an_image_is_resized_up_to_whole_patches(tmp_path: Path, size: tuple[int, int]) -> None:
    teacher = load_feature_teacher("timm:test_vit3", weights=random_timm("test_vit3", tmp_path)[1])
    rows, columns = (-(-side // 16) for side in size)
    image = torch.randn(1, 3, *size)
    features = teacher(image)
    assert features.shape[2:] == (rows, columns)
    resized = interpolate(image, size=(16 * rows, 16 * columns), mode="bilinear", align_corners=False)
    assert torch.equal(features, teacher(resized))


def test_the_scale_upsamples_its_input(tmp_path: Path, image: Tensor) -> None:
    weights = random_timm("test_convnext", tmp_path)[1]
    teacher = load_feature_teacher("timm:test_convnext", weights=weights, scale=2.0)
    assert teacher(image).shape[2:] == (4, 6)


@pytest.mark.parametrize(("layer", "stage"), [(None, "stage3"), ("hidden_states.1", "stage1")])
def test_dinov2_gives_the_map_of_transformers_backbone(save: Save, layer: str | None, stage: str) -> None:
    config = transformers.Dinov2WithRegistersConfig(
        **VIT, image_size=56, patch_size=14, num_register_tokens=2
    )
    spec = save(
        transformers.Dinov2WithRegistersModel(config), image_mean=[0.5, 0.4, 0.3], image_std=[0.2] * 3
    )
    teacher = load_feature_teacher(spec, layer=layer)
    assert (teacher.stride, teacher.channels) == (14, 16)
    assert teacher.renormalize.mean == pytest.approx((0.5, 0.4, 0.3))
    own = transformers.Dinov2WithRegistersBackbone.from_pretrained(
        spec.removeprefix("hf:"), out_features=[stage], apply_layernorm=layer is None
    ).eval()
    image = torch.randn(2, 3, 42, 70)
    [expected] = own(normalised_for(teacher, image)).feature_maps
    torch.testing.assert_close(teacher(image), expected, atol=1e-4, rtol=1e-4)


ENCODERS = {
    "ViT": ("ViTModel", "ViTConfig", {**VIT, "image_size": 64, "patch_size": 16}, 16),
    "DINOv3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**VIT, "patch_size": 16, "num_register_tokens": 4}, 16),
    "ConvNeXt": ("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4}, 32),
    "Swin": ("SwinModel", "SwinConfig", SWIN, 8),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_map_follows_the_image(save: Save, name: str) -> None:
    """A change of the lower right patch changes the features there most: no token was shifted or mixed up."""
    model, config, options, stride = ENCODERS[name]
    teacher = load_feature_teacher(
        save(getattr(transformers, model)(getattr(transformers, config)(**options)))
    )
    assert (teacher.stride, teacher.channels) == (stride, 16)
    image = torch.randn(1, 3, 4 * stride, 5 * stride)
    changed = image.clone()
    changed[..., -stride:, -stride:] += 3
    change = (teacher(changed) - teacher(image)).norm(dim=1)[0]
    assert change.shape == (4, 5)
    assert int(change.argmax()) == 19


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255.0] * 3}, 0.5, 1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ],
)
def test_its_own_normalisation_counts(save: Save, settings: Any, mean: float, std: float) -> None:
    config = transformers.ViTConfig(**VIT, image_size=64, patch_size=16)
    teacher = load_feature_teacher(save(transformers.ViTModel(config), **settings))
    assert teacher.renormalize.mean == pytest.approx((mean,) * 3)
    assert teacher.renormalize.std == pytest.approx((std,) * 3)


def test_it_is_frozen(tmp_path: Path, image: Tensor) -> None:
    teacher = load_feature_teacher("timm:test_vit3", weights=random_timm("test_vit3", tmp_path)[1])
    assert not teacher.train().training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(teacher(image), teacher(image.requires_grad_()))
    assert not teacher(image).requires_grad


def test_a_fingerprint_tells_layers_and_weights_apart(tmp_path: Path) -> None:
    model, weights = random_timm("test_vit3", tmp_path)
    last, third = (
        load_feature_teacher("timm:test_vit3", weights=weights, layer=layer) for layer in (None, "blocks.2")
    )
    assert last.fingerprint() != third.fingerprint()
    again = load_feature_teacher("timm:test_vit3", weights=weights)
    assert again.fingerprint() == last.fingerprint()
    model.state_dict()["norm.bias"].add_(1)
    save_file(model.state_dict(), weights)
    assert load_feature_teacher("timm:test_vit3", weights=weights).fingerprint() != last.fingerprint()


def test_too_few_tokens_are_no_map() -> None:
    with pytest.raises(ValueError, match="5 tokens are no feature map of 2 x 3 patches"):
        tokens_to_map(torch.zeros(1, 5, 4), 2, 3)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("fcn_resnet50", {}, r"has a head: .* without one, timm:NAME or hf:NAME"),
        ("timm:test_vitt", {}, "timm has no network 'test_vitt'; did you mean timm:test_vit"),
        (
            "timm:test_vit3",
            {"layer": "blocks.99"},
            "teacher_layer is 'blocks.99', but must be one of blocks.0, ",
        ),
        ("timm:test_vit3", {"weights": "none.safetensors"}, "none.safetensors does not exist"),
        (
            "hf:nowhere/at all",
            {},
            "could not be downloaded .* `hf download nowhere/at all --local-dir FOLDER`",
        ),
        ("hf:x", {"weights": "file.pth"}, "teacher.weights is file.pth, but hf:x brings its own"),
    ],
)
def test_refused_with_what_to_do(spec: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_feature_teacher(spec, **settings)


def test_a_folder_of_something_else_is_refused(save: Save) -> None:
    config = transformers.BertConfig(**VIT, vocab_size=30)
    with pytest.raises(ValueError, match="is no encoder of images: "):
        load_feature_teacher(save(transformers.BertModel(config)))


def test_weights_that_are_missing_are_named(save: Save, tmp_path: Path) -> None:
    config = transformers.ViTConfig(**VIT, image_size=64, patch_size=16)
    spec = save(transformers.ViTModel(config))
    save_file({"unrelated": torch.zeros(1)}, tmp_path / "encoder" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for \d+ tensors, the first is embeddings\."):
        load_feature_teacher(spec)
