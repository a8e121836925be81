"""How networks are timed: in turns, without the first passes."""

import pytest
import torch

from segdistill.profiling.timing import count_operations, count_parameters, in_turns, timed

pytestmark = pytest.mark.unit


def test_the_passes_of_several_networks_alternate_and_the_first_do_not_count() -> None:
    calls: list[str] = []

    def timer(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds * len(calls)

    turns: list[int] = []
    seconds = in_turns(
        [lambda: timer("a", 1), lambda: timer("b", 10)], warmup=1, repeats=2,
        advance=lambda: turns.append(len(calls)),
    )  # fmt: skip
    assert calls == list("ababab")
    assert turns == [2, 4, 6]
    assert seconds == [[3, 5], [40, 60]]


def test_a_pass_takes_the_time_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5.0, 7.5])
    monkeypatch.setattr("segdistill.profiling.timing.time.perf_counter", lambda: next(clock))
    assert timed(lambda: None, torch.device("cpu")) == 2.5


def test_parameters_and_operations_of_a_convolution() -> None:
    network = torch.nn.Conv2d(3, 5, 1)
    assert count_parameters(network) == 3 * 5 + 5
    assert count_operations(network, torch.zeros(1, 3, 8, 6)) == 2 * 3 * 5 * 8 * 6
