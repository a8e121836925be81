"""images/s that the loader alone delivers, without training: from files, reduced, and from the decoded cache.

    python benchmarks/loader.py path/to/VOCdevkit/VOC2012
    python benchmarks/loader.py --config configs/voc-animals.yaml  # with its caches, the teacher's too

The variants take turns of some batches each, so that a machine that slows down slows all of them alike; the
table holds the medians of the turns. All crops show as much of the scene: the random scale is meant for the
images' own size, and is enlarged where images are reduced.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from segdistill.build import build_experiment
from segdistill.config.train import AugmentConfig, DataConfig, TrainConfig
from segdistill.config.yaml import load
from segdistill.data.datasets import open_training
from segdistill.data.loaders import training_batches
from segdistill.data.samples import DownscaledSamples, Samples
from segdistill.engine.fill_caches import fill_caches
from segdistill.engine.fill_image_cache import open_image_cache
from segdistill.engine.runtime import make_accelerator

STEPS = 1_000_000


def batches(config: TrainConfig) -> Iterator[object]:
    """The endless batches of a configuration."""
    samples: Samples = DownscaledSamples(open_training(config.data), config.data.long_side)
    if config.data.cache is not None:
        accelerator = make_accelerator("cpu", "fp32")
        samples = open_image_cache(config.data, open_training(config.data), accelerator)
    return iter(training_batches(samples, config, range(STEPS)))


def seconds(stream: Iterator[object], count: int, prefetched: int) -> float:
    """Time of `count` batches, after those that were made while others had their turn."""
    for _ in islice(stream, prefetched):
        pass
    started = time.perf_counter()
    for _ in islice(stream, count):
        pass
    return time.perf_counter() - started


def time_config(path: Path, workers: int, turns: int, count: int) -> None:
    """Print the images/s of the batches of a configuration, its caches filled."""
    config = load(TrainConfig, path)
    config = replace(config, data=replace(config.data, workers=workers))
    experiment = fill_caches(build_experiment(config), make_accelerator("cpu", "fp32"))
    stream = iter(training_batches(experiment.train, config, range(STEPS), cache=experiment.cache))
    speeds = [config.batch * count / seconds(stream, count, 2 * workers) for _ in range(turns)]
    print(f"{statistics.median(speeds):.0f} images/s, crops of {config.size}, {workers} workers")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", nargs="?", help="a VOC devkit")
    parser.add_argument("--config", type=Path, help="a training's settings, instead of all that follows")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=int, default=64, help="side of the crops")
    parser.add_argument("--scale", type=float, nargs=2, default=[0.25, 0.7], help="of the images as they are")
    parser.add_argument("--own-side", type=int, default=320, help="long side of the images as they are")
    parser.add_argument("--long-side", type=int, default=160, help="that they are reduced to")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=30, help="batches of 16 per turn")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.config is not None:
        time_config(options.config, options.workers, options.turns, options.batches)
        return
    with TemporaryDirectory() as folder:
        plain = DataConfig(root=options.root, split=options.split, workers=options.workers)
        reduced = replace(plain, long_side=options.long_side)
        variants = {
            "files": plain,
            "files, reduced": reduced,
            "data.cache": replace(plain, cache=folder),
            "data.cache, reduced": replace(reduced, cache=folder),
        }
        streams = {}
        for name, data in variants.items():
            factor = options.own_side / options.long_side if data.long_side else 1.0
            low, high = (factor * bound for bound in options.scale)
            config = TrainConfig(
                data=data, augment=AugmentConfig(scale=(low, high)), size=options.size, batch=16, steps=STEPS
            )
            streams[name] = batches(config)
        kept = sum(path.stat().st_size for path in Path(folder).rglob("shard-*.bin"))
        turns: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(options.turns):
            for name, stream in streams.items():
                turns[name].append(
                    16 * options.batches / seconds(stream, options.batches, 2 * options.workers)
                )
    table = Table(title=f"{options.workers} workers, crops of {options.size}, reduced to {options.long_side}")
    for column in ("read from", "images/s", "against files"):
        table.add_column(column, justify="left" if column == "read from" else "right")
    for name, speeds in turns.items():
        ratio = statistics.median(a / b for a, b in zip(speeds, turns["files"], strict=True))
        table.add_row(name, f"{statistics.median(speeds):.0f}", f"{ratio:.2f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"Both caches together hold {kept / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
