"""Device, precision, seeds, stop signals and the record of the environment, on top of accelerate."""

import ctypes
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration, broadcast_object_list

from segdistill.config.naming import setting
from segdistill.config.train import Precision
from segdistill.config.values import did_you_mean

Value = TypeVar("Value")

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

ECHO = 0.5
"""Seconds within which a second signal is the first one once more."""
PACKAGES = ("segdistill", "torch", "torchvision", "accelerate", "numpy", "pillow")


def find_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda or mps) stands for; nothing is changed or initialized.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and name not in there:
        raise ValueError(f"device is {name!r}, but must be auto, cpu, cuda or mps")
    if name != "auto" and not there[name]:
        raise ValueError(
            f"device is {name}, but this machine has none; {setting('device')} auto takes what there is"
        )
    return torch.device(next(kind for kind, found in there.items() if found) if name == "auto" else name)


def make_accelerator(
    device: str = "auto",
    precision: Precision = "auto",
    *,
    trackers: list[str] | None = None,
    out: Path | None = None,
) -> Accelerator:
    """The accelerator for a device and precision; an earlier one of this process must not be used any more.

    Raises:
        ValueError: the device is not there, cannot do the precision, or a tracker's package is missing.
    """
    find_device(device)
    # accelerate keeps its state per process, and refuses a second precision or device in the same one.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    kind = PartialState(cpu=device == "cpu").device.type
    chosen = resolve_precision(precision, kind)
    _check_trackers(trackers or [])
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if chosen == "fp32" else chosen,
        log_with=trackers or None,
        project_config=None
        if out is None
        else ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard")),
    )


def _check_trackers(trackers: list[str]) -> None:
    """Raise a `ValueError` for a tracker that accelerate would ignore, for it is unknown or not installed."""
    known = [tracker.value for tracker in LoggerType]
    installed = [tracker.value for tracker in get_available_trackers()]
    for name in trackers:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"trackers names {name!r}, but accelerate has {', '.join(known)}{hint}")
        if name not in (*installed, LoggerType.ALL.value):
            package = (
                "segdistill[tensorboard]" if name == LoggerType.TENSORBOARD.value else f"its package {name}"
            )
            raise ValueError(f"trackers names {name}, which is not installed: install {package}")


def from_main_process(accelerator: Accelerator, compute: Callable[[], Value]) -> Value:
    """What `compute` returns in the main process, in all of them; the others do not call it.

    Raises:
        ValueError: it failed with a `ValueError` or `OSError`; in all processes alike, so that none waits.
    """
    result: Value | None = None
    problem = ""
    if accelerator.is_main_process:
        try:
            result = compute()
        except (OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
    result, problem = broadcast_object_list([result, problem])
    if problem:
        raise ValueError(problem)
    return cast(Value, result)


def precision_of(accelerator: Accelerator) -> str:
    """fp32, bf16 or fp16."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def resolve_precision(precision: Precision, device: str) -> Precision:
    """What `auto` means on a kind of device: bf16 where it is computed natively, else fp32."""
    if precision == "fp16" and device == "cpu":
        raise ValueError("runtime.precision is fp16, but a CPU takes fp32 or bf16")
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    return "bf16" if device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of handing it back to the system each time.

    A feature map takes megabytes, which glibc maps afresh for every layer: the kernel then fills page after
    page with zeros, which on a CPU can take as long as the layer itself. The process stays as large as it
    was at its peak.

    Returns:
        False where the C library has no such setting (it is glibc's).
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def keep_freed_memory_on(device: torch.device) -> None:
    """`keep_freed_memory` where `device` is the CPU."""
    if device.type == "cpu":
        keep_freed_memory()


def release_freed_memory() -> bool:
    """Hand back to the system what this process has freed and kept, once.

    Returns:
        False where the C library has no such call (it is glibc's).
    """
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has no such one."""
    try:
        return cast(Callable[..., int], getattr(ctypes.CDLL(None), name))
    except (AttributeError, OSError, TypeError):
        return None


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout for one step, so that a resumed step draws what the uninterrupted one would have."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))


class Stopped(SystemExit):
    """A signal ended the work after what there was to save was saved; the process ends with `exit_code`."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class StopSignal:
    """Whether the process was asked to stop."""

    number: int | None = None
    since: float = 0.0
    """When, on the monotonic clock."""

    @property
    def exit_code(self) -> int:
        """128 + signal: 130 after Ctrl-C, 143 after SIGTERM."""
        assert self.number is not None
        return 128 + self.number


@contextmanager
def stop_signal(*, obey: bool = False) -> Iterator[StopSignal]:
    """Within it, SIGINT and SIGTERM are noted; half a second later, another one ends the process at once.

    (A launcher passes on the Ctrl-C that the terminal has sent to all: what follows at once is the same.)

    Args:
        obey: also raise `Stopped`, wherever the process is.
    """
    stop, owner = StopSignal(), os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:  # a loader that has not yet learnt to ignore signals
            return
        now = time.monotonic()
        if stop.number is not None:
            if now - stop.since > ECHO:
                os._exit(128 + number)
            return
        stop.number, stop.since = number, now
        if obey:
            raise Stopped(stop.exit_code)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not the main thread, which alone may take signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """What a result depends on beside the settings: versions, device, precision, processes, commit."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: version(package) for package in PACKAGES},
        "device": device.type,
        "device_name": name,
        "precision": precision_of(accelerator),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": sys.argv,
    }


def processor_name() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the segdistill checkout that runs, or None outside one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
