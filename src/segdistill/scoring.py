"""The verbs that score networks, as functions; `segdistill.api` has them with the others."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from segdistill.build import open_evaluation, open_teacher
from segdistill.config.evaluate import CalibrateConfig, CompareConfig, EvaluateConfig
from segdistill.config.keywords import with_keywords
from segdistill.config.values import one_each
from segdistill.console import counted, log, progress
from segdistill.data.samples import FileSamples
from segdistill.engine.bootstrap import (
    LEVEL,
    Intervals,
    Score,
    as_record,
    bootstrap,
    miou_of,
    pixel_accuracy_of,
)
from segdistill.engine.evaluate import EvaluationOptions, evaluate_together
from segdistill.engine.evaluate import evaluate as evaluate_network
from segdistill.engine.metrics import Metrics, mean
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import keep_freed_memory_on, make_accelerator
from segdistill.engine.temperature import calibrate as calibrate_network
from segdistill.engine.temperature import count_passes, fit_line
from segdistill.files import write_atomic
from segdistill.models.card import is_run
from segdistill.models.teacher import Teacher
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network, require_prompted
from segdistill.results import Calibration, Comparison, Scores


def evaluate(target: str | Path, config: EvaluateConfig | None = None, **settings: Any) -> Scores:
    """Score a network (a run folder, or any network spec) on images with masks, at the masks' own size.

    Args:
        target: a run folder, or any network spec.
        config: data set, input size, views, ...
        settings: settings by name, `data="mydata", size=512`; they win over `config`.

    Returns:
        As `config.out` gets it: `miou`, `pixel_accuracy`, `calibration_error` at the network's `temperature`
        (`calibration_error_before` without), ..., `iou` by class name; None for what cannot be computed.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: target, data and settings do not fit each other.
    """
    config = with_keywords(EvaluateConfig, config, settings)
    spec = str(target)
    samples = open_evaluation(spec, config.data)
    samples.labels.index(config.class_names)  # refuses unknown ones
    accelerator = make_accelerator(config.device, config.precision)
    keep_freed_memory_on(accelerator.device)
    network = _open_network(spec, samples, config)
    scored = Teacher(
        network, samples.labels, rename=config.map, shared_only=config.shared_only
    ).to(accelerator.device)  # fmt: skip
    if scored.shared is not None:
        lacking = [name for index, name in enumerate(samples.labels.names) if index not in scored.shared]
        log(f"{spec} has no class {', '.join(lacking)}: what is of it counts as wrong", accelerator)
    teacher = open_teacher(config.teacher, samples.labels)
    size = network.input_size(config.size)
    started = time.perf_counter()
    log(f"Evaluating {spec} on {counted(len(samples), 'image')}", accelerator)
    with progress(accelerator.is_main_process) as bar:
        task = bar.add_task("evaluate", total=-(-len(samples) // accelerator.num_processes), unit="image")
        options = EvaluationOptions(
            size=size, flip=config.flip, scales=tuple(config.scales),
            temperature=network.temperature, workers=config.data.workers, advance=lambda: bar.advance(task),
        )  # fmt: skip
        metrics = evaluate_network(
            scored.to(memory_format=torch.channels_last), samples, samples.labels, accelerator, options,
            teacher=teacher and teacher.to(accelerator.device),
        )  # fmt: skip
    summary = {
        "target": spec,
        "data": config.data.root,
        "split": config.data.split,
        "size": size,
        "temperature": network.temperature,
        "image_count": len(samples),
        "images_per_second": len(samples) / (time.perf_counter() - started),
        **metrics.summary(),
    }
    if names := config.class_names:
        summary |= {"classes": names, "miou_of_classes": mean([summary["iou"][name] for name in names])}
    _write_record(summary, config.out, accelerator)
    return Scores(summary)


def _open_network(spec: str, samples: FileSamples, config: EvaluateConfig) -> TrainedNetwork:
    """The network that is scored; images are read in its bit depth from here on."""
    precision = "fp32" if config.precision == "auto" else config.precision
    options = LoadOptions(
        weights=Path(config.weights) if config.weights else None, labels=samples.labels, precision=precision,
        output_stride=config.output_stride, prompts=config, provider=config.provider,
    )  # fmt: skip
    network = load_network(spec, options)
    samples.read_for(network.bits)
    require_prompted([network], config)
    return network


def _write_record(record: dict[str, Any], out: str | None, accelerator: Accelerator) -> None:
    """Write a result into the file that the settings name, if they name one."""
    if accelerator.is_main_process and out is not None:
        write_atomic(Path(out), json.dumps(record, indent=2) + "\n")


def compare(
    targets: Sequence[str | Path], config: CompareConfig | None = None, **settings: Any
) -> Comparison:
    """Score networks on the same images, with intervals of the scores and of the differences to the first.

    The intervals say how much hangs on which images were there (see `segdistill.engine.bootstrap`), and
    nothing about what another seed of a training would have given.

    Args:
        targets: two or more run folders, or any network specs; the others are compared with the first.
        config: data set, input size, classes, ...
        settings: settings by name, `data="mydata", flip=True`; they win over `config`.

    Returns:
        As `config.out` gets it: `networks`, each with its `target`, `size` and the intervals of `miou`,
        `pixel_accuracy` and (for `config.classes`) `miou_of_classes`; `differences`, one for each later
        network, with `baseline` and the same intervals, each with whether it is `resolved`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: there are fewer than two targets, their classes differ, or do not fit the data, or a list
            of sizes or strides has not one for each.
    """
    config = with_keywords(CompareConfig, config, settings)
    specs = [str(target) for target in targets]
    require_two(specs)
    samples = open_evaluation(next(filter(is_run, specs), specs[0]), config.data)
    labels = samples.labels
    chosen = labels.index(config.class_names)
    precision = "fp32" if config.precision == "auto" else config.precision
    strides = one_each(config.output_stride, len(specs), "output_stride")
    networks = [
        load_network(spec, LoadOptions(labels=labels, precision=precision, output_stride=stride))
        for spec, stride in zip(specs, strides, strict=True)
    ]
    require_same_classes(networks)
    samples.read_for(*(network.bits for network in networks))
    wanted = one_each(config.size, len(specs), "size")
    sizes = [network.input_size(size) for size, network in zip(wanted, networks, strict=True)]
    accelerator = make_accelerator(config.device, config.precision)
    keep_freed_memory_on(accelerator.device)
    log(f"Comparing {' and '.join(specs)} on {counted(len(samples), 'image')}", accelerator)
    scored = _score_together(list(zip(networks, sizes, strict=True)), samples, config, accelerator)
    counts = np.stack([image_table(metrics) for metrics in scored])
    scores: dict[str, Score] = {"miou": miou_of, "pixel_accuracy": pixel_accuracy_of}
    if chosen:
        scores["miou_of_classes"] = lambda counts: miou_of(counts, chosen)
    found = bootstrap(counts, scores, resamples=config.resamples, seed=config.seed)
    record = {
        "data": config.data.root,
        "split": config.data.split,
        "image_count": counts.shape[1],
        "classes": config.class_names,
        "level": LEVEL,
        "resamples": config.resamples,
        "seed": config.seed,
        **intervals_record(specs, sizes, found),
    }
    _write_record(record, config.out, accelerator)
    return Comparison(record)


def intervals_record(specs: Sequence[str], sizes: Sequence[int | None], found: Intervals) -> dict[str, Any]:
    """`networks` and their `differences` to the first, with the intervals of each score, as JSON values."""
    return {
        "networks": [
            {"target": spec, "size": size, **as_record(alone)}
            for spec, size, alone in zip(specs, sizes, found.alone, strict=True)
        ],
        "differences": [
            {"target": spec, "baseline": specs[0], **as_record(difference, difference=True)}
            for spec, difference in zip(specs[1:], found.differences, strict=True)
        ],
    }


def _score_together(
    networks: Sequence[tuple[TrainedNetwork, int | None]],
    samples: FileSamples,
    config: CompareConfig,
    accelerator: Accelerator,
) -> list[Metrics]:
    """The sums of each network, which gets images at the long side beside it."""
    labels, device = samples.labels, accelerator.device
    with progress(accelerator.is_main_process) as bar:
        task = bar.add_task("compare", total=-(-len(samples) // accelerator.num_processes), unit="image")
        return evaluate_together(
            [
                (Teacher(network, labels).to(device).to(memory_format=torch.channels_last), size)
                for network, size in networks
            ],
            samples,
            labels,
            accelerator,
            EvaluationOptions(
                flip=config.flip, workers=config.data.workers, advance=lambda: bar.advance(task)
            ),
        )


def calibrate(run: str | Path, config: CalibrateConfig | None = None, **settings: Any) -> Calibration:
    """Fit the temperature of a run's student once more, and write it into the run's card.

    A training does so at its end. This is for runs of earlier versions, and for other images.

    Args:
        run: a run folder.
        config: data set (the run's own validation set where none is named), precision, device.
        settings: settings by name, `data="mydata"`; they win over `config`.

    Returns:
        `run`, `temperature`, the `images` and `pixels` that it was fitted on, and calibration errors: see
        `segdistill.engine.temperature.FittedTemperature`.

    Raises:
        FileNotFoundError: there is no student, or no data.
        ValueError: its files are damaged, its classes are not those of the data, or a training is going on.
    """
    config = with_keywords(CalibrateConfig, config, settings)
    folder = RunFolder(run)
    student = folder.student()
    samples = open_evaluation(str(run), config.data).read_for(student.bits)
    accelerator = make_accelerator(config.device, config.precision)
    keep_freed_memory_on(accelerator.device)
    main = accelerator.is_main_process
    log(f"Calibrating {run} on {counted(len(samples), 'image')}", accelerator)
    with folder.locked() if main else nullcontext(), progress(main) as bar:
        total = count_passes(samples, accelerator.num_processes)
        task = bar.add_task("calibrate", total=total, unit="image")
        fitted, scores = calibrate_network(
            student.to(accelerator.device).to(memory_format=torch.channels_last),
            samples,
            accelerator,
            EvaluationOptions(
                size=student.size, workers=config.data.workers, advance=lambda: bar.advance(task)
            ),
        )
        own = not config.data.root and config.data.split == "val"
        if main:
            folder.write_temperature(fitted.temperature, scores if own else None)
    log(fit_line(fitted), accelerator)
    return Calibration(run=str(run), **asdict(fitted))


def require_two(specs: Sequence[str]) -> None:
    """Raise a `ValueError` unless there is something to compare with."""
    if len(specs) < 2:
        raise ValueError(f"targets are {', '.join(specs) or 'none'}, but must be two or more to compare")


def require_same_classes(networks: Sequence[TrainedNetwork]) -> None:
    """Raise a `ValueError` that names the first network whose classes are not those of the first one."""
    first = networks[0]
    for network in networks[1:]:
        differing = sorted({*first.labels.names} ^ {*network.labels.names})
        if differing:
            raise ValueError(
                f"{first.spec} and {network.spec} have different classes, so their scores cannot be "
                f"compared: only one of them has {', '.join(differing)}"
            )


def image_table(metrics: Metrics) -> np.ndarray:
    """The counts of each image, N x 3 x K int64, in the order of the ids."""
    return np.stack([metrics.counts[name].numpy() for name in sorted(metrics.counts)])
