"""Networks as if in 8 bits: rounded values and gradients by hand, and nothing that stays behind."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from segdistill.models.quantized import AVERAGING, FakeQuantized, Range, round_weight
from segdistill.models.student import DSUNet

pytestmark = pytest.mark.unit


def test_a_map_is_rounded_to_256_values_between_its_smallest_and_its_largest() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 1.26, 3.0], requires_grad=True)
    input_range = Range()
    rounded = input_range(x, True)
    # From -1 to 3 there are 255 steps of 4/255, counted from 0: -63.75, 0, 31.875, 80.325, 191.25.
    torch.testing.assert_close(rounded, torch.tensor([-64, 0, 32, 80, 191]) * 4 / 255)
    rounded.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1, 1]


def test_a_range_follows_slowly_and_then_stays() -> None:
    input_range = Range()
    input_range(torch.tensor([-1.0, 3.0]), True)
    input_range(torch.tensor([-2.0, 7.0]), True)
    low, high = -1 - AVERAGING, 3 + 4 * AVERAGING
    assert (input_range.low.item(), input_range.high.item()) == (pytest.approx(low), pytest.approx(high))
    x = torch.tensor([-9.0, 1.0, 9.0], requires_grad=True)
    rounded = input_range(x, False)
    assert (input_range.low.item(), input_range.high.item()) == (pytest.approx(low), pytest.approx(high))
    step = (high - low) / 255
    assert rounded.tolist() == pytest.approx([low, 1, high], abs=0.51 * step)
    rounded.sum().backward()
    assert x.grad.tolist() == [0, 1, 0]  # what lies outside cannot change the output


def test_each_output_has_a_scale_of_its_own() -> None:
    layer = nn.Conv2d(4, 2, 1)
    weight = torch.tensor([1.27, 0.013, -0.004, 0.636])
    layer.weight.data = torch.stack([weight, -100 * weight]).view(2, 4, 1, 1)
    rounded = round_weight(layer)
    steps = torch.tensor([127.0, 1, 0, 64]) / 100
    torch.testing.assert_close(rounded.view(2, 4), torch.stack([steps, -100 * steps]))
    rounded.sum().backward()
    assert layer.weight.grad.unique().tolist() == [1]
    upwards = nn.ConvTranspose2d(4, 2, 1)
    upwards.weight.data = layer.weight.data.transpose(0, 1).contiguous()
    torch.testing.assert_close(round_weight(upwards), rounded.transpose(0, 1))


def test_an_output_without_weights_stays_nothing() -> None:
    layer = nn.Conv2d(4, 2, 1)
    nn.init.zeros_(layer.weight)
    assert round_weight(layer).abs().max() == 0


def test_weights_and_inputs_are_rounded_together() -> None:
    layer = nn.Conv2d(4, 1, 1, bias=False)
    layer.weight.data = torch.tensor([1.0, 0.3, 0.0, -0.5]).view(1, 4, 1, 1)
    image = torch.tensor([0.0, 1.01, 2.0, 0.7]).view(1, 4, 1, 1)
    # Weights: 127, 38, 0, -64 (63.5 goes to the even one) of 1/127. Inputs: 0, 129, 255, 89 of 2/255.
    expected = (38 * 129 - 64 * 89) / 127 * 2 / 255
    assert FakeQuantized(layer).train()(image).item() == pytest.approx(expected, abs=1e-6)
    assert layer(image).item() == pytest.approx(-0.047)


def test_what_sees_the_image_stays_in_float() -> None:
    names = FakeQuantized(DSUNet(5, 0.1)).names
    assert not [name for name in names if name.startswith("encoder.0.0.")]
    assert {"encoder.0.1.depthwise", "decoder.0.up", "head"} <= set(names)
    assert len(names) == 14 * 3 - 3 + 3 + 1  # blocks but the first, upward convolutions, head


def test_norms_keep_their_statistics_and_dropout_drops() -> None:
    student = DSUNet(3, 0.1)
    norm = cast(nn.BatchNorm2d, student.get_submodule("encoder.1.0.bn"))
    before = cast(Tensor, norm.running_mean).clone()
    network = FakeQuantized(student).train()
    network(torch.randn(2, 3, 16, 16))
    assert torch.equal(cast(Tensor, norm.running_mean), before)
    assert student.bottleneck[1].training
    assert not network.eval().network.training


def test_nothing_stays_on_the_network() -> None:
    torch.manual_seed(0)
    student = DSUNet(3, 0.1).eval()
    image = torch.randn(1, 3, 20, 28)
    before, names = student(image), list(student.state_dict())
    network = FakeQuantized(student)
    rounded = network.train()(image)
    assert (rounded - before).abs().max() > 1e-5
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 5, 8, 8))
    student.eval()
    torch.testing.assert_close(student(image), before, rtol=0, atol=0)
    assert list(student.state_dict()) == names
    assert all(not module._forward_pre_hooks for module in student.modules())


def test_training_reaches_every_weight_and_evaluation_moves_no_range() -> None:
    torch.manual_seed(0)
    student = DSUNet(3, 0.1)
    network = FakeQuantized(student).train()
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    ranges = {name: value.clone() for name, value in network.ranges.state_dict().items()}
    assert all(value.isfinite().all() for value in ranges.values())
    network.eval()(9 * torch.randn(1, 3, 16, 16))
    network.observing = False
    network.train()(9 * torch.randn(1, 3, 16, 16))
    after = network.ranges.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in ranges.items())
    network.observing = True
    network(9 * torch.randn(1, 3, 16, 16))
    assert not torch.equal(ranges["0.high"], network.ranges.state_dict()["0.high"])


def test_a_copy_of_the_network_can_share_the_ranges() -> None:
    student, copied = DSUNet(3, 0.1), DSUNet(3, 0.1)
    copied.load_state_dict(student.state_dict())
    network = FakeQuantized(student).train()
    image = torch.randn(1, 3, 16, 16)
    network(image)
    other = FakeQuantized(copied, network.ranges).eval()
    torch.testing.assert_close(other(image), network.eval()(image), rtol=0, atol=0)


def test_it_computes_in_float32_also_under_autocast() -> None:
    network = FakeQuantized(DSUNet(3, 0.1)).train().eval()
    network.train()(torch.randn(1, 3, 16, 16))
    image = torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network.eval()(image)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, network(image), rtol=0, atol=0)
