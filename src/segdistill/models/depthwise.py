"""Depthwise convolutions with a faster backward pass on a CPU.

PyTorch's forward pass is fast for all of them (oneDNN). Of the backward pass, the gradient of 3 x 3 weights
without dilation is. Larger kernels, dilation and the input of a strided convolution have reference code,
slowest in bfloat16: it took 60 % of a training step of EfficientNet-Lite0. Here the fast operators compute
the slow gradients. Figures: docs/performance.md, `benchmarks/encoders.py`.

N: images, C: channels, H, W: rows and columns, k: side of the kernel, s: stride, p: padding, d: dilation.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAST = 3
"""Side of the kernels whose gradient is fast."""


def speed_up_depthwise(network: nn.Module) -> nn.Module:
    """Give the depthwise convolutions of `network` this module's backward pass; returns it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and is_depthwise(module):
            module._conv_forward = MethodType(_forward, module)  # type: ignore[method-assign]
    return network


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it has one square kernel per channel and pads zeros, in PyTorch's own way."""
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.dilation))
    return (
        square
        and isinstance(conv.padding, tuple)
        and len(set(conv.padding)) == 1
        and conv.padding[0] <= conv.dilation[0] * (conv.kernel_size[0] - 1)
        and conv.padding_mode == "zeros"
        and conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.kernel_size[0] >= FAST
        and (conv.stride[0] == 1 or conv.dilation[0] == 1)
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
    )


def _forward(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `nn.Conv2d._conv_forward` gives."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return nn.Conv2d._conv_forward(conv, x, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    padding = conv.padding[0]
    assert isinstance(padding, int)
    out: Tensor = DepthwiseConvolution.apply(x, weight, bias, conv.stride[0], padding, conv.dilation[0])
    return out


class DepthwiseConvolution(torch.autograd.Function):
    """`F.conv2d` of N x C x H x W with C x 1 x k x k, in channels of their own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
    ) -> Tensor:
        """N x C x H' x W'."""
        ctx.save_for_backward(x, weight)
        ctx.form = stride, padding, dilation
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        with torch.autocast("cpu", enabled=False):
            return (
                input_gradient(gradient, x, weight, *ctx.form) if need_x else None,
                weight_gradient(gradient, x, weight, *ctx.form) if need_weight else None,
                gradient.sum((0, 2, 3)) if need_bias else None,
                *(None,) * 3,
            )


def input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """The gradient of x: the gradient of the output, convolved with the mirrored kernel.

    With a stride the output's gradient is spread first, with zeros between its pixels.
    """
    if stride > 1 and x.dtype == torch.float32:
        return _native(gradient, x, weight, stride, padding, dilation, 0)
    reach = dilation * (weight.shape[2] - 1)
    if stride > 1:
        height, width = (side + 2 * padding - reach for side in x.shape[2:])
        spread = gradient.new_zeros(len(x), height, width, x.shape[1]).permute(0, 3, 1, 2)  # channels last
        spread[:, :, ::stride, ::stride] = gradient
        gradient = spread
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, reach - padding, dilation, len(weight))


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """The gradient of the weights, of a larger kernel in overlapping pieces of 3 x 3.

    A dilated convolution is d x d ones without dilation, each of every d-th row and column: these go into the
    batch.
    """
    side = weight.shape[2]
    simple = side == FAST and dilation == 1
    if simple or (x.dtype == torch.float32 and (stride > 1 or dilation > 1)):
        return _native(gradient, x, weight, stride, padding, dilation, 1)
    extra = [-length % dilation for length in gradient.shape[2:]]
    ends = [padding + more for more in extra]
    x = F.pad(x, (padding, ends[1], padding, ends[0]))
    if dilation > 1:
        gradient = phases(F.pad(gradient, (0, extra[1], 0, extra[0])), dilation)
        x = phases(F.pad(x, (0, -x.shape[3] % dilation, 0, -x.shape[2] % dilation)), dilation)
    height, width = ((length - 1) * stride + FAST for length in gradient.shape[2:])
    kernel = weight.new_empty(len(weight), 1, FAST, FAST)
    found = torch.empty_like(weight)
    starts = [*range(0, side - FAST, FAST), side - FAST]
    for i in starts:
        for j in starts:
            part = x[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            found[:, :, i : i + FAST, j : j + FAST] = _native(gradient, part, kernel, stride, 0, 1, 1)
    return found


def phases(maps: Tensor, step: int) -> Tensor:
    """N x C x H x W -> (N step²) x C x H/step x W/step: every `step`-th row and column, from each start."""
    parts = [maps[:, :, i::step, j::step] for i in range(step) for j in range(step)]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _native(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, index: int
) -> Tensor:
    """PyTorch's gradient of x (`index` 0) or of the weights (1)."""
    mask = [index == 0, index == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [dilation] * 2,
        False,
        [0, 0],
        len(weight),
        mask,
    )[index]
    return found
