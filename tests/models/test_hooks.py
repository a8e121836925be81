"""Feature hooks: what they keep of which module, and the errors for modules that are not there."""

import gc
import weakref

import pytest
import torch
from torch import nn

from segdistill.models.hooks import FeatureHook
from segdistill.models.student import DSUNet
from segdistill.models.zoo import build_model

pytestmark = pytest.mark.unit


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.MaxPool2d(2))


def test_the_named_modules_output_is_kept(network: nn.Sequential) -> None:
    hook, image = FeatureHook(network, "0", "layer"), torch.randn(2, 3, 8, 6)
    network(image)
    assert torch.equal(hook.pop(), network[0](image))


def test_the_newest_pass_counts(network: nn.Sequential) -> None:
    hook = FeatureHook(network, "1", "layer")
    for side in (8, 4):
        network(torch.randn(1, 3, side, side))
    assert hook.pop().shape == (1, 5, 2, 2)


def test_what_is_taken_carries_gradients(network: nn.Sequential) -> None:
    hook = FeatureHook(network, "1", "layer")
    network(torch.randn(1, 3, 4, 4))
    hook.pop().sum().backward()
    assert network[0].weight.grad is not None


def test_what_is_taken_is_let_go_of(network: nn.Sequential) -> None:
    hook = FeatureHook(network, "0", "layer")
    network(torch.randn(1, 3, 4, 4))
    taken = weakref.ref(hook.pop())
    gc.collect()
    assert taken() is None
    with pytest.raises(AssertionError, match="no forward pass since the last pop"):
        hook.pop()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("dsunet", (1, 512, 8, 8)),  # three poolings of 64
        ("lraspp_mobilenet_v3_large", (1, 960, 4, 4)),  # of the backbone's two maps the coarser one
        ("smp:Unet/resnet18", (1, 512, 2, 2)),  # of the encoder's six maps the coarsest
    ],
)
def test_the_deepest_map_is_taken_where_no_layer_is_named(spec: str, shape: tuple[int, ...]) -> None:
    network = build_model(spec, 3).eval()
    hook = FeatureHook(network, None, "layer")
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert hook.pop().shape == shape


def test_an_unknown_layer_is_an_error_with_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"objective\.x is 'middle', but must name a module .*bottleneck, "
    ) as e:
        FeatureHook(DSUNet(3, width=0.1), "middle", "objective.x")
    assert "encoder.0" in str(e.value)
    assert "encoder.0.0" not in str(e.value)  # nobody wants to read a hundred names


def test_a_network_that_names_no_deepest_module_needs_a_layer(network: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="layer is None, but must name a module of the network: 0, 1"):
        FeatureHook(network, None, "layer")
