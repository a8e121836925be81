"""Logits of a strided network at each pixel: as two matrix products, and by F.interpolate and a crop.

    python benchmarks/upsampling.py --threads 1

Milliseconds in PyTorch, measured in turns; the logits have channels last, as convolutions give them.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segdistill.models.grid import upsample_grid
from segdistill.profiling.timing import in_turns, timed

CLASSES, STRIDE = 21, 16
CASES = (
    ("one image, float32, forward", 1, torch.float32, False),
    ("16 images, bfloat16, forward and backward", 16, torch.bfloat16, True),
)
Upsample = Callable[[Tensor, int, tuple[int, int]], Tensor]


def interpolate(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The same values by F.interpolate on the grid's own points, one more than there are, and a crop."""
    rows, columns = (points * stride + 1 for points in logits.shape[2:])
    padded = F.pad(logits, (0, 1, 0, 1), mode="replicate")
    full = F.interpolate(padded, size=(rows, columns), mode="bilinear", align_corners=True)
    return full[:, :, : size[0], : size[1]]


def step(upsample: Upsample, logits: Tensor, backward: bool) -> None:
    """One forward pass to 16 times the sides, and the backward pass of its sum where it is wanted."""
    height, width = (STRIDE * points for points in logits.shape[2:])
    full = upsample(logits, STRIDE, (height, width))
    if backward:
        full.backward(torch.ones_like(full))


def main() -> None:
    """Print both, for one image in float32 and for a batch of 16 in bfloat16."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), help="height and width")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, columns = (side // STRIDE for side in options.size)
    table = Table(
        title=f"{CLASSES} classes, {options.size[0]}x{options.size[1]}, {options.threads} threads; ms"
    )
    for column in ("", "F.interpolate and crop", "matrix products", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, batch, dtype, backward in CASES:
        logits = torch.randn(batch, CLASSES, rows, columns, dtype=dtype)
        logits = logits.contiguous(memory_format=torch.channels_last).requires_grad_(backward)
        timers = [
            partial(timed, partial(step, upsample, logits, backward), torch.device("cpu"))
            for upsample in (interpolate, upsample_grid)
        ]
        taken = in_turns(timers, warmup=2, repeats=options.repeats)
        before, after = (1000 * statistics.median(each) for each in taken)
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{before / after:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
