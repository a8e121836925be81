"""Latency and memory of networks and exported files side by side, each in a process of its own.

N: images, H, W: rows and columns, K: classes.
"""

import copy
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segdistill.config.deploy import BenchmarkConfig
from segdistill.config.naming import setting
from segdistill.engine.runtime import keep_freed_memory
from segdistill.models.card import WEIGHTS, is_run
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS, format_of
from segdistill.models.fused import fuse
from segdistill.models.hub_runs import find_run
from segdistill.models.trained import DTYPES, load_network
from segdistill.models.zoo import build_model
from segdistill.profiling.memory import peak_memory, resident_memory
from segdistill.profiling.process import WorkerProcess
from segdistill.profiling.timing import count_operations, count_parameters, in_turns, timed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the table.

    Attributes:
        target: run folder, exported file, or a name of the zoo.
        form: eager, kept, fused or compiled; the runtime's name for a file.
        precision: fp32 or bf16.
    """

    target: str
    form: str
    precision: str


def entries(targets: list[str], config: BenchmarkConfig) -> list[Entry]:
    """What is measured: of PyTorch's targets every form in every precision, of files what they can do.

    The form `eager` hands freed memory back, as PyTorch does by itself, and `kept` does not; `compiled` is
    rewritten first where that is possible, and `fused` is for dsunet only.
    """
    found = []
    for target in targets:
        file = format_of(target)
        if file is not None:
            possible = [p for p in config.precisions if p in file.precisions] or ["fp32"]
            found += [Entry(target=target, form=file.name, precision=precision) for precision in possible]
            continue
        for name in config.forms:
            found += [Entry(target=target, form=name, precision=precision) for precision in config.precisions]
    return found


class Measured:
    """A network in the process that measures it.

    Args:
        entry: what to run.
        config: input, threads, device.
    """

    def __init__(self, entry: Entry, config: BenchmarkConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        # eager is what PyTorch does by itself; of files, their own runtime decides about their memory.
        if entry.form in {"kept", "fused", "compiled"} and config.device == "cpu":
            keep_freed_memory()
        self.form, self.device = entry.form, torch.device(config.device)
        if entry.form in FORMATS:
            FORMATS[entry.form].import_runtime()
        self.before = resident_memory()
        image = torch.randn(config.batch, 3, *config.height_width, generator=torch.Generator().manual_seed(0))
        self.network: nn.Module | None = None
        if entry.form in FORMATS:
            self.run = _file_pass(entry, config, image)
        else:
            self.network = _open_network(entry.target, config.classes)
            self.run = _torch_pass(self.network, entry, image, self.device)

    @torch.inference_mode()
    def seconds(self) -> float:
        """Time of one pass, waiting for the device before and after.

        A pass that is not timed goes before it: what other processes did in their turns has emptied the
        caches, and put threads to sleep.
        """
        self.run()
        return timed(self.run, self.device)

    def cost(self, size: tuple[int, int]) -> dict[str, int | None]:
        """Parameters, and operations for one image of `size` (height, width); None of a file."""
        if self.network is None:
            return {"parameters": None, "flops": None}
        flops = count_operations(self.network, torch.zeros(1, 3, *size))
        return {"parameters": count_parameters(self.network), "flops": flops}

    def memory(self) -> dict[str, int | None]:
        """Peak memory of the process, and what of it the network and its passes added, in bytes.

        None where the system does not tell.
        """
        if self.device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated()
            return {"peak_bytes": peak, "added_bytes": peak}
        peak = peak_memory()
        added = None if peak is None or self.before is None else max(0, peak - self.before)
        return {"peak_bytes": peak, "added_bytes": added}

    def threads(self) -> int | None:
        """Threads that the network runs on; None where its runtime cannot be told."""
        told = self.form not in FORMATS or FORMATS[self.form].threads
        return torch.get_num_threads() if told else None


def measure(
    targets: list[str], config: BenchmarkConfig, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Measure targets in turns, each in a process of its own.

    Args:
        targets: run folders, exported files, names of the zoo (with random weights where they have none).
        config: forms, precisions, input, repeats.
        advance: called after each round.

    Returns:
        `device`, `input`, `repeats` and, in the order of the targets, `entries` with `parameters`, `flops`,
        `file_bytes`, `median_ms`, `p95_ms`, `images_per_second`, `peak_bytes`, `added_bytes`, `threads` and
        `ratio`: how many times faster than the first.

    Raises:
        ValueError: a target cannot be run in that way.
    """
    listed = entries(targets, config)
    if not listed:
        raise ValueError("nothing to measure: name a run folder, a file or a network")
    if config.provider is not None and not any(_takes_provider(entry) for entry in listed):
        raise ValueError(f"{setting('provider')} is for .onnx files, and no target is one: leave it out")
    with ExitStack() as stack:
        processes = [stack.enter_context(WorkerProcess(Measured, entry, config)) for entry in listed]
        records = [process.call("cost", config.height_width) for process in processes]
        timers = [partial(process.call, "seconds") for process in processes]
        seconds = in_turns(timers, warmup=config.warmup, repeats=config.repeats, advance=advance)
        for record, process in zip(records, processes, strict=True):
            record |= process.call("memory") | {"threads": process.call("threads")}
    first = statistics.median(seconds[0])
    return {
        "device": config.device,
        "input": [config.batch, 3, *config.height_width],
        "repeats": config.repeats,
        "entries": [
            vars(entry)
            | {"file_bytes": file_bytes(entry.target)}
            | record
            | _speed(times, config.batch, first)
            for entry, record, times in zip(listed, records, seconds, strict=True)
        ],
    }


