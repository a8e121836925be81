"""What networks cost: parameters, floating-point operations and latency, measured in this process."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from segdistill.profiling.timing import count_operations, count_parameters, in_turns, timed

WARMUP = 2
"""Passes of each network before those that count."""


def measure_cost(
    networks: Mapping[str, nn.Module], *, size: int, device: torch.device | None = None, repeats: int = 10
) -> dict[str, Any]:
    """Measure networks side by side on one image of `size` x `size` pixels, in float32 and eager mode.

    Args:
        networks: by name; each goes to `device` in eval mode, and its mode is restored.
        size: side of the image in pixels.
        device: where to measure; None for the CPU.
        repeats: timed passes of each, in turns.

    Returns:
        `device`, `threads`, `input` and, per network, `parameters`, `flops` (a multiplication and an
        addition are two), the median `latency_ms`, and the quartiles `latency_low_ms` and `latency_high_ms`,
        between which the middle half of the passes lies.
    """
    device = device or torch.device("cpu")
    image = torch.rand(1, 3, size, size, device=device)
    modes = {name: network.training for name, network in networks.items()}
    try:
        for network in networks.values():
            network.to(device).eval()
        operations = [count_operations(network, image) for network in networks.values()]
        with torch.inference_mode():
            timers = [partial(timed, partial(network, image), device) for network in networks.values()]
            seconds = in_turns(timers, warmup=WARMUP, repeats=repeats)
    finally:
        for name, network in networks.items():
            network.train(modes[name])
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "input": list(image.shape),
        "networks": [
            {
                "name": name,
                "parameters": count_parameters(network),
                "flops": operations[i],
                **_latency(seconds[i]),
            }
            for i, (name, network) in enumerate(networks.items())
        ],
    }


def _latency(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the passes, in milliseconds."""
    low, median, high = (1000 * float(value) for value in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return {"latency_ms": median, "latency_low_ms": low, "latency_high_ms": high}
