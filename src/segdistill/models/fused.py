"""The student rewritten for inference: the same function, with less memory to read and write.

N: images, C: channels, H, W: rows and columns, K: classes.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.models.student import Block, DSUNet, Up
from segdistill.models.trained import TrainedNetwork


class FusedBlock(nn.Module):
    """A `Block` in eval mode, its batch norm folded into the pointwise convolution.

    Where the block's input is a concatenation of two maps (a decoder's), they are taken one by one: a
    convolution of a concatenation is the sum of two convolutions.

    Args:
        block: trained.
        split: channels of the first of two inputs; None for one input.
    """

    depthwise: Tensor
    depthwise_bias: Tensor
    pointwise: Tensor
    shortcut: Tensor
    bias: Tensor

    def __init__(self, block: Block, split: int | None = None) -> None:
        super().__init__()
        pointwise, norm = block.pointwise, block.bn
        mean, variance, bias = norm.running_mean, norm.running_var, pointwise.bias
        depthwise_bias, shortcut_bias = block.depthwise.bias, block.shortcut.bias
        assert mean is not None
        assert variance is not None
        assert bias is not None
        assert depthwise_bias is not None
        assert shortcut_bias is not None
        gain = norm.weight / (variance + norm.eps).sqrt()
        bias = (bias - mean) * gain + norm.bias + shortcut_bias
        channels = block.depthwise.in_channels
        self.sizes = [channels] if split is None else [split, channels - split]
        self.dilation = int(block.depthwise.dilation[0])
        self.register_buffer("depthwise", block.depthwise.weight.detach().clone())
        self.register_buffer("depthwise_bias", depthwise_bias.detach().clone())
        self.register_buffer("pointwise", (pointwise.weight * gain.view(-1, 1, 1, 1)).detach().clone())
        self.register_buffer("shortcut", block.shortcut.weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """X N x C x H x W and skip N x C' x H x W -> N x C_out x H x W."""
        weights = (self.depthwise, self.depthwise_bias, self.pointwise, self.shortcut)
        if skip is None:
            return self._branch(x, weights, self.bias).relu_()
        # Input channels are the first axis of the depthwise weights, and the second of the others.
        halves = [torch.split(w, self.sizes, dim=axis) for w, axis in zip(weights, (0, 0, 1, 1), strict=True)]
        first, second = zip(*halves, strict=True)
        return (self._branch(x, first, self.bias) + self._branch(skip, second, None)).relu_()

    def _branch(self, x: Tensor, weights: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
        """The block's convolutions of one input: pointwise(depthwise(x)) + shortcut(x)."""
        depthwise, depthwise_bias, pointwise, shortcut = weights
        mixed = F.conv2d(
            x, depthwise, depthwise_bias, padding=self.dilation, dilation=self.dilation, groups=len(depthwise)
        )
        return F.conv2d(mixed, pointwise, bias) + F.conv2d(x, shortcut)


class DenseBlock(nn.Module):
    """A `FusedBlock` as one 3x3 convolution, the same function: cheaper for few input channels.

    The depthwise, pointwise and shortcut convolutions are linear, without a non-linearity between them, so
    the product of the first two plus the third, at the centre, is one kernel.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, fused: FusedBlock) -> None:
        super().__init__()
        weight = fused.pointwise * fused.depthwise.permute(1, 0, 2, 3)
        weight[:, :, 1:2, 1:2] += fused.shortcut
        self.dilation = fused.dilation
        self.register_buffer("weight", weight)
        self.register_buffer("bias", fused.bias + fused.pointwise[:, :, 0, 0] @ fused.depthwise_bias)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x C_out x H x W."""
        return F.conv2d(x, self.weight, self.bias, padding=self.dilation, dilation=self.dilation).relu_()


class KernelBlock(nn.Module):
    """A `FusedBlock` as one Triton kernel, for CUDA; see `segdistill.models.triton_block`."""

    depthwise: Tensor
    depthwise_bias: Tensor
    pointwise: Tensor
    shortcut: Tensor
    bias: Tensor

    def __init__(self, fused: FusedBlock) -> None:
        super().__init__()
        self.dilation = fused.dilation
        self.register_buffer("depthwise", fused.depthwise.reshape(sum(fused.sizes), 9).T.contiguous())
        self.register_buffer("depthwise_bias", fused.depthwise_bias)
        self.register_buffer("pointwise", fused.pointwise[:, :, 0, 0].T.contiguous())
        self.register_buffer("shortcut", fused.shortcut[:, :, 0, 0].T.contiguous())
        self.register_buffer("bias", fused.bias)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """X N x C x H x W and skip N x C' x H x W -> N x C_out x H x W."""
        from segdistill.models.triton_block import KernelWeights, fused_block

        weights = KernelWeights(self.depthwise, self.depthwise_bias, self.pointwise, self.shortcut, self.bias)
        if torch.is_autocast_enabled(x.device.type):  # which reaches torch's own operators, not this one
            dtype = torch.get_autocast_dtype(x.device.type)
            weights = KernelWeights(*(weight.to(dtype) for weight in weights))
            x, skip = x.to(dtype), None if skip is None else skip.to(dtype)
        return fused_block(x, skip, weights, self.dilation)


class FusedUp(nn.Module):
    """A decoder stage whose first block takes the upsampled map and the skip without a concatenation."""

    def __init__(self, stage: Up) -> None:
        super().__init__()
        self.up = copy.deepcopy(stage.up)
        first, second = cast(Block, stage.blocks[0]), cast(Block, stage.blocks[1])
        self.first: nn.Module = FusedBlock(first, split=stage.up.out_channels)
        self.second: nn.Module = FusedBlock(second)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """X N x C_in x ceil(H/2) x ceil(W/2), skip N x C_out x H x W -> N x C_out x H x W."""
        x = self.up(x).narrow(2, 0, skip.shape[2]).narrow(3, 0, skip.shape[3])
        return self.second(self.first(x, skip))


class JoinedUp(nn.Module):
    """A decoder stage with its concatenation, where that costs less than convolutions that add up."""

    def __init__(self, stage: Up) -> None:
        super().__init__()
        self.up = copy.deepcopy(stage.up)
        self.blocks = nn.Sequential(*(FusedBlock(cast(Block, block)) for block in stage.blocks))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """X N x C_in x ceil(H/2) x ceil(W/2), skip N x C_out x H x W -> N x C_out x H x W."""
        # narrow, unlike a slice, is the same operation whether or not there is something to cut off.
        x = self.up(x).narrow(2, 0, skip.shape[2]).narrow(3, 0, skip.shape[3])
        return self.blocks(torch.cat([x, skip], dim=1))


def fuse(network: nn.Module, *, kernel: bool = False, compile: bool = False) -> nn.Module:
    """A copy of a trained student for inference: the same logits up to rounding, faster.

    Batch norm is folded into the convolutions, and the decoder's concatenations are never made. Move and cast
    the network first (`.to(device, dtype)`): weights are folded as they are, in float32 best.

    Args:
        network: a trained network; a `DSUNet` anywhere in it is rewritten, anything else is kept.
        kernel: on CUDA, compute each block in one Triton kernel that reads its input once.
        compile: hand the result to `torch.compile` with its weights frozen. The first call of each image size
            takes seconds to a minute; needs a C++ compiler on a CPU.

    Returns:
        The copy, in eval mode and without gradients.

    Raises:
        ValueError: there is no DSUNet in it.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    students = [module for module in copied.modules() if isinstance(module, DSUNet)]
    if not students:
        raise ValueError("fuse rewrites the dsunet student, and this network holds none")
    for student in students:
        _rewrite(student, FusedUp)
        if kernel:
            _use_kernels(student)
    copied = copied.to(memory_format=torch.channels_last)
    if compile:
        copied.compile(options={"freezing": True})
    return copied


def fuse_students(network: TrainedNetwork) -> TrainedNetwork:
    """A fused copy of a float32 network that holds a `DSUNet`; any other network as it is.

    Half precision rounds the folded weights to other ones than those that `evaluate` computes with.
    """
    if network.dtype != torch.float32 or not any(isinstance(part, DSUNet) for part in network.modules()):
        return network
    return cast(TrainedNetwork, fuse(network))


def fuse_for_runtimes(network: nn.Module, *, concatenate: bool) -> nn.Module:
    """A copy of a network in the form that is fastest outside PyTorch: the same logits up to rounding.

    A `DSUNet` anywhere in it gets its batch norms folded and its first block as one convolution; anything
    else is kept, as runtimes fold batch norms by themselves.

    Args:
        network: a trained network.
        concatenate: keep the concatenations of a `DSUNet`'s decoder; otherwise they are never made.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for student in [module for module in copied.modules() if isinstance(module, DSUNet)]:
        _rewrite(student, JoinedUp if concatenate else FusedUp)
        first = cast(nn.Sequential, student.encoder[0])
        first[0] = DenseBlock(cast(FusedBlock, first[0]))
    return copied.to(memory_format=torch.contiguous_format)


def _rewrite(student: DSUNet, up: type[FusedUp] | type[JoinedUp]) -> None:
    """Put fused blocks in place of the student's own; its forward stays the same."""
    for stages in (*student.encoder, student.bottleneck):
        for name, module in cast(nn.Sequential, stages).named_children():
            if isinstance(module, Block):
                setattr(stages, name, FusedBlock(module))
    for index, stage in enumerate(student.decoder):
        student.decoder[index] = up(cast(Up, stage))


def _use_kernels(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, FusedBlock):
            setattr(module, name, KernelBlock(child))
        else:
            _use_kernels(child)
