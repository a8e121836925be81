"""Light decoders for pretrained encoders: a few convolutions that int8 and XNNPACK run well.

N: images, C: channels, H, W: rows and columns of the image, h, w: of a coarser map, K: classes.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from segdistill.models.grid import Anchor, pad_to_multiple, upsample_grid


class Decoder(nn.Module):
    """Turns the maps of an encoder into logits on a coarser grid than the image's.

    Attributes:
        encoder_stride: pixels per point of the deepest map that it wants; an encoder may not be able to.
        default_channels: of its inner maps.
        stride: pixels per point of its logits.
    """

    encoder_stride: ClassVar[int] = 32
    default_channels: ClassVar[int]
    stride: int


class FPN(Decoder):
    """A narrow feature pyramid: maps of strides 32 to 4, merged from coarse to fine, then summed.

    The deepest map gets its own mean added, for context (Liu et al. 2015, ParseNet). Sources: Lin et al. 2017
    (feature pyramid), Kirillov et al. 2019 (Panoptic FPN), with depthwise-separable convolutions.

    Args:
        in_channels, strides: of the encoder's maps, from fine to coarse.
        num_classes: K.
        channels: of the inner maps.
    """

    default_channels = 96

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, channels: int
    ) -> None:
        super().__init__()
        first = next(index for index, stride in enumerate(strides) if stride >= 4)
        self.first, self.stride = first, strides[first]
        self.context = pooled(in_channels[-1], channels)
        self.lateral = nn.ModuleList(
            Conv2dNormActivation(count, channels, 1, activation_layer=None) for count in in_channels[first:]
        )
        self.smooth = nn.ModuleList(separable(channels, channels) for _ in in_channels[first:])
        self.head = nn.Sequential(separable(channels, channels), nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """N x C x h x w each, from fine to coarse -> N x K x h x w of the finest one used."""
        lateral = [convolve(x) for convolve, x in zip(self.lateral, maps[self.first :], strict=True)]
        x = F.relu(lateral[-1] + self.context(maps[-1]))
        x = merged = self.smooth[-1](x)
        for index in range(len(lateral) - 2, -1, -1):
            x = F.relu(lateral[index] + resize(x, lateral[index]))
            x = self.smooth[index](x)
            merged = resize(merged, x) + x
        return self.head(merged)


class LRASPP(Decoder):
    """Lite reduced ASPP: gated deep features and those of stride 8, one 1x1 convolution each.

    Source: Howard et al. 2019 (MobileNetV3).

    Args:
        in_channels, strides: of the encoder's maps, from fine to coarse.
        num_classes: K.
        channels: of the inner map.
    """

    encoder_stride = 16
    default_channels = 128

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, channels: int
    ) -> None:
        super().__init__()
        self.low = next(index for index, stride in enumerate(strides) if stride >= 8)
        self.stride = strides[self.low]
        self.project = Conv2dNormActivation(in_channels[-1], channels, 1)
        self.gate = nn.Conv2d(in_channels[-1], channels, 1, bias=False)
        self.low_classifier = nn.Conv2d(in_channels[self.low], num_classes, 1)
        self.high_classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """N x C x h x w each, from fine to coarse -> N x K x h x w of stride 8."""
        deep, low = maps[-1], maps[self.low]
        gate = self.gate(deep.mean((2, 3), keepdim=True)).sigmoid()
        high = resize(self.project(deep) * gate, low)
        return self.low_classifier(low) + self.high_classifier(high)


class DeepLab(Decoder):
    """DeepLabV3's head as MobileNetV2 has it: a 1x1 convolution beside the map's mean, at stride 16.

    Source: Chen et al. 2017 (DeepLabV3), without atrous branches as in Sandler et al. 2018 (MobileNetV2).

    Args:
        in_channels, strides: of the encoder's maps, from fine to coarse.
        num_classes: K.
        channels: of each inner map.
    """

    encoder_stride = 16
    default_channels = 256

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, channels: int
    ) -> None:
        super().__init__()
        self.stride = strides[-1]
        self.pooling = pooled(in_channels[-1], channels)
        self.aspp = Conv2dNormActivation(in_channels[-1], channels, 1)
        self.project = Conv2dNormActivation(2 * channels, channels, 1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """N x C x h x w each, from fine to coarse -> N x K x h x w of the deepest."""
        deep = maps[-1]
        local = self.aspp(deep)
        image = self.pooling(deep).expand_as(local)
        return self.classifier(self.project(torch.cat([image, local], dim=1)))


DECODERS: dict[str, type[Decoder]] = {"fpn": FPN, "lraspp": LRASPP, "deeplab": DeepLab}
"""By the name that `student.decoder` gives."""


class EncoderDecoder(nn.Module):
    """A pretrained encoder with a light decoder, for images of any size.

    Args:
        encoder: N x 3 x H x W -> maps from fine to coarse; H and W are multiples of the coarsest stride.
        decoder: takes these maps.
        multiple: the coarsest stride; other images are padded right and below.
        anchor: where in their cells the maps' points lie.

    Attributes:
        mean, std: of the RGB input in 0 to 1 that the encoder was trained with.
    """

    deepest = "encoder"

    def __init__(self, encoder: nn.Module, decoder: Decoder, multiple: int, anchor: Anchor = "first") -> None:
        super().__init__()
        self.encoder, self.decoder, self.multiple, self.anchor = encoder, decoder, multiple, anchor
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W normalised images -> N x K x H x W logits."""
        size = image.shape[2:]
        logits = self.decoder(self.encoder(pad_to_multiple(image, self.multiple)))
        return upsample_grid(logits, self.decoder.stride, size, self.anchor)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """N x C x h x w at the rows and columns of another map, bilinear."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU (Howard et al. 2017)."""
    return nn.Sequential(
        Conv2dNormActivation(in_channels, in_channels, 3, groups=in_channels),
        Conv2dNormActivation(in_channels, out_channels, 1),
    )


def pooled(in_channels: int, out_channels: int) -> nn.Sequential:
    """The mean of a map through a 1x1 convolution, N x C x 1 x 1; no batch norm for a batch of one."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1), nn.ReLU())
