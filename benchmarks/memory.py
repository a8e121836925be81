"""Memory of the loader's processes for a short and for a long list: it must not grow with the list.

    python benchmarks/memory.py

The lists name the same few drawn images over and over; `private` is what each process holds for itself alone
(copied pages), after some thousand samples, where Python objects would have been touched and copied.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from segdistill.config.train import DataConfig, TrainConfig
from segdistill.data.datasets import open_dataset
from segdistill.data.loaders import training_batches
from segdistill.data.samples import FileSamples
from segdistill.data.shapes import write_shapes


def private_megabytes(process: int) -> float:
    """Memory that a process shares with no other (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    fields = {line.split()[0]: float(line.split()[1]) for line in lines[1:]}
    return (fields["Private_Dirty:"] + fields["Private_Clean:"]) / 1024


def children() -> list[int]:
    """The processes that this one has started."""
    return [int(pid) for pid in Path("/proc/self/task").glob("*/children") for pid in pid.read_text().split()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=600, help="batches of 16 to read")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="private memory of one loader process, MB")
    for column in ("entries", "at the start", "in the middle", "at the end"):
        table.add_column(column, justify="right")
    with TemporaryDirectory() as folder:
        write_shapes(Path(folder), train=50, val=1, size=48)
        drawn = open_dataset(folder, "train")
        assert drawn.masks is not None
        for length in options.lengths:
            images, masks = (
                [Path(paths[i % 50]) for i in range(length)] for paths in (drawn.images, drawn.masks)
            )
            listed = FileSamples(drawn.labels, [f"image-{i:09d}" for i in range(length)], images, masks)
            del images, masks
            config = TrainConfig(data=DataConfig(workers=1), size=32, batch=16, steps=options.steps)
            megabytes = []
            for step, _ in enumerate(training_batches(listed, config, range(options.steps))):
                if step in {20, options.steps // 2, options.steps - 1}:
                    alive = [private_megabytes(child) for child in children()]
                    megabytes.append(f"{max(alive):.0f}" if alive else "ended")
            table.add_row(f"{length:,}", *megabytes)
    Console().print(table)


if __name__ == "__main__":
    main()
