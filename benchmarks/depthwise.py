"""A training step on a CPU with PyTorch's backward pass of depthwise convolutions and with ours, in turns.

python benchmarks/depthwise.py timm:tf_efficientnet_lite0 --decoder deeplab --size 192 --threads 1
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from segdistill.config.architecture import Architecture
from segdistill.models.depthwise import speed_up_depthwise
from segdistill.models.zoo import build_model

CLASSES = 21


def training_step(
    architecture: Architecture, options: argparse.Namespace, fast: bool, half: bool
) -> Callable[[], None]:
    """One step of AdamW on random images and masks."""
    torch.manual_seed(0)
    network = build_model(architecture, CLASSES).train().to(memory_format=torch.channels_last)
    if fast:
        speed_up_depthwise(network)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images = torch.randn(options.batch, 3, options.size, options.size).contiguous(
        memory_format=torch.channels_last
    )
    masks = torch.randint(0, CLASSES, (options.batch, options.size, options.size))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(images)
        F.cross_entropy(logits.float(), masks).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", help="a network of the zoo")
    parser.add_argument("--decoder")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    architecture = Architecture(spec=options.spec, decoder=options.decoder)
    steps = {
        (precision, backward): training_step(architecture, options, backward == "ours", precision == "bf16")
        for precision in ("fp32", "bf16")
        for backward in ("PyTorch's", "ours")
    }
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    for turn in range(options.turns + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:  # the first one is not timed
                seconds[name].append(time.perf_counter() - started)
    table = Table(
        title=f"{options.spec}, {options.batch} crops of {options.size}, {options.threads} thread(s)"
    )
    for column in ("precision", "backward", "images/s", "ratio"):
        table.add_column(column)
    first = seconds["fp32", "PyTorch's"]
    for (precision, backward), times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True))
        table.add_row(precision, backward, f"{options.batch / statistics.median(times):.1f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
