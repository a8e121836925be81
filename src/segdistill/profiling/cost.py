"""What a network costs: parameters, floating-point operations and latency."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def measure_cost(
    networks: Mapping[str, nn.Module], *, size: int, device: torch.device | None = None, repeats: int = 10
) -> dict[str, Any]:
    """Measure networks side by side on one image of `size` x `size` pixels, in float32 and eager mode.

    The networks take turns, so that a machine that slows down slows all of them alike.

    Args:
        networks: by name; each goes to `device` in eval mode, and its mode is restored.
        size: side of the image in pixels.
        device: where to measure; None for the CPU.
        repeats: timed passes of each, after two to warm up.

    Returns:
        `device`, `threads`, `input` and, per network, `parameters`, `flops` (a multiplication and an
        addition are two) and the median `latency_ms`.
    """
    device = device or torch.device("cpu")
    image = torch.rand(1, 3, size, size, device=device)
    modes = {name: network.training for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    flops = {}
    try:
        with torch.inference_mode():
            for name, network in networks.items():
                network.to(device).eval()
                with FlopCounterMode(display=False) as counter:
                    network(image)
                flops[name] = counter.get_total_flops()
            for turn in range(repeats + 2):
                for name, network in networks.items():
                    seconds = _timed(network, image)
                    if turn >= 2:
                        times[name].append(seconds)
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
                "parameters": sum(p.numel() for p in network.parameters()),
                "flops": flops[name],
                "latency_ms": 1000 * statistics.median(times[name]),
            }
            for name, network in networks.items()
        ],
    }


def _timed(network: nn.Module, image: torch.Tensor) -> float:
    """Seconds of one pass, waiting for the device before and after."""
    _wait_for(image.device)
    start = time.perf_counter()
    network(image)
    _wait_for(image.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
