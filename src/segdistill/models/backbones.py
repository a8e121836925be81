"""Encoders without a head as teachers: they give a feature map of an image, and no logits.

N: images, T: tokens, C: channels, H, W: rows and columns of an image, h, w: of the feature map.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_bilinear, scaled_size
from segdistill.files import first_line
from segdistill.models.hub import import_transformers, open_pretrained
from segdistill.models.huggingface import open_form
from segdistill.models.pretrained import download, load_encoder
from segdistill.models.renormalize import Renormalize
from segdistill.models.spec import parse_architecture
from segdistill.models.state_files import read_state, read_statistics
from segdistill.models.timm_encoder import import_timm
from segdistill.models.trained import update_with_weights

STRIDE_PROBE_SIDE = 224
"""Pixels of the square that the stride of a feature map is found on: all usual patches and strides divide it,
14 and 16 among them."""
RESIZABLE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""What makes timm's networks take images of any size, as far as they know these options."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """An encoder with its weights.

    Attributes:
        module: N x 3 x H x W images, normalised with `mean` and `std`, -> N x C x h x w; H and W are
            multiples of its stride.
        mean, std: of the RGB input in 0 to 1.
    """

    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class FeatureTeacher(nn.Module):
    """A frozen encoder: always in eval mode, without gradients, so two passes over a batch are identical.

    Args:
        backbone: the encoder.
        spec: where it came from.
        layer: whose output its features are; None for the deepest.
        scale: factor by which the student's crop is upsampled before the encoder gets it.

    Attributes:
        channels: C.
        stride: pixels of its input per position of the feature map: the patch of a ViT.

    Raises:
        ValueError: it gives something else than a feature map.
    """

    def __init__(
        self, backbone: Backbone, spec: str, *, layer: str | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.module = backbone.module.requires_grad_(False)
        self.renormalize = Renormalize(backbone.mean, backbone.std)
        self.spec, self.layer, self.scale = spec, layer, scale
        self.eval()
        with torch.no_grad():
            features = self.module(torch.zeros(1, 3, STRIDE_PROBE_SIDE, STRIDE_PROBE_SIDE))
        if not isinstance(features, Tensor) or features.ndim != 4:
            kind = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"it gives {kind} for an image, not a feature map N x C x h x w")
        self.channels, self.stride = features.shape[1], round(STRIDE_PROBE_SIDE / features.shape[2])

    def train(self, mode: bool = True) -> Self:
        """Does nothing but keep eval mode: a teacher never trains."""
        del mode
        return super().train(False)

    def input_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """H, W of the encoder's input for an image of this size: scaled, then up to multiples of the stride.

        Resized and not padded, so that the feature map covers the image exactly.
        """
        height, width = (-(-side // self.stride) * self.stride for side in scaled_size(size, self.scale))
        return height, width

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, ImageNet-normalised -> N x C x h x w."""
        return self.unresized(resize_bilinear(image, self.input_size(image.shape[2:])))

    @torch.no_grad()
    def unresized(self, image: Tensor) -> Tensor:
        """As `forward`, of an image whose sides are multiples of the stride."""
        features: Tensor = self.module(self.renormalize(image))
        return features

    def fingerprint(self) -> str:
        """Equal for teachers of equal features."""
        facts = [self.spec, self.layer, self.renormalize.mean, self.renormalize.std]
        digest = hashlib.sha256(json.dumps(facts).encode())
        update_with_weights(digest, self.module)
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a model card records of its student's teacher."""
        return {
            "spec": self.spec,
            "fingerprint": self.fingerprint(),
            "features_only": True,
            "layer": self.layer,
            "scale": self.scale,
        }


def load_feature_teacher(
    spec: str, *, weights: str | Path | None = None, layer: str | None = None, scale: float = 1.0
) -> FeatureTeacher:
    """An encoder without a head, with its published weights or those of a file.

    Args:
        spec: `timm:ENCODER`, or `hf:FOLDER` or `hf:ORG/NAME[@REVISION]` of a network of transformers.
        weights: for timm, a .safetensors or .pth state dict instead of the published one.
        layer: whose output the features are: of timm a module's name (`blocks.8`, `stages.2`), of
            transformers `hidden_states.8`; None for the deepest.
        scale: see `FeatureTeacher`.

    Raises:
        ValueError: the spec is of another kind, its package is not installed, there is no such network or
            layer, or the weights do not fit or could not be downloaded.
        FileNotFoundError: the file of the weights does not exist.
    """
    prefix, _, name = spec.partition(":")
    if prefix not in ENCODER_OPENERS:
        forms = " or ".join(f"{known}:NAME" for known in ENCODER_OPENERS)
        raise ValueError(
            f"teacher {spec!r} has a head: teacher.features_only is for an encoder without one, {forms}"
        )
    backbone = ENCODER_OPENERS[prefix](name, weights, layer)
    try:
        return FeatureTeacher(backbone, spec, layer=layer, scale=scale)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # a network of texts, say
        raise ValueError(f"{spec} is no encoder of images: {first_line(error)}") from None


