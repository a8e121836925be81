"""Training steps and loader batches per second, before and after a change, interleaved.

    python benchmarks/speed.py path/to/voc-animals --before path/to/another/checkout

Each checkout, in a process of its own, trains the reference student for some steps of 8 crops of 128 pixels
without a teacher, and draws crops of 64 pixels with two loader processes; the table holds the medians of the
turns. The weights after the training must be the same in both.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkouts import HERE, Checkout, answer_requests
from rich.console import Console
from rich.table import Table


def measure(root: str, out: str, steps: int, batches: int) -> dict[str, Any]:
    """Images per second of a training and of its loader, and the hash of the weights that it ends with."""
    import segdistill
    from segdistill.data.datasets import open_training
    from segdistill.data.loaders import training_batches

    base = segdistill.TrainConfig()
    config = replace(
        base,
        data=replace(base.data, root=root),
        size=128,
        steps=steps,
        evaluate_every=10 * steps,
        evaluate_size=64,
        log_every=steps,
        device="cpu",
        trackers=[],
        out=out,
    )
    started = time.perf_counter()
    run = Path(segdistill.train(config, overwrite=True))
    total = time.perf_counter() - started
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    speed = next(line["images_per_second"] for line in lines if "images_per_second" in line)
    small = replace(config, size=64, batch=32)
    loader = iter(training_batches(open_training(small.data), small, range(batches + 4)))
    for _ in range(4):
        next(loader)
    started = time.perf_counter()
    drawn = sum(len(next(loader).id) for _ in range(batches))
    return {
        "train": speed,
        "loader": drawn / (time.perf_counter() - started),
        "command": 1 / total,
        "weights": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()[:16],
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="a data set")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare this one with")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = {}
        for form, root in {"before": options.before, "after": HERE}.items():
            processes[form] = Checkout(root, __file__)
            stack.callback(processes[form].close)
        for turn in range(options.turns + 1):
            for form, process in processes.items():
                result = process.ask(
                    root=str(options.root.resolve()),
                    out=str(Path(folder) / form),
                    steps=options.steps,
                    batches=options.batches,
                )
                if turn:
                    found[form].append(result)
    table = Table(title=f"{options.turns} turns, medians")
    for column in ("", "training images/s", "loader images/s", "seconds per command", "weights"):
        table.add_column(column, justify="right" if column else "left")
    for form, results in found.items():
        medians = {key: statistics.median(r[key] for r in results) for key in ("train", "loader", "command")}
        table.add_row(
            form,
            f"{medians['train']:.2f}",
            f"{medians['loader']:.0f}",
            f"{1 / medians['command']:.1f}",
            ", ".join(sorted({r["weights"] for r in results})),
        )
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer_requests(measure)
    else:
        main()
