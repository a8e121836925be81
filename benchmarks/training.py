"""images/s of the product's training step against the hand-written loop, interleaved; and where a step goes.

    python benchmarks/training.py path/to/VOCdevkit/VOC2012 --cache runs/benchmark-cache

The variants are run in turns, a few steps each, so that a machine that slows down slows all of them alike,
and each in a process of its own, since the product's keeps the memory that it frees; the table holds the
medians of the turns. `--agree 50` compares the losses of both loops on the same batches.
"""

import argparse
import ctypes
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from own_process import OwnProcess
from reference import make_teacher
from reference import steps as reference_steps
from rich.console import Console
from rich.table import Table

from segdistill.build import build_experiment
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    RuntimeConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.data.datasets import open_dataset
from segdistill.data.labels import VOC
from segdistill.data.sampler import CropSampler, Pool, crop_size_at
from segdistill.data.samples import FileSamples
from segdistill.engine.fill_caches import fill_caches
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import (
    M_MMAP_MAX,
    M_TRIM_THRESHOLD,
    keep_freed_memory,
    keep_freed_memory_on,
    make_accelerator,
)
from segdistill.engine.trainer import Trainer, device_batches
from segdistill.models.student import DSUNet
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork
from segdistill.models.zoo import TorchvisionNetwork

console = Console()
MANY = 10_000
M_MMAP_THRESHOLD = -3


class Product:
    """The product's own training, one optimizer step at a time."""

    def __init__(self, config: TrainConfig, images: int) -> None:
        accelerator = make_accelerator(config.device, config.runtime.precision)
        keep_freed_memory_on(accelerator.device)
        experiment = build_experiment(replace(config, teacher=TeacherConfig()))
        samples = first_images(config, images)
        experiment = replace(experiment, config=config, files=samples, train=samples)
        if config.teacher.specs:
            network = TorchvisionNetwork("fcn_resnet50", len(VOC))
            network.inner = make_teacher()
            teacher = Teacher(TrainedNetwork(network, VOC, "fcn_resnet50"), VOC)
            experiment = fill_caches(replace(experiment, teacher=teacher), accelerator)
        self.trainer = Trainer(experiment, accelerator, RunFolder("runs"))
        self.batches = device_batches(experiment, accelerator, range(MANY))
        self.step = 0

    def run(self, steps: int) -> list[float]:
        """Take some steps; returns their losses."""
        losses = []
        for _ in range(steps):
            self.trainer.optimizer_step(self.step, self.batches)
            self.step += 1
            losses.append(self.trainer.monitor.means()["loss"])
        return losses

    def graphs(self) -> str:
        """What `torch.compile` made of the student; more than one graph means a break or a recompilation."""
        counters = torch._dynamo.utils.counters
        return f"{counters['stats']['unique_graphs']} graph, {sum(counters['graph_break'].values())} breaks"


class Reference:
    """The hand-written loop, one optimiser step at a time."""

    def __init__(self, config: TrainConfig, images: int, keep_memory: bool = False) -> None:
        if keep_memory:
            keep_freed_memory()
        set_seed(0)
        devkit = Path(config.data.root)
        pool = Pool(range(images), config.batch)
        order = islice(
            CropSampler([pool], range(MANY), 0, partial(crop_size_at, config, total=MANY)), MANY // 10
        )
        device = "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"
        self.loop = reference_steps(
            devkit, DSUNet(len(VOC)).to(device), make_teacher().to(device), size=config.size,
            batch=config.batch, order=[[index for _, index, _ in batch] for batch in order], device=device,
        )  # fmt: skip

    def run(self, steps: int) -> list[float]:
        """Take some steps; returns their losses."""
        return list(islice(self.loop, steps))


def first_images(config: TrainConfig, images: int) -> FileSamples:
    """The first images of the training split: few enough for a slow teacher in a benchmark."""
    whole = open_dataset(config.data.root, "train")
    return whole.subset(np.arange(len(whole)) < images)


def base_config(options: argparse.Namespace) -> TrainConfig:
    """The reference recipe, as the hand-written loop has it."""
    return TrainConfig(
        data=DataConfig(root=str(options.devkit), workers=options.workers),
        augment=AugmentConfig(stretch=True, flip=0.0, jitter=0.0),
        teacher=TeacherConfig(spec="fcn_resnet50"),
        objective=ObjectiveConfig(alpha=0.7, beta=0.3, temperature=2.0),
        optim=OptimConfig(name="adam", lr=1e-4, weight_decay=0.0, schedule="constant"),
        runtime=RuntimeConfig(precision="fp32", channels_last=False),
        size=options.size,
        batch=options.batch,
        steps=MANY,
        device=options.device,
    )


