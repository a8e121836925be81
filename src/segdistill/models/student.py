"""The student: a light U-Net of residual depthwise-separable blocks with a dilated bottleneck.

N: images, C: channels, H, W: rows and columns, K: classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.models.grid import pad_to_multiple, upsample_grid


class Block(nn.Module):
    """relu(bn(pointwise(depthwise(x))) + shortcut(x)): N x C_in x H x W -> N x C_out x H x W.

    Sources: depthwise-separable convolution (Howard et al. 2017, MobileNets), residual (He et al. 2016).
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.pointwise(self.depthwise(x))) + self.shortcut(x))


class Up(nn.Module):
    """One decoder stage: transposed convolution, concatenation with the skip, two blocks."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.blocks = nn.Sequential(Block(2 * out_channels, out_channels), Block(out_channels, out_channels))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """X N x C_in x ceil(H/2) x ceil(W/2), skip N x C_out x H x W -> N x C_out x H x W."""
        x = self.up(x)[:, :, : skip.shape[2], : skip.shape[3]]  # odd sides: one row or column too many
        return self.blocks(torch.cat([x, skip], dim=1))


class DSUNet(nn.Module):
    """Depthwise-separable U-Net: 2,285,619 parameters at 21 classes.

    Encoder 3-64-128-256 with max pooling between the stages, bottleneck 256-512-512 with dilations 2 and 4
    and dropout between, decoder 512-256-128-64 with skips, 1x1 head at the input's size. Any H x W works.
    Source of the shape: Ronneberger et al. 2015 (U-Net).

    Args:
        num_classes: K.
        width: multiplies all channels.
        dropout: probability that a bottleneck value is dropped in training.
        stride: above 1, the network sees patches of that side (one point each, all values of their pixels)
            and its logits are upsampled; 1 is the reference.
    """

    deepest = "bottleneck"
    """Name of the module whose output is the deepest feature map (for feature losses)."""
    auxiliary = ("bottleneck", "decoder.0", "decoder.1")
    """Names of the modules whose outputs get a head of their own in training (for deep supervision)."""

    def __init__(
        self, num_classes: int, width: float = 1.0, dropout: float = 0.5, *, stride: int = 1
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}, but segmentation needs 2 or more")
        c1, c2, c3, c4 = (max(1, round(c * width)) for c in (64, 128, 256, 512))
        self.stride = stride
        c0 = 3 * stride**2
        if stride > 1:  # as a vision transformer embeds patches (Dosovitskiy et al. 2021)
            self.embedding = nn.Conv2d(3, c0, stride, stride=stride)
        self.encoder = nn.ModuleList(
            nn.Sequential(Block(i, o), Block(o, o)) for i, o in ((c0, c1), (c1, c2), (c2, c3))
        )
        self.bottleneck = nn.Sequential(Block(c3, c4, 2), nn.Dropout(dropout), Block(c4, c4, 4))
        self.decoder = nn.ModuleList(Up(i, o) for i, o in ((c4, c3), (c3, c2), (c2, c1)))
        self.head = nn.Conv2d(c1, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W normalised images -> N x K x H x W logits."""
        if self.stride == 1:
            return self._logits(image)  # at the input's size: the last skip has it, also where a side is odd
        logits = self._logits(self.embedding(pad_to_multiple(image, self.stride)))
        return upsample_grid(logits, self.stride, image.shape[2:], "centre")

    def _logits(self, x: Tensor) -> Tensor:
        """N x C x h x w patches, or pixels -> N x K x h x w."""
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2, ceil_mode=True)  # ceil: a side of one pixel stays one
        x = self.bottleneck(x)
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            x = stage(x, skip)
        return self.head(x)
