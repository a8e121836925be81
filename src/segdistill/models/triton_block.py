"""The block of the student as one Triton kernel: x is read once and the output written once.

N: images, H, W: rows and columns, C: channels in, K: channels out. In memory, everything is N x H x W x C.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_input(
    acc, x_ptr, depthwise_ptr, depthwise_bias_ptr, pointwise_ptr, shortcut_ptr, image, rows, columns, filters,
    H, W, C, K, first, total,
    DILATION: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Add pointwise(depthwise(x)) + shortcut(x) of one input to the tile `acc` (pixels x filters)."""
    in_image = (rows < H) & (columns < W)
    is_filter = filters < K
    for start in range(0, C, BLOCK_C):
        channels = start + tl.arange(0, BLOCK_C)
        is_channel = channels < C
        mixed = tl.zeros((acc.shape[0], BLOCK_C), dtype=tl.float32)
        centre = tl.zeros((acc.shape[0], BLOCK_C), dtype=tl.float32)
        for element in tl.static_range(9):
            row = rows + (element // 3 - 1) * DILATION
            column = columns + (element % 3 - 1) * DILATION
            readable = in_image & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            pixel = (image * H + row) * W + column
            values = tl.load(
                x_ptr + pixel[:, None] * C + channels[None, :],
                mask=readable[:, None] & is_channel[None, :],
                other=0.0,
            ).to(tl.float32)
            weight = tl.load(depthwise_ptr + element * total + first + channels, mask=is_channel, other=0.0)
            mixed += values * weight.to(tl.float32)[None, :]
            if element == 4:
                centre = values
        bias = tl.load(depthwise_bias_ptr + first + channels, mask=is_channel, other=0.0)
        mixed += bias.to(tl.float32)[None, :]
        offset = (first + channels)[:, None] * K + filters[None, :]
        is_weight = is_channel[:, None] & is_filter[None, :]
        pointwise = tl.load(pointwise_ptr + offset, mask=is_weight, other=0.0)
        shortcut = tl.load(shortcut_ptr + offset, mask=is_weight, other=0.0)
        acc += tl.dot(mixed.to(pointwise.dtype), pointwise, input_precision="ieee")
        acc += tl.dot(centre.to(shortcut.dtype), shortcut, input_precision="ieee")
    return acc


@triton.jit
def _block_kernel(
    x_ptr, skip_ptr, depthwise_ptr, depthwise_bias_ptr, pointwise_ptr, shortcut_ptr, bias_ptr, out_ptr,
    H, W, C, C_SKIP, K,
    DILATION: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, HAS_SKIP: tl.constexpr,
):  # fmt: skip
    """One tile of TILE_H x TILE_W pixels and BLOCK_K channels of one image."""
    across = tl.cdiv(W, TILE_W)
    down = tl.cdiv(H, TILE_H)
    tile = tl.program_id(0)
    image = (tile // (across * down)).to(tl.int64)
    index = tl.arange(0, TILE_H * TILE_W)
    rows = (tile // across % down) * TILE_H + index // TILE_W
    columns = (tile % across) * TILE_W + index % TILE_W
    filters = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    acc = tl.zeros((TILE_H * TILE_W, BLOCK_K), dtype=tl.float32)
    acc = _add_input(
        acc, x_ptr, depthwise_ptr, depthwise_bias_ptr, pointwise_ptr, shortcut_ptr,
        image, rows, columns, filters, H, W, C, K, 0, C + C_SKIP, DILATION, BLOCK_C,
    )  # fmt: skip
    if HAS_SKIP:
        acc = _add_input(
            acc, skip_ptr, depthwise_ptr, depthwise_bias_ptr, pointwise_ptr, shortcut_ptr,
            image, rows, columns, filters, H, W, C_SKIP, K, C, C + C_SKIP, DILATION, BLOCK_C,
        )  # fmt: skip
    bias = tl.load(bias_ptr + filters, mask=filters < K, other=0.0)
    acc = tl.maximum(acc + bias.to(tl.float32)[None, :], 0.0)
    pixels = (image * H + rows) * W + columns
    tl.store(
        out_ptr + pixels[:, None] * K + filters[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=((rows < H) & (columns < W))[:, None] & (filters < K)[None, :],
    )


class KernelWeights(NamedTuple):
    """The weights of a block in the kernel's order; C + C' counts the channels of both inputs."""

    depthwise: Tensor
    """9 x (C + C'), row by row of the 3 x 3 window."""
    depthwise_bias: Tensor
    """C + C'."""
    pointwise: Tensor
    """(C + C') x K, batch norm folded in."""
    shortcut: Tensor
    """(C + C') x K."""
    bias: Tensor
    """K, everything that does not depend on the input."""


def fused_block(x: Tensor, skip: Tensor | None, weights: KernelWeights, dilation: int) -> Tensor:
    """relu(pointwise(depthwise(z)) + shortcut(z) + bias), where z is x, or the concatenation of x and skip.

    Args:
        x: N x C x H x W, channels_last.
        skip: N x C' x H x W, channels_last; None for none.
        weights: in one dtype with x.
        dilation: of the depthwise convolution, with as much padding.

    Returns:
        N x K x H x W, channels_last.
    """
    images, channels, height, width = x.shape
    skip_channels = 0 if skip is None else skip.shape[1]
    assert weights.depthwise.shape == (9, channels + skip_channels)
    filters = weights.pointwise.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    second = x if skip is None else skip.contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (images, filters, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    tile_h, tile_w = (8, 16) if width >= 16 else (16, 8)
    block_c = min(64, max(16, triton.next_power_of_2(min(channels, skip_channels or channels))))
    block_k = min(128, max(16, triton.next_power_of_2(filters)))
    tiles = images * triton.cdiv(height, tile_h) * triton.cdiv(width, tile_w)
    _block_kernel[(tiles, triton.cdiv(filters, block_k))](
        x, second, *weights, out, height, width, channels, skip_channels, filters,
        DILATION=dilation, TILE_H=tile_h, TILE_W=tile_w, BLOCK_C=block_c, BLOCK_K=block_k,
        HAS_SKIP=skip is not None, num_warps=8, num_stages=2,
    )  # fmt: skip
    return out