class TimmFeatures(nn.Module):
    """The feature map of one layer of a timm network; class and register tokens are dropped.

    Args:
        model: with `forward_intermediates`.
        index: of the layer, in its `feature_info`. What comes after it is removed.
    """

    def __init__(self, model: Any, index: int) -> None:
        super().__init__()
        model.prune_intermediate_layers([index], prune_norm=False)
        self.model, self.index = model, index

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W -> N x C x h x w; a ViT's tokens after its last norm, as DINOv2 uses them."""
        model: Any = self.model
        [features] = model.forward_intermediates(
            image, indices=[self.index], norm=True, stop_early=True, intermediates_only=True
        )
        return features


def _open_timm(name: str, weights: str | Path | None, layer: str | None) -> Backbone:
    """An encoder of timm."""
    model = _create_timm(import_timm(name), name)
    layers = [str(stage["module"]) for stage in getattr(model, "feature_info", [])]
    if not layers or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"timm:{name} gives no feature maps of its layers (forward_intermediates)")
    index = _find_layer(layer, layers)
    spec = f"timm:{name}"
    if weights is None:
        load_encoder(model, download(parse_architecture(spec), "teacher.weights"), spec)
        mean, std = None, None
    else:
        load_encoder(model, read_state(Path(weights)), str(weights))
        mean, std = read_statistics(Path(weights))
    published = model.pretrained_cfg
    return Backbone(
        module=TimmFeatures(model, index),
        mean=mean or tuple(published["mean"]),
        std=std or tuple(published["std"]),
    )


def _create_timm(timm: Any, name: str) -> Any:
    """A timm network without classifier, for images of any size where it can take them."""
    for options in RESIZABLE:
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options)
        except TypeError:  # it does not know the option
            continue
    raise ValueError(f"timm:{name} cannot be made without a classifier")


def _find_layer(layer: str | None, layers: list[str]) -> int:
    """The index of a layer, the last one where none is named."""
    if layer is None:
        return len(layers) - 1
    if layer not in layers:
        raise ValueError(f"objective.teacher_layer is {layer!r}, but must be one of {', '.join(layers)}")
    return layers.index(layer)


class TransformersFeatures(nn.Module):
    """The feature map of one layer of a transformers network; class and register tokens are dropped.

    Args:
        model: of images.
        index: of its `hidden_states`; None for its last output, after its last norm.
    """

    def __init__(self, model: Any, index: int | None) -> None:
        super().__init__()
        self.model, self.index = model, index
        takes = inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W -> N x C x h x w."""
        model: Any = self.model
        output = model(pixel_values=image, output_hidden_states=True, return_dict=True, **self.options)
        maps = getattr(output, "reshaped_hidden_states", None)  # of windows (Swin), already N x C x h x w
        if maps is not None:
            return maps[-1 if self.index is None else self.index]
        values = output.hidden_states[-1 if self.index is None else self.index]
        if values.ndim == 4:
            return values
        values = output.last_hidden_state if self.index is None else values
        patch = model.config.patch_size
        patch = patch if isinstance(patch, int) else patch[0]
        return tokens_to_map(values, image.shape[2] // patch, image.shape[3] // patch)


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """N x T x C -> N x C x h x w: the last h * w tokens, row by row; class and register tokens come first.

    Raises:
        ValueError: there are fewer tokens.
    """
    extra = tokens.shape[1] - height * width
    if extra < 0:
        raise ValueError(f"{tokens.shape[1]} tokens are no feature map of {height} x {width} patches")
    return tokens[:, extra:].transpose(1, 2).reshape(len(tokens), -1, height, width)


def _open_transformers(name: str, weights: str | Path | None, layer: str | None) -> Backbone:
    """An encoder of transformers, from a folder, the cache of the hub, or the hub."""
    if weights is not None:
        raise ValueError(f"teacher.weights is {weights}, but hf:{name} brings its own: leave it out")
    load = import_transformers().AutoModel.from_pretrained
    model, info = open_pretrained(load, name, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise ValueError(f"hf:{name} has no weights for {len(missing)} tensors, the first is {missing[0]}")
    depths = getattr(model.config, "depths", None)  # of a network in stages
    count = model.config.num_hidden_layers if depths is None else len(depths)
    layers = [f"hidden_states.{index}" for index in range(count + 1)]
    index = None if layer is None else _find_layer(layer, layers)
    form = open_form(name, model.config)
    return Backbone(module=TransformersFeatures(model, index), mean=form.mean, std=form.std)


ENCODER_OPENERS: dict[str, Callable[[str, str | Path | None, str | None], Backbone]] = {
    "timm": _open_timm,
    "hf": _open_transformers,
}
"""What opens an encoder, by the prefix of its spec: from name, file of weights, and layer."""
