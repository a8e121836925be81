"""What a network costs, against numbers worked out by hand."""

import json

import pytest
import torch
from torch import nn

from segdistill.profiling.cost import measure_cost

pytestmark = pytest.mark.unit


class Calls(nn.Module):
    """Notes when it was called, and in which mode."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(self.name)
        return image


class Broken(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("network", "parameters", "flops"),
    [
        (nn.Conv2d(3, 5, 1), 3 * 5 + 5, 2 * 3 * 5 * 8 * 8),  # a multiplication and an addition per weight
        (nn.Conv2d(3, 5, 3, padding=1, bias=False), 3 * 5 * 9, 2 * 3 * 5 * 9 * 8 * 8),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), 3 * 9 + 3, 2 * 3 * 9 * 8 * 8),  # depthwise
        (nn.Conv2d(3, 5, 2, stride=2), 3 * 5 * 4 + 5, 2 * 3 * 5 * 4 * 4 * 4),  # 4 x 4 pixels come out
        (nn.BatchNorm2d(3), 6, 0),  # buffers are no parameters
    ],
)
def test_parameters_and_operations(network: nn.Module, parameters: int, flops: int) -> None:
    [row] = measure_cost({"one": network}, size=8, repeats=1)["networks"]
    assert (row["parameters"], row["flops"]) == (parameters, flops)


def test_the_record_says_what_was_measured_and_is_json() -> None:
    record = measure_cost({"one": nn.Conv2d(3, 5, 1), "two": nn.Conv2d(3, 2, 1)}, size=8, repeats=2)
    assert (record["device"], record["input"]) == ("cpu", [1, 3, 8, 8])
    assert record["threads"] == torch.get_num_threads()
    assert [row["name"] for row in record["networks"]] == ["one", "two"]
    assert all(
        0 < row["latency_low_ms"] <= row["latency_ms"] <= row["latency_high_ms"] for row in record["networks"]
    )
    assert json.loads(json.dumps(record)) == record


def test_networks_take_turns() -> None:
    calls: list[str] = []
    measure_cost({name: Calls(name, calls) for name in "ab"}, size=4, repeats=3)
    # Once each for the operations; then two turns to warm up and three that are timed.
    assert calls == list("ab" * 6)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_are_restored(mode: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)).train(mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_cost({"one": network}, size=4, repeats=1)
    assert network.training is network[1].training is mode
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("mode", [True, False])
def test_modes_are_restored_after_an_error_too(mode: bool) -> None:
    networks = {"good": nn.Conv2d(3, 5, 1).train(mode), "broken": Broken().train(mode)}
    with pytest.raises(RuntimeError, match="broken"):
        measure_cost(networks, size=4, repeats=1)
    assert [network.training for network in networks.values()] == [mode, mode]


def test_latency_is_the_median_between_the_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [[0.005, 0.001, 0.002, 0.003, 0.004]]
    monkeypatch.setattr("segdistill.profiling.cost.in_turns", lambda *_, **__: seconds)
    [row] = measure_cost({"one": nn.Conv2d(3, 5, 1)}, size=8)["networks"]
    assert [row[f"latency_{name}ms"] for name in ("low_", "", "high_")] == pytest.approx([2.0, 3.0, 4.0])
