"""The reference student: its parameters, its shapes, and that all of it learns."""

import pytest
import torch
from torch import nn

from segdistill.models.student import Block, DSUNet

pytestmark = pytest.mark.unit
SIZES = [
    (1, 1), (1, 7), (2, 2), (3, 5), (4, 4), (5, 1), (6, 9), (7, 7), (8, 8), (9, 9), (11, 3), (13, 17),
    (15, 16), (16, 15), (17, 40), (23, 8), (31, 33), (32, 32), (33, 31), (47, 2), (64, 50),
]  # fmt: skip


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("classes", "parameters"), [(21, 2_285_619), (11, 2_284_969)])
def test_parameters_are_those_of_the_reference(classes: int, parameters: int) -> None:
    assert count(DSUNet(classes)) == parameters


def test_parameters_of_a_block() -> None:
    # Depthwise 3 * 9 + 3, pointwise 3 * 64 + 64, batch norm 2 * 64, shortcut 3 * 64 + 64.
    assert count(Block(3, 64)) == 30 + 256 + 128 + 256


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_have_the_size_of_the_image(height: int, width: int) -> None:
    network = DSUNet(4, width=0.1).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, height, width)).shape == (2, 4, height, width)


def test_the_reference_width_takes_an_odd_size_too() -> None:
    with torch.no_grad():
        assert DSUNet(21).eval()(torch.randn(1, 3, 33, 47)).shape == (1, 21, 33, 47)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = DSUNet(4, width=0.25).eval()  # in training batch norm takes away what the biases before it add
    network(torch.randn(2, 3, 24, 24)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_dropout_acts_in_training_only() -> None:
    network, image = DSUNet(4, width=0.25), torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_without_dropout_training_is_deterministic() -> None:
    network, image = DSUNet(4, width=0.25, dropout=0.0), torch.randn(2, 3, 16, 16)
    assert torch.equal(network(image), network(image))


def test_block_is_what_its_formula_says() -> None:
    block, x = Block(3, 5, dilation=2).eval(), torch.randn(1, 3, 9, 9)
    expected = torch.relu(block.bn(block.pointwise(block.depthwise(x))) + block.shortcut(x))
    assert torch.equal(block(x), expected)
    assert block.depthwise.groups == 3
    assert block.depthwise.dilation == block.depthwise.padding == (2, 2)


def test_the_bottleneck_is_dilated_and_named_as_the_deepest() -> None:
    network = DSUNet(4, width=0.1)
    first, dropout, second = network.get_submodule(DSUNet.deepest)
    assert (first.depthwise.dilation, dropout.p, second.depthwise.dilation) == ((2, 2), 0.5, (4, 4))


def test_width_scales_all_channels() -> None:
    network = DSUNet(4, width=0.5)
    assert [stage[0].pointwise.out_channels for stage in network.encoder] == [32, 64, 128]
    assert network.bottleneck[2].pointwise.out_channels == 256
    assert [stage.up.out_channels for stage in network.decoder] == [128, 64, 32]


def test_a_tiny_width_keeps_one_channel() -> None:
    with torch.no_grad():
        assert DSUNet(4, width=1e-4).eval()(torch.randn(1, 3, 9, 9)).shape == (1, 4, 9, 9)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is 1"):
        DSUNet(1)


@pytest.mark.parametrize(("stride", "more"), [(2, 12 * 12 + 12), (4, 48 * 48 + 48)])
def test_a_strided_student_is_the_same_network_on_patches(stride: int, more: int) -> None:
    inputs = 3 * stride**2
    # The first block has more input channels: depthwise 9 + 1, pointwise and shortcut 64 each.
    first = (inputs - 3) * (10 + 2 * 64)
    assert count(DSUNet(21, stride=stride)) == 2_285_619 + 3 * stride**2 * inputs + inputs + first
    assert 3 * stride**2 * inputs + inputs == more
    network = DSUNet(4, width=0.1, stride=stride).eval()
    for size in ((32, 48), (33, 47), (1, 1)):
        assert network(torch.randn(2, 3, *size)).shape == (2, 4, *size)


def test_a_strided_student_shifts_with_its_image_by_whole_patches() -> None:
    network = DSUNet(4, width=0.1, stride=2).eval()
    image = torch.randn(1, 3, 64, 96)
    one, other = network(image[:, :, :, :64]), network(image[:, :, :, 16:80])
    torch.testing.assert_close(one[:, :, 24:40, 40:44], other[:, :, 24:40, 24:28], rtol=1e-3, atol=1e-3)
