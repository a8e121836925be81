"""Depthwise convolutions with our backward pass against PyTorch's."""

import copy

import pytest
import torch
from torch import nn

from segdistill.config.architecture import Architecture
from segdistill.models.depthwise import is_depthwise, speed_up_depthwise
from segdistill.models.zoo import build_model

FORMS = [(k, s, d) for k in (3, 4, 5, 7) for s, d in ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))]


def gradients(conv: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = conv(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    return [out.float(), x.grad, *(p.grad for p in conv.parameters() if p.grad is not None)]


@pytest.mark.parametrize("size", [(21, 24), (26, 19)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), FORMS)
def test_gradients_are_those_of_pytorch(
    kernel: int, stride: int, dilation: int, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    for padding in (0, dilation * (kernel // 2)):
        plain = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=padding > 0)
        fast = speed_up_depthwise(copy.deepcopy(plain))
        x = torch.randn(3, 6, *size).contiguous(memory_format=torch.channels_last)
        expected, found = gradients(plain, x, torch.float32), gradients(fast, x, dtype)
        assert len(expected) == len(found) == 3 + (padding > 0)
        for one, two in zip(expected, found, strict=True):
            tolerance = 1e-5 if dtype == torch.float32 else 0.02  # without AVX-512 bfloat16 sums are coarser
            assert (one - two).norm() <= tolerance * one.norm()


def test_other_convolutions_are_left_alone() -> None:
    others = (
        nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, (3, 5), groups=4), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4), nn.Conv2d(4, 4, 3, stride=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
    )  # fmt: skip
    assert not any(map(is_depthwise, others))
    network = speed_up_depthwise(nn.Sequential(*others))
    assert all("_conv_forward" not in vars(module) for module in network.modules())


def test_a_whole_encoder_trains_and_copies() -> None:
    """TensorFlow's uneven padding too; a copy has convolutions of its own, and eval mode is PyTorch's."""
    torch.manual_seed(0)
    plain = build_model(Architecture(spec="timm:tf_efficientnet_lite0", decoder="deeplab"), 3).eval()
    fast = copy.deepcopy(speed_up_depthwise(copy.deepcopy(plain)))
    changed = [m for m in fast.modules() if "_conv_forward" in vars(m)]
    assert len(changed) >= 16
    assert all(vars(m)["_conv_forward"].__self__ is m for m in changed)
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(plain(x), fast(x))
    for network in (plain, fast):
        network(x).square().mean().backward()
    for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)