def variants(base: TrainConfig, cache: Path) -> dict[str, TrainConfig]:
    """What is measured, each line adding one thing to the one above."""
    cached = replace(base.teacher, cache=str(cache))
    fast = RuntimeConfig(precision="auto", channels_last=True)
    return {
        "product, float32, NCHW, live teacher": base,
        "+ channels_last, bf16": replace(base, runtime=fast),
        "+ cached teacher": replace(base, runtime=fast, teacher=cached),
        "+ compile": replace(base, runtime=replace(fast, compile=True), teacher=cached),
        "supervised, channels_last, bf16": replace(base, runtime=fast, teacher=TeacherConfig()),
    }


def compare(options: argparse.Namespace) -> None:
    """The table of images/s."""
    base = base_config(options)
    loops = {
        "reference.py": OwnProcess(Reference, base, options.images),
        "reference.py, freed memory kept": OwnProcess(Reference, base, options.images, True),
    }
    for name, config in variants(base, options.cache).items():
        loops[name] = OwnProcess(Product, config, options.images)
    seconds = defaultdict(list)
    for turn in range(options.turns + 1):
        for name, loop in loops.items():
            steps = 1 if name.startswith("reference.py") else options.steps
            loop.call("run", 1)  # warms up
            started = time.perf_counter()
            loop.call("run", steps)
            if turn:  # the first turn compiles
                seconds[name].append((time.perf_counter() - started) / steps)
            loop.release_memory()
    table = Table(title=f"batch {options.batch} at {options.size} x {options.size}, {options.turns} turns")
    for column in ("", "s per step", "images/s", "against reference.py"):
        table.add_column(column, justify="left" if not column else "right")
    yardstick = statistics.median(seconds["reference.py"])
    for name in loops:
        median = statistics.median(seconds[name])
        row = (f"{median:.3f}", f"{options.batch / median:.2f}", f"{yardstick / median:.2f}")
        table.add_row(name, *row)
    console.print(table)
    console.print(f"compiled in {loops['+ compile'].call('graphs')}")


def agree(options: argparse.Namespace) -> None:
    """Losses of the hand-written loop and of the fast product on the same batches from the same weights."""
    base = base_config(options)
    fast = list(variants(base, options.cache).values())[2]
    ours = OwnProcess(Product, fast, options.images).call("run", options.agree)
    theirs = OwnProcess(Reference, base, options.images).call("run", options.agree)
    last = slice(-10, None)
    ratio = np.mean(ours[last]) / np.mean(theirs[last])
    for step in range(0, options.agree, 10):
        console.print(f"step {step:3}: product {ours[step]:.4f}, reference.py {theirs[step]:.4f}")
    console.print(f"mean of the last 10 of {options.agree} steps: product / reference.py = {ratio:.4f}")


@contextmanager
def timed(into: dict[str, list[float]], name: str) -> Iterator[None]:
    """Add the seconds of a block to a list."""
    started = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    into[name].append(time.perf_counter() - started)


def hand_back_freed_memory() -> None:
    """Undo `keep_freed_memory`: set what glibc's own thresholds grow to where feature maps are freed."""
    libc = ctypes.CDLL(None)
    for parameter, value in {
        M_MMAP_MAX: 65536,
        M_MMAP_THRESHOLD: 32 << 20,
        M_TRIM_THRESHOLD: 64 << 20,
    }.items():
        libc.mallopt(parameter, value)


def profile(options: argparse.Namespace) -> None:
    """Where the time of a step goes, before (float32, NCHW, live teacher, memory handed back) and after."""
    base = base_config(options)
    after = list(variants(base, options.cache).values())[2]
    table = Table(title=f"ms per step of {options.batch} at {options.size} x {options.size} (medians)")
    table.add_column("")
    columns = {}
    for title, config in {"before": base, "after": after}.items():
        product = Product(config, options.images)
        state, accelerator = product.trainer.state, product.trainer.accelerator
        teacher = product.trainer.experiment.teacher
        if config is base:
            hand_back_freed_memory()
        parts: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.steps + 2):
            with timed(parts, "waiting for data"):
                batch = next(product.batches)
            with timed(parts, "teacher"), torch.no_grad(), accelerator.autocast():
                if batch.teacher_logits is None and teacher is not None:
                    batch = replace(batch, teacher_logits=teacher(batch.image))
            with timed(parts, "student forward"), accelerator.autocast():
                outputs = state.forward(state.wrapped, batch)
            with timed(parts, "losses"):
                loss = state.objective(batch, outputs)["loss"]
            with timed(parts, "backward"):
                loss.backward()
            with timed(parts, "optimizer"):
                state.optimizer.step()
                state.optimizer.zero_grad(set_to_none=True)
        columns[title] = {name: 1000 * statistics.median(values[2:]) for name, values in parts.items()}
        table.add_column(title, justify="right")
    for name in columns["before"]:
        table.add_row(name, *(f"{columns[title][name]:.1f}" for title in columns))
    console.print(table)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("devkit", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the cached logits")
    parser.add_argument("--images", type=int, default=64, help="training images")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps of the product per turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--agree", type=int, default=0, help="steps to compare the losses of")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    if options.agree:
        agree(options)
    elif options.profile:
        profile(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
