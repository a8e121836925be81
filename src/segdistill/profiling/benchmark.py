"""Latency and memory of networks and exported files side by side, each in a process of its own.

N: images, H, W: rows and columns, K: classes.
"""

import copy
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segdistill.config.deploy import BenchmarkConfig
from segdistill.engine.runtime import keep_freed_memory
from segdistill.models.card import WEIGHTS, is_run
from segdistill.models.exported import FORMATS, ExportedNetwork, format_of
from segdistill.models.fused import fuse
from segdistill.models.trained import DTYPES, load_network
from segdistill.models.zoo import build_model
from segdistill.profiling.process import WorkerProcess


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

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.target}, {self.form}, {self.precision}"


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
        self.device = torch.device(config.device)
        if entry.form in FORMATS:
            FORMATS[entry.form].import_runtime()
        self.before = _resident()
        image = torch.randn(config.batch, 3, *config.size, generator=torch.Generator().manual_seed(0))
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
        self._wait()
        started = time.perf_counter()
        self.run()
        self._wait()
        return time.perf_counter() - started

    @torch.inference_mode()
    def cost(self, size: tuple[int, int]) -> dict[str, Any]:
        """Parameters, and operations for one image (a multiplication and an addition are two)."""
        if self.network is None:
            return {"parameters": None, "flops": None}
        plain = self.network
        with FlopCounterMode(display=False) as counter:
            plain(torch.zeros(1, 3, *size))
        parameters = sum(p.numel() for p in plain.parameters())
        return {"parameters": parameters, "flops": counter.get_total_flops()}

    def memory(self) -> dict[str, int]:
        """Peak memory of the process, and what of it the network and its passes added, in bytes."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
            return {"peak_bytes": peak, "added_bytes": peak}
        peak = peak_memory()
        return {"peak_bytes": peak, "added_bytes": max(0, peak - self.before)}

    def threads(self) -> int:
        """Threads that PyTorch uses here, and the runtimes that can be told."""
        return torch.get_num_threads()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(
    targets: list[str], config: BenchmarkConfig, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Measure targets in turns, so that a machine that slows down slows all of them alike.

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
    with ExitStack() as stack:
        processes = [stack.enter_context(WorkerProcess(Measured, entry, config)) for entry in listed]
        costs = [process.call("cost", config.size) for process in processes]
        times: list[list[float]] = [[] for _ in processes]
        for turn in range(config.warmup + config.repeats):
            for process, taken in zip(processes, times, strict=True):
                seconds = process.call("seconds")
                if turn >= config.warmup:
                    taken.append(seconds)
            advance()
        memory = [process.call("memory") for process in processes]
        threads = [process.call("threads") for process in processes]
    medians = [statistics.median(taken) for taken in times]
    return {
        "device": config.device,
        "input": [config.batch, 3, *config.size],
        "repeats": config.repeats,
        "entries": [
            {
                "target": entry.target,
                "form": entry.form,
                "precision": entry.precision,
                **costs[i],
                "file_bytes": file_bytes(entry.target),
                "median_ms": 1000 * medians[i],
                "p95_ms": 1000 * float(np.quantile(times[i], 0.95)),
                "images_per_second": config.batch / medians[i],
                **memory[i],
                "threads": threads[i] if entry.form not in FORMATS or FORMATS[entry.form].threads else None,
                "ratio": medians[0] / medians[i],
            }
            for i, entry in enumerate(listed)
        ],
    }


def file_bytes(target: str) -> int | None:
    """Bytes of an exported file (an OpenVINO model's two), or of a run's weights; None for other networks."""
    path, file = Path(target), format_of(target)
    if file is not None:
        return sum(each.stat().st_size for each in file.files(path) if each == path or each.is_file())
    return (path / WEIGHTS).stat().st_size if is_run(target) else None


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
    network = ExportedNetwork(Path(entry.target), threads=config.threads or None, precision=entry.precision)
    given = network.to_pixels(image) if network.card.input == "image" else image
    values = given.contiguous().numpy()
    return lambda: network.run(values)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    Where there is /proc it is read there: `getrusage` starts a process with the peak of the one that made it.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _resident() -> int:
    """Resident memory of this process now, in bytes; where the system does not say, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")
