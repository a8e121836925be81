"""Exported networks in a folder, the script that measures them there or elsewhere, and its results."""

import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segdistill.config.deploy import BenchmarkConfig
from segdistill.config.naming import setting
from segdistill.files import read_json, write_atomic
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import format_of

SCRIPT = Path(__file__).with_name("device_script.py")
LEVEL = 0.95
"""Of the intervals of a median."""

RUNTIMES = ("onnx", "openvino")
"""What the script runs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network to measure.

    Attributes:
        name: different for each job of a folder.
        file: its name in the folder.
        shape, dtype: of its input.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"] = "uint8"


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How networks are run.

    Attributes:
        runtime: onnx or openvino.
        precision: fp32, bf16 or int8.
        threads: of the runtime.
        repeats: timed passes of each.
        most_seconds: budget of a pass: a file that is far over it is not measured with larger inputs too.
        most_times: the same as a multiple of the first network's pass.
    """

    runtime: str
    precision: str
    threads: int
    repeats: int
    most_seconds: float | None = None
    most_times: float | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What was measured of one network.

    Attributes:
        median_ms: of its passes, as multiples of the reference's beside them, times the reference's median
            over the whole measurement: so drift of the machine hits all networks alike.
        p95_ms: 95th percentile of its passes, in the same way.
        low_ms, high_ms: a 95 % interval of that median (order statistics of the ratios).
        peak_bytes: of its process; None where the system does not tell.
        error: why it could not be measured; all others are None then.
        slower_than: the same network with a smaller input, which is so far over the budget that this one was
            not measured; all others are None then.
    """

    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    p95_ms: float | None = None
    peak_bytes: int | None = None
    error: str | None = None
    slower_than: str | None = None


def write_jobs(folder: Path, jobs: Sequence[Job], settings: JobSettings) -> None:
    """Put the script, and the list of what it measures, beside the networks' files.

    The first network that opens is the reference, with which all are measured in turns.
    """
    content = {**asdict(settings), "networks": [asdict(job) for job in jobs]}
    write_atomic(folder / "jobs.json", json.dumps(content, indent=1) + "\n")
    shutil.copyfile(SCRIPT, folder / "measure.py")


def read_latencies(folder: Path) -> dict[str, Latency] | None:
    """What the script has measured, by name; None where it was not run, or has not ended.

    Raises:
        ValueError: the results are of other networks, or damaged.
    """
    path = folder / "measured.json"
    if not path.is_file():
        return None
    content, record = (folder / "jobs.json").read_bytes(), read_json(path)
    try:
        if record["jobs_sha256"] != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{path} is of other networks than {folder / 'jobs.json'}: run measure.py again")
        entries = {entry["name"]: entry for entry in record["entries"]}
        names = [job["name"] for job in json.loads(content)["networks"]]
        if not entries.keys() >= {*names}:
            return None
        base = [s for entry in entries.values() for s in entry.get("reference_seconds", ())]
        return {name: _latency(entries[name], base) for name in names}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None


def copy_there(folder: Path) -> str:
    """What to do with a folder whose networks are not measured yet."""
    return (
        f"Copy {folder} to the other machine and run there: python measure.py (it needs NumPy and the "
        "runtime). Copy measured.json back into it, and give the same command again."
    )


def machine_of(folder: Path) -> str:
    """The machine and runtime that `measured.json` is of."""
    record = read_json(folder / "measured.json")
    return f"{record['machine']}, {record['runtime']}"


def _latency(entry: dict[str, Any], reference_seconds: Sequence[float]) -> Latency:
    if "error" in entry:
        return Latency(error=entry["error"])
    if "slower_than" in entry:
        return Latency(slower_than=entry["slower_than"])
    ratios = sorted(a / b for a, b in zip(entry["seconds"], entry["reference_seconds"], strict=True))
    scale = 1000 * statistics.median(reference_seconds)
    low, high = median_ranks(len(ratios))
    return Latency(
        median_ms=scale * statistics.median(ratios),
        low_ms=scale * ratios[low],
        high_ms=scale * ratios[high],
        p95_ms=scale * float(np.quantile(ratios, 0.95)),
        peak_bytes=entry["peak_bytes"],
    )


def median_ranks(count: int) -> tuple[int, int]:
    """Indices of the sorted values between which the median lies with probability `LEVEL`, or all of them.

    Each of `count` independent values is below the median with probability 1/2 (David and Nagaraja 2003,
    "Order Statistics", section 7.1).
    """
    below, rank = 0.0, 0
    while rank < count:
        below += math.comb(count, rank) / 2**count
        if below > (1 - LEVEL) / 2:
            break
        rank += 1
    low = max(0, min(rank, (count + 1) // 2) - 1)
    return low, count - 1 - low


def measure_elsewhere(targets: Sequence[str], config: BenchmarkConfig) -> dict[str, Any] | None:
    """Exported files as measured on another machine: by the script beside `config.device_file`.

    Returns:
        As `segdistill.profiling.benchmark.measure`; None where the file is not there yet: then its folder has
        the networks and the script.

    Raises:
        ValueError: a target is no ONNX or OpenVINO file, or the results are of other networks.
    """
    assert config.device_file is not None
    folder = Path(config.device_file).parent
    forms = [format_of(target) for target in targets]
    names = {form.name for form in forms if form is not None}
    if None in forms or len(names) != 1 or not names <= {*RUNTIMES}:
        raise ValueError(
            f"targets are {', '.join(targets)}, but with {setting('device_file')} all must be .onnx files, "
            "or all OpenVINO's"
        )
    jobs = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (target, form) in enumerate(zip(targets, forms, strict=True)):
        assert form is not None
        image = ExportedNetwork(Path(target)).card.input == "image"
        shape = (*config.height_width, 3) if image else (3, *config.height_width)
        stem = f"{number}-{Path(target).name.removesuffix(form.suffix)}"
        files = form.files(Path(target))
        suffixes = [form.suffix, *([form.companion] if form.companion else [])]
        for file, suffix in zip(files, suffixes, strict=True):
            shutil.copyfile(file, folder / f"{stem}{suffix}")
        dtype: Literal["uint8", "float32"] = "uint8" if image else "float32"
        jobs.append(Job(name=target, file=f"{stem}{form.suffix}", shape=(config.batch, *shape), dtype=dtype))
    settings = JobSettings(
        runtime=names.pop(),
        precision=config.precisions[0],
        threads=config.threads or 1,
        repeats=config.repeats,
    )
    write_jobs(folder, jobs, settings)
    found = read_latencies(folder)
    return None if found is None else _as_benchmark(targets, found, config, settings, folder)


def _as_benchmark(
    targets: Sequence[str],
    found: dict[str, Latency],
    config: BenchmarkConfig,
    settings: JobSettings,
    folder: Path,
) -> dict[str, Any]:
    entries = []
    for target in targets:
        latency = found[target]
        if latency.median_ms is None:
            raise ValueError(f"{target} could not be measured there: {latency.error}")
        first = found[targets[0]].median_ms
        assert first is not None
        form = format_of(target)
        assert form is not None
        entries.append(
            {
                "target": target,
                "form": settings.runtime,
                "precision": settings.precision,
                "file_bytes": sum(file.stat().st_size for file in form.files(Path(target))),
                "parameters": None,
                "flops": None,
                "median_ms": latency.median_ms,
                "p95_ms": latency.p95_ms,
                "images_per_second": 1000 * config.batch / latency.median_ms,
                "ratio": first / latency.median_ms,
                "peak_bytes": latency.peak_bytes,
                "added_bytes": None,
                "threads": settings.threads,
            }
        )
    return {
        "device": machine_of(folder),
        "input": [config.batch, 3, *config.height_width],
        "repeats": config.repeats,
        "entries": entries,
    }
