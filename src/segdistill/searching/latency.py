"""Which candidates are within the budget: each is exported and measured before anything is trained."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.build import prepare_training
from segdistill.config.deploy import ExportConfig
from segdistill.config.naming import setting
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.console import log, warn
from segdistill.data.datasets import open_training
from segdistill.data.labels import LabelSet, voc_colours
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.engine.runtime import find_device, resolve_precision
from segdistill.exporting.export import write_unchecked
from segdistill.exporting.quantize import calibration_images
from segdistill.files import first_line, read_json, write_atomic
from segdistill.models.file_formats import FORMATS
from segdistill.models.trained import DTYPES, TrainedNetwork
from segdistill.models.zoo import build_model, input_statistics, output_classes
from segdistill.profiling.benchmark import file_bytes
from segdistill.profiling.device import Job, JobSettings, Latency, write_jobs
from segdistill.profiling.process import one_process
from segdistill.profiling.timing import count_parameters, timed
from segdistill.searching.budget import Budget
from segdistill.searching.candidates import BASELINE, Candidate, without_weights
from segdistill.searching.folder import is_full

Record = dict[str, Any]

CALIBRATION_IMAGES = 8
"""Images that the ranges of an int8 network without training come from: they decide no latency."""

STEP_IMAGES, STEP_PASSES = 4, 3
"""Images of a pass that the time of a training step is estimated from; passes, the first one slow."""

START_SECONDS = 15.0
"""What it takes about to start a training: a process, its imports, the network, the data set."""


def export_candidates(
    candidates: Mapping[str, Candidate], labels: LabelSet, recipe: TrainConfig, config: SearchConfig,
    folder: Path, advance: Callable[[], None],
) -> dict[str, Record]:  # fmt: skip
    """Write a file of each network, with random weights, into a folder; what is there already is kept.

    Returns:
        By network `file`, `bytes` and `parameters`, or the `error` that it cannot be exported with.

    Raises:
        ValueError: the runtime, or what writes its files, is not installed.
    """
    form = FORMATS[config.runtime]
    form.import_runtime()
    settings = ExportConfig(format=config.runtime, quantize="int8" if config.precision == "int8" else None)
    images: list[Tensor] = []
    if config.precision == "int8":
        images = calibration_images(open_training(recipe.data), CALIBRATION_IMAGES, config.size)
    found: dict[str, Record] = {}
    with ExitStack() as stack:
        pool: ProcessPoolExecutor | None = None
        for candidate in candidates.values():
            name = candidate.network
            if name in found:
                continue
            path, beside = folder / f"{name}{form.suffix}", folder / f"{name}.record.json"
            if beside.is_file():
                found[name] = read_json(beside)
                advance()
                continue
            pool = pool or stack.enter_context(one_process())
            try:
                found[name] = pool.submit(_export, candidate, labels, path, settings, images).result()
                write_atomic(beside, json.dumps(found[name]) + "\n")
            except BrokenProcessPool:
                pool = None
                found[name] = {"error": "cannot be exported: the process that did it died"}
            except Exception as error:  # networks and converters raise nearly anything
                if is_full(error):
                    raise  # which is not its fault
                found[name] = {"error": f"cannot be exported: {first_line(error)[:300]}"}
            if "error" in found[name]:
                warn(f"{name} {found[name]['error']}")
            advance()
    return found


def _export(
    candidate: Candidate, labels: LabelSet, path: Path, settings: ExportConfig, images: Sequence[Tensor]
) -> Record:
    """Write the file of a network, in a process that a converter may end; returns what is known of it."""
    network = untrained(candidate, labels)
    write_unchecked(network, path, settings, images)
    return {
        "file": path.name,
        "bytes": file_bytes(str(path)),
        "parameters": count_parameters(network.module),
    }


def untrained(candidate: Candidate, labels: LabelSet) -> TrainedNetwork:
    """The network of a candidate with random weights.

    Raises:
        ValueError: it cannot be built, or does not give one logit per class.
    """
    student = without_weights(candidate.student)
    torch.manual_seed(0)
    module = build_model(student, len(labels))
    outputs = output_classes(module, student.spec)
    if outputs != len(labels) and candidate.family == BASELINE:
        labels = LabelSet(names=tuple(map(str, range(outputs))), palette=tuple(voc_colours(outputs)))
    if outputs != len(labels):
        raise ValueError(f"it gives {outputs} logits for {len(labels)} classes")
    mean, std = input_statistics(module)
    return TrainedNetwork(
        module, labels, candidate.network, mean=mean or IMAGENET_MEAN, std=std or IMAGENET_STD,
        size=candidate.size,
    )  # fmt: skip


def write_measurement(
    candidates: Mapping[str, Candidate],
    exported: Mapping[str, Record],
    config: SearchConfig,
    folder: Path,
) -> None:
    """Put the list of what is measured, and the script, beside the files."""
    jobs = [
        Job(name=key, file=exported[candidate.network]["file"], shape=(1, candidate.size, candidate.size, 3))
        for key, candidate in candidates.items()
        if "error" not in exported[candidate.network]
    ]
    if not jobs:
        reason = next(iter(exported.values()))["error"]
        raise ValueError(f"no candidate could be exported; the first {reason}")
    settings = JobSettings(
        runtime=config.runtime,
        precision=config.precision,
        threads=config.threads,
        repeats=config.repeats,
        most_seconds=config.most_milliseconds and config.most_milliseconds / 1000,
        most_times=config.most_times,
    )
    write_jobs(folder, jobs, settings)


def judge(
    candidates: Mapping[str, Candidate], exported: Mapping[str, Record], measured: Mapping[str, Latency],
    config: SearchConfig, budget: Budget,
) -> dict[str, Record]:  # fmt: skip
    """What is known of each candidate before training, with its `verdict`: within, over or failed.

    Over the budget of latency is what lies above it with the whole interval of its median.
    """
    found = {}
    for key, candidate in candidates.items():
        network = exported[candidate.network]
        latency = measured.get(key, Latency(error=network.get("error")))
        record = {"parameters": network.get("parameters"), "file_bytes": network.get("bytes")} | vars(latency)
        found[key] = record | _verdict(record, config, budget)
    return found


def _verdict(record: Record, config: SearchConfig, budget: Budget) -> Record:
    if record["error"] is not None:
        return {"verdict": "failed", "reason": record["error"]}
    if record["slower_than"] is not None:
        return {
            "verdict": "over",
            "reason": f"not measured, as {record['slower_than']} is far over the budget",
        }
    if record["low_ms"] > budget.milliseconds:
        return {"verdict": "over", "reason": f"latency {interval_text(record)}"}
    measured = {"memory": record["peak_bytes"], "file_size": record["file_bytes"]}
    for name, most in config.most_bytes.items():
        if measured[name] is None:
            raise ValueError(f"{name} is {getattr(config, name)}, but this system does not tell it")
        if measured[name] > most:
            text = f"{name.replace('_', ' ')} {measured[name] / 1e6:.1f} MB"
            return {"verdict": "over", "reason": text}
    return {"verdict": "within", "reason": ""}


def interval_text(record: Mapping[str, Any]) -> str:
    """A latency with its interval."""
    return f"{record['median_ms']:.2f} ms ({record['low_ms']:.2f} to {record['high_ms']:.2f})"


def require_some(found: Mapping[str, Record], config: SearchConfig, budget: Budget) -> None:
    """Raise a `ValueError` that names the fastest candidate, unless one is within the budget."""
    if any(record["verdict"] == "within" for record in found.values()):
        return
    measured = {key: record for key, record in found.items() if record["median_ms"] is not None}
    if not measured:
        reason = next(iter(found.values()))["reason"]
        raise ValueError(f"no candidate could be measured; the first: {reason}")
    fastest = min(measured, key=lambda key: measured[key]["median_ms"])
    limits = {"latency": budget.text, "memory": config.memory, "file_size": config.file_size}
    named = ", ".join(f"{name} {text}" for name, text in limits.items() if text is not None)
    raise ValueError(
        f"no candidate meets the budget ({named}): the fastest is {fastest} with "
        f"{interval_text(measured[fastest])}, {measured[fastest]['file_bytes'] / 1e6:.1f} MB; allow more, or "
        f"try a smaller {setting('size')}"
    )


def choose_members(
    candidates: Mapping[str, Candidate], found: Mapping[str, Record], most: int
) -> tuple[list[str], list[str]]:
    """Which candidates within the budget are trained, the most wanted first, and which are not.

    Of each family in turn the slowest one: within one, more arithmetic mostly gives better scores.
    """
    families: dict[str, list[str]] = {}
    within = [key for key in candidates if found[key]["verdict"] == "within"]
    for key in sorted(within, key=lambda key: (-found[key]["median_ms"], key)):
        families.setdefault(candidates[key].family, []).append(key)
    order: list[str] = []
    while any(families.values()):
        order += [keys.pop(0) for keys in families.values() if keys]
    return order[:most], order[most:]


def step_seconds(config: TrainConfig, classes: int) -> float:
    """Estimated seconds of a training step of a student, forward and backward; on a CPU with one thread."""
    device = find_device(config.device)
    precision = resolve_precision(config.runtime.precision, device.type)
    torch.manual_seed(0)
    student = build_model(without_weights(config.student), classes).train().to(device)
    student = prepare_training(student, replace(config.runtime, compile=False))
    image = torch.randn(STEP_IMAGES, 3, config.size, config.size, device=device)
    image = image.to(memory_format=torch.channels_last)
    target = torch.zeros(STEP_IMAGES, config.size, config.size, dtype=torch.long, device=device)
    teacher_logits = torch.randn(STEP_IMAGES, classes, config.size, config.size, device=device)

    def step() -> None:
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            logits = student(image)
        loss = F.cross_entropy(logits.float(), target)
        if config.teacher.specs:
            loss = loss + F.kl_div(
                logits.float().log_softmax(1), teacher_logits.softmax(1), reduction="batchmean"
            )
        torch.autograd.backward(loss)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = min(timed(step, device) for _ in range(STEP_PASSES)) * config.batch / STEP_IMAGES
    finally:
        torch.set_num_threads(threads)
    log(f"One step of {config.student.spec} takes about {seconds:.2f} s")
    return seconds


def scoring_seconds(config: TrainConfig, step: float, images: int) -> float:
    """Estimated seconds of starting a training and of scoring the network on `images` images, one at a time.

    Args:
        config: of the training.
        step: seconds of one of its steps, a third of them for the forward pass.
        images: of the held-out part.
    """
    larger = ((config.evaluate_size or config.size) / config.size) ** 2
    return START_SECONDS + images * larger * step / (3 * config.batch)