def _takes_provider(entry: Entry) -> bool:
    """Whether it is an .onnx file, which onnxruntime runs on a provider."""
    return entry.form in FORMATS and FORMATS[entry.form].providers


def _speed(seconds: Sequence[float], batch: int, first: float) -> dict[str, float]:
    """What an entry's passes say of its speed; `first`: median seconds of the first entry."""
    median = statistics.median(seconds)
    return {
        "median_ms": 1000 * median,
        "p95_ms": 1000 * float(np.quantile(seconds, 0.95)),
        "images_per_second": batch / median,
        "ratio": first / median,
    }


def file_bytes(target: str) -> int | None:
    """Bytes of an exported file (an OpenVINO model's two), or of a run's weights; None for other networks."""
    path, file, run = Path(target), format_of(target), find_run(target)
    if file is not None:
        return sum(each.stat().st_size for each in file.files(path) if each == path or each.is_file())
    return (run / WEIGHTS).stat().st_size if run is not None else None


def _open_network(target: str, classes: int) -> nn.Module:
    """A run's network, or one of the zoo with random weights."""
    if is_run(target):
        return load_network(target).module
    torch.manual_seed(0)
    return build_model(target, classes).eval()


def _torch_pass(network: nn.Module, entry: Entry, image: Tensor, device: torch.device) -> Callable[[], Any]:
    """One pass in PyTorch, from a float32 NCHW image to float32 logits on the device."""
    dtype = DTYPES[entry.precision]
    # What one writes by hand is float32 in PyTorch's own layout; the other forms take the faster one.
    layout = (
        torch.contiguous_format if entry.form == "eager" and dtype == torch.float32 else torch.channels_last
    )
    ready = network
    if entry.form in {"fused", "compiled"}:
        try:
            ready = fuse(network, compile=entry.form == "compiled")
        except ValueError:
            if entry.form == "fused":
                raise ValueError(f"{entry.target} has no fused form: only dsunet is rewritten") from None
            ready = copy.deepcopy(network)
            ready.compile(options={"freezing": True})
    elif dtype != torch.float32 or device.type != "cpu":
        ready = copy.deepcopy(network)
    ready = ready.to(device, dtype).to(memory_format=layout)
    given = image.to(device)
    return lambda: ready(given.to(dtype).contiguous(memory_format=layout)).float()


def _file_pass(entry: Entry, config: BenchmarkConfig, image: Tensor) -> Callable[[], Any]:
    """One pass of an exported file, in the form that it takes images in."""
    provider = config.provider if _takes_provider(entry) else None
    network = ExportedNetwork(
        Path(entry.target), threads=config.threads or None, precision=entry.precision, provider=provider
    )
    given = network.to_pixels(image) if network.card.input == "image" else image
    values = given.contiguous().numpy()
    return lambda: network.run(values)
