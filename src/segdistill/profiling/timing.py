"""How a network is timed and counted, wherever that is done: its passes, parameters and operations."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one pass, waiting for the device before and after."""
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Return once the device has done what was given to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    timers: Sequence[Callable[[], float]],
    *,
    warmup: int,
    repeats: int,
    advance: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Time several networks in turns, so that a machine that slows down slows all of them alike.

    Args:
        timers: each makes one pass of its network and returns its seconds.
        warmup: passes of each whose time is dropped.
        repeats: passes of each whose time is returned.
        advance: called after each turn.
    """
    seconds: list[list[float]] = [[] for _ in timers]
    for turn in range(warmup + repeats):
        for timer, times in zip(timers, seconds, strict=True):
            taken = timer()
            if turn >= warmup:
                times.append(taken)
        advance()
    return seconds


def count_parameters(network: nn.Module) -> int:
    """Numbers that training changes; buffers are none."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def count_operations(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of one pass: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()
