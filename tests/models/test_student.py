"""The reference student: its parameters, its shapes, and that all of it learns."""

import pytest
import torch

from segdistill.models.student import Block, DSUNet

pytestmark = pytest.mark.unit
SIZES = [
    (1, 1), (1, 7), (2, 2), (3, 5), (4, 4), (5, 1), (6, 9), (7, 7), (8, 8), (9, 9), (11, 3), (13, 17),
    (15, 16), (16, 15), (17, 40), (23, 8), (31, 33), (32, 32), (33, 31), (47, 2), (64, 50),
]  # fmt: skip


@pytest.mark.parametrize(("classes", "parameters"), [(21, 2_285_619), (11, 2_284_969)])
def test_parameters_are_those_of_the_reference(classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in DSUNet(classes).parameters()) == parameters


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_have_the_size_of_the_image(height: int, width: int) -> None:
    network = DSUNet(4, width=0.1).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, height, width)).shape == (2, 4, height, width)


def test_gradients_reach_every_parameter() -> None:
    network = DSUNet(4, width=0.25)
    network(torch.randn(2, 3, 24, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in network.named_parameters()
               if not n.endswith(("depthwise.bias", "pointwise.bias")))  # fmt: skip


def test_dropout_acts_in_training_only() -> None:
    network, image = DSUNet(4, width=0.25), torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_block_is_what_its_formula_says() -> None:
    block, x = Block(3, 5, dilation=2).eval(), torch.randn(1, 3, 9, 9)
    expected = torch.relu(block.bn(block.pointwise(block.depthwise(x))) + block.shortcut(x))
    assert torch.equal(block(x), expected)
    assert block.depthwise.groups == 3
    assert block.depthwise.dilation == block.depthwise.padding == (2, 2)


def test_width_scales_all_channels() -> None:
    assert [stage[0].pointwise.out_channels for stage in DSUNet(4, width=0.5).encoder] == [32, 64, 128]


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is 1"):
        DSUNet(1)
