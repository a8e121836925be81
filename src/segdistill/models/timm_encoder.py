"""Encoders of timm by name, made so that every export format takes them."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.values import did_you_mean
from segdistill.models.decoders import DECODERS, EncoderDecoder
from segdistill.models.grid import Anchor


def build_timm(encoder: str, num_classes: int, decoder: str, channels: int | None) -> EncoderDecoder:
    """An encoder of timm with a light decoder; random weights.

    Args:
        encoder: timm's name.
        num_classes: K.
        decoder: one of `DECODERS`.
        channels: of the decoder's inner maps; None for its default.

    Raises:
        ValueError: timm is not installed, has no such network, or it gives no maps.
    """
    form = DECODERS[decoder]
    network = create_encoder(encoder, form.encoder_stride)
    info: Any = network.feature_info
    strides, counts = info.reduction(), info.channels()
    fix_padding(network)
    maps = ChannelsFirst(network) if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC") else network
    head = form(counts, strides, num_classes, channels or form.default_channels)
    model = EncoderDecoder(maps, head, max(strides), find_anchor(network))
    config: Any = getattr(network, "pretrained_cfg", None) or network.default_cfg
    model.mean, model.std = tuple(config["mean"]), tuple(config["std"])
    return model


def create_encoder(name: str, stride: int) -> nn.Module:
    """An encoder that gives maps, with random weights; its last stages dilate where `stride` is below 32.

    Raises:
        ValueError: timm is not installed, has no such network, or it gives no maps.
    """
    timm = import_timm(name)
    options: dict[str, Any] = {"pretrained": False, "features_only": True}
    try:
        return timm.create_model(name, **options, output_stride=stride)
    except (TypeError, NotImplementedError, AssertionError):  # it cannot dilate
        pass
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"timm:{name} gives no feature maps for a decoder: {error}") from None


def import_timm(name: str) -> Any:
    """The package timm, which has the network `name`.

    Raises:
        ValueError: it is not installed, or has no such network.
    """
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ValueError(f"timm:{name} needs timm: install segdistill[zoo]") from None
    if not timm.is_model(name):
        hint = did_you_mean(f"timm:{name}", (f"timm:{model}" for model in timm.list_models()))
        raise ValueError(f"timm has no network {name!r}{hint}")
    return timm


class ChannelsFirst(nn.Module):
    """An encoder whose maps are N x h x w x C, made N x C x h x w."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> list[Tensor]:
        """N x 3 x H x W -> maps from fine to coarse."""
        maps: Sequence[Tensor] = self.inner(image)
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps]


class FixedPadding(nn.Conv2d):
    """A convolution with TensorFlow's padding ("SAME") for sides that its stride divides.

    timm's own works the padding out from the sizes of each image, which no exported graph does well.

    Args:
        same: timm's.
    """

    def __init__(self, same: nn.Conv2d) -> None:
        kernel, stride, dilation = same.kernel_size[0], same.stride[0], same.dilation[0]
        total = dilation * (kernel - 1) + 1 - stride
        super().__init__(
            same.in_channels,
            same.out_channels,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=same.groups,
            bias=same.bias is not None,
        )
        self.weight, self.bias = same.weight, same.bias
        self.before, self.after = total // 2, total - total // 2
        if self.before == self.after:
            self.padding = (self.before, self.before)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x C' x H/stride x W/stride."""
        if self.before != self.after:
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        return super().forward(x)


def fix_padding(encoder: nn.Module) -> None:
    """Put `FixedPadding` in place of all convolutions with TensorFlow's padding."""
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Conv2dSame":
                assert isinstance(child, nn.Conv2d)
                setattr(module, name, FixedPadding(child))


def find_anchor(encoder: nn.Module) -> Anchor:
    """Where the points of an encoder's maps lie, as its first strided convolution has it."""
    strided = (module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    first = next((module for module in strided if module.stride[0] > 1), None)
    if first is None:
        return "centre"  # it pools
    if first.kernel_size[0] <= first.stride[0]:
        return "centre"
    return "last" if isinstance(first, FixedPadding) and first.before < first.after else "first"
