"""A training step on a CPU of a student with a pretrained encoder, and what makes it cheaper, in turns.

    python benchmarks/encoders.py timm:tf_efficientnet_lite0 --decoder deeplab --size 192 --threads 1

`PyTorch's` is its own backward pass of depthwise convolutions, `ours` that of segdistill.models.depthwise.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import segdistill
from segdistill.config.architecture import Architecture
from segdistill.models.depthwise import speed_up_depthwise
from segdistill.models.zoo import build_model

CLASSES = 21
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "float32, PyTorch's": (),
    "float32, ours": ("ours",),
    "bfloat16, PyTorch's": ("half",),
    "bfloat16, ours": ("half", "ours"),
    "bfloat16, ours, batch norms as in use (student.norm_eval)": ("half", "ours", "norm_eval"),
    "bfloat16, ours, encoder frozen (student.freeze)": ("half", "ours", "freeze"),
    "the same, features given: the most that a cache of them could save": ("half", "ours", "freeze", "given"),
}


class Given(nn.Module):
    """Gives the same feature maps for every image."""

    def __init__(self, features: list[torch.Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.features


def training_step(
    architecture: Architecture, options: argparse.Namespace, parts: tuple[str, ...]
) -> Callable[[], None]:
    """One step of AdamW on random images and masks."""
    torch.manual_seed(0)
    network = build_model(architecture, CLASSES).train().to(memory_format=torch.channels_last)
    if "ours" in parts:
        speed_up_depthwise(network)
    for name, module in network.named_modules():
        frozen = "freeze" in parts and name.startswith("encoder")
        if isinstance(module, nn.BatchNorm2d) and ("norm_eval" in parts or frozen):
            module.eval()
        if frozen:
            module.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-3)
    shape = options.batch, options.size, options.size
    images = torch.randn(shape[0], 3, *shape[1:]).contiguous(memory_format=torch.channels_last)
    masks = torch.randint(0, CLASSES, shape)
    if "given" in parts:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            network.encoder = Given(network.encoder(images))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="half" in parts):
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
    parser.add_argument("--size", type=int, default=192, help="side of the crops")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segdistill.keep_freed_memory()  # as every training on a CPU does
    architecture = Architecture(spec=options.spec, decoder=options.decoder)
    steps = {name: training_step(architecture, options, parts) for name, parts in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.turns + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:  # the first one is not timed
                seconds[name].append(time.perf_counter() - started)
    title = f"{options.spec}, {options.batch} crops of {options.size}, {options.threads} thread(s)"
    table = Table(title=title)
    for column in ("step", "images/s", "ratio"):
        table.add_column(column, justify="left" if column == "step" else "right")
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True))
        table.add_row(name, f"{options.batch / statistics.median(times):.1f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
