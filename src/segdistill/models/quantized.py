"""A network that computes as its 8-bit file will: inputs and weights of its convolutions have 256 values.

N: images, K: classes, H, W: rows and columns.
"""

from collections.abc import Callable
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

QuantizedLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear

AXES: dict[type[nn.Module], int] = {nn.Conv2d: 0, nn.ConvTranspose2d: 1, nn.Linear: 0}
"""Layers that 8-bit files compute in 8 bits -> the axis of their weights that counts outputs."""

MAX_LEVEL = 127
"""Weights become whole multiples, from minus this to this, of a scale of each output's own."""

AVERAGING = 0.01
"""Weight of a batch in the moving average of a map's range."""


class Range(nn.Module):
    """Rounds a map to 256 values between the averages of its smallest and largest value, 0 among them."""

    low: Tensor
    high: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor([torch.inf]))
        self.register_buffer("high", torch.tensor([-torch.inf]))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero", torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor, observe: bool) -> Tensor:
        """Any shape; the gradient passes where `x` lies in the range, and is 0 elsewhere.

        With `observe` the averages take in `x` first.
        """
        observer_on, fake_quant_on = (torch.tensor([flag], device=x.device) for flag in (int(observe), 1))
        return torch.fused_moving_avg_obs_fake_quant(
            x, observer_on, fake_quant_on, self.low, self.high, self.scale, self.zero, AVERAGING, 0, 255, 0
        )


class FakeQuantized(nn.Module):
    """A network as its 8-bit file will compute, with gradients as if nothing were rounded.

    Weights are rounded per output channel, symmetrically; the maps that enter a layer as a whole. The layers
    whose input is the image stay as they are, as in the files. Norms keep their statistics: the file has them
    folded into the weights, whose rounding that does not change. No hook stays on the network after a pass.

    Sources: Jacob et al. 2018 (training with fake quantization), Bengio et al. 2013 (straight-through).

    Args:
        network: maps images to logits.
        ranges: those of another network of the same layers, shared; None for new ones.

    Attributes:
        observing: whether the ranges still follow the maps of training batches.
    """

    def __init__(self, network: nn.Module, ranges: nn.ModuleList | None = None) -> None:
        super().__init__()
        self.network, self.observing = network, True
        self.names = [name for name, layer in network.named_modules() if is_quantized(layer)]
        self.ranges = nn.ModuleList(Range() for _ in self.names) if ranges is None else ranges

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the norms."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W -> N x K x H x W, in float32: bfloat16 is no finer than what is imitated here."""
        layers = {name: self.network.get_submodule(name) for name in self.names}
        with torch.autocast(image.device.type, enabled=False):
            weights = {
                f"{name}.weight": round_weight(layer) for name, layer in layers.items() if is_quantized(layer)
            }
            handles = [
                layer.register_forward_pre_hook(self._rounding(input_range))
                for layer, input_range in zip(layers.values(), self.ranges, strict=True)
            ]
            try:
                return functional_call(self.network, weights, (image.float(),))
            finally:
                for handle in handles:
                    handle.remove()

    def _rounding(self, input_range: nn.Module) -> Callable[[nn.Module, Any], Tensor]:
        observe = self.training and self.observing
        return lambda _, inputs: input_range(inputs[0], observe)


def is_quantized(layer: nn.Module) -> TypeGuard[QuantizedLayer]:
    """Whether a layer has 8 bits: all convolutions and linear ones but those whose input is the image."""
    if type(layer) not in AXES:
        return False
    assert isinstance(layer, QuantizedLayer)
    return (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels) > 3


def round_weight(layer: QuantizedLayer) -> Tensor:
    """The weights of a layer, each output's own rounded to 255 values around 0; the gradient passes."""
    weight, axis = layer.weight, AXES[type(layer)]
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = (weight.detach().abs().amax(dim=others) / MAX_LEVEL).clamp(min=torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -MAX_LEVEL, MAX_LEVEL)
