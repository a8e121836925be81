"""The verb `verify`: a certificate that one network is as good as another on given images.

Of two networks the first is always the baseline, and the second the one that is certified.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from segdistill.build import open_evaluation
from segdistill.config.deploy import ExportConfig
from segdistill.config.keywords import with_keywords
from segdistill.config.values import one_each
from segdistill.config.verify import VerifyConfig
from segdistill.console import counted, log, progress
from segdistill.data.digest import data_digest
from segdistill.data.samples import FileSamples
from segdistill.data.transforms import resize_long_side
from segdistill.engine.agreement import Pair, evaluate_pair
from segdistill.engine.bootstrap import (
    LEVEL,
    Interval,
    Score,
    as_record,
    bootstrap,
    miou_of,
    pixel_accuracy_of,
)
from segdistill.engine.evaluate import EvaluationOptions
from segdistill.engine.metrics import iou_of, mean
from segdistill.engine.runtime import environment, keep_freed_memory_on, make_accelerator
from segdistill.exporting.export import Exported
from segdistill.files import write_together
from segdistill.inference.segment import run_network
from segdistill.models.card import is_run
from segdistill.models.identity import runtime_version, weight_digests
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network
from segdistill.profiling.timing import in_turns, timed
from segdistill.reporting.certificate import certificate_page
from segdistill.reporting.evidence import points
from segdistill.results import Verification
from segdistill.scoring import image_table, intervals_record, require_same_classes

KIND = "segdistill certificate 1"
"""Marks the JSON file, with the number of its schema."""

SCORES: dict[str, Score] = {"miou": miou_of, "pixel_accuracy": pixel_accuracy_of}
"""The scores that have intervals."""

WARMUP = 2
"""Passes of each network before those that are timed."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two networks that were run on the same images: the baseline, and the one that is certified.

    Attributes:
        specs: what names each network.
        networks: open.
        pair: what they did.
    """

    specs: tuple[str, str]
    networks: tuple[TrainedNetwork, TrainedNetwork]
    pair: Pair


def verify(target: str | Path, config: VerifyConfig | None = None, **settings: Any) -> Verification:
    """Run two networks on the same images, and write a certificate of how much worse the first may be.

    Args:
        target: the network that is certified: a run folder, an exported file, or any network spec.
        config: what it is compared with, on which images, and the loss that is allowed.
        settings: settings by name, `against="runs/mine"`; they win over `config`.

    Returns:
        The certificate: what `config.out` gets, see docs/deploy.md, with `out` and `problems` (1 if nothing
        is shown). A page of the same beside it has the images on which the networks differ most.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: classes, data and settings do not fit each other, or there are several processes.
    """
    config = with_keywords(VerifyConfig, config, settings)
    if not config.against:
        raise ValueError("against is empty: name the network that it is compared with")
    specs = (config.against, str(target))
    samples = open_images(specs, config)
    log(f"Comparing {target} with {config.against} on {counted(len(samples), 'image')}, then timing both")
    networks = open_networks(specs, samples, config)
    compared = Compared(specs=specs, networks=networks, pair=run_networks(networks, samples, config))
    return Verification(write_certificate(compared, config))


def open_images(specs: tuple[str, str], config: VerifyConfig) -> FileSamples:
    """The images with masks that the settings name, else those of the first run of the two."""
    return open_evaluation(next(filter(is_run, specs), specs[0]), config.data).evenly_spaced(config.images)


def open_networks(
    specs: tuple[str, str], samples: FileSamples, config: VerifyConfig
) -> tuple[TrainedNetwork, TrainedNetwork]:
    """Both networks, for the samples, which are read with their `bits` from then on.

    The provider is for those of the two that are .onnx files.
    """
    own_stride, against_stride = one_each(config.output_stride, 2, "output_stride")
    options = LoadOptions(labels=samples.labels, precision=config.precision)
    first, second = (
        load_network(
            spec,
            replace(
                options,
                output_stride=stride,
                provider=config.provider if spec.endswith(".onnx") else None,
            ),
        )
        for spec, stride in zip(specs, (against_stride, own_stride), strict=True)
    )
    require_same_classes([first, second])
    samples.read_for(first.bits, second.bits)
    return first, second


def run_networks(
    networks: tuple[TrainedNetwork, TrainedNetwork], samples: FileSamples, config: VerifyConfig
) -> Pair:
    """Run both networks on the images."""
    accelerator = _one_process(config)
    keep_freed_memory_on(accelerator.device)
    own_size, against_size = one_each(config.size, 2, "size")
    sizes = (networks[0].input_size(against_size), networks[1].input_size(own_size))
    with progress() as bar:
        task = bar.add_task("verify", total=len(samples), unit="image")
        options = EvaluationOptions(
            flip=config.flip, workers=config.data.workers, advance=lambda: bar.advance(task)
        )
        return evaluate_pair(networks, sizes, samples, accelerator, options)


def _one_process(config: VerifyConfig) -> Accelerator:
    accelerator = make_accelerator(config.device, config.precision)
    if accelerator.num_processes > 1:
        raise ValueError(
            f"verify measures latency, so it takes one process, but there are {accelerator.num_processes}: "
            "start it without `accelerate launch`"
        )
    return accelerator


def write_certificate(compared: Compared, config: VerifyConfig) -> Record:
    """Write what two networks did as JSON into `config.out`, and as a page beside it.

    Returns:
        The content of the JSON file, its path as `out`, and `problems`: 1 where nothing is shown.
    """
    out = Path(config.out)
    log(f"Writing the certificate {out}: intervals of the scores, digests, latency")
    record = certify(compared, config)
    page = certificate_page(record, compared.pair.agreement.worst, compared.pair.samples.labels)
    write_together({out: json.dumps(record, indent=2) + "\n", out.with_suffix(".html"): page})
    return record | {"out": str(out), "problems": 0 if record["verdict"]["shown"] else 1}


def certify_export(network: TrainedNetwork, exported: Exported, config: ExportConfig) -> str:
    """Write the certificate of a file beside it, from the evaluation that was part of its export.

    Args:
        network: what was exported.
        exported: the file, with what both did on the images.
        config: of the export.

    Returns:
        The verdict, and where the certificate is.
    """
    assert exported.pair is not None
    assert exported.network is not None
    out = exported.path.with_name(f"{exported.path.name}.certificate.json")
    compared = Compared(
        specs=(network.spec, str(exported.path)),
        networks=(network, exported.network),
        pair=exported.pair,
    )
    settings = VerifyConfig(
        against=network.spec,
        data=config.data,
        images=config.images,
        max_loss=config.max_loss,
        device="cpu",
        out=str(out),
    )
    record = write_certificate(compared, settings)
    return f"{out}: {record['verdict']['text']}"


def certify(compared: Compared, config: VerifyConfig) -> Record:
    """What two networks did, as JSON values: the form of `segdistill.compare`, and more."""
    pair, accelerator = compared.pair, _one_process(config)
    counts = np.stack([image_table(metrics) for metrics in pair.metrics])
    found = bootstrap(counts, SCORES, resamples=config.resamples, seed=config.seed)
    record = intervals_record(compared.specs, pair.sizes, found)
    latencies = _latencies(compared, config, accelerator.device)
    for index, (network, spec) in enumerate(zip(compared.networks, compared.specs, strict=True)):
        record["networks"][index] |= {
            "sha256": weight_digests(spec, network),
            "runtime": runtime_version(network),
            "output_stride": network.output_stride,
            "temperature": network.temperature,
            "latency": latencies[index],
        }
    loss = found.differences[0]["miou"]
    return {
        "kind": KIND,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": {"shown": is_shown(loss, config.max_loss), "text": verdict_text(compared, loss, config)},
        "data": config.data.root,
        "split": config.data.split,
        "image_count": len(pair.samples),
        "data_sha256": data_digest(pair.samples),
        "level": LEVEL,
        **record,
        "iou": _iou_by_class(counts, compared, config),
        "equal_pixels": pair.agreement.share,
        "largest_deviation": pair.agreement.deviation,
        "worst": [
            {
                "id": image.id,
                "equal_pixels": image.equal,
                "miou": [mean(iou_of(metrics.counts[image.id], predicted=True)) for metrics in pair.metrics],
            }
            for image in pair.agreement.worst
        ],
        "settings": asdict(config),
        "environment": environment(accelerator),
    }


def is_shown(difference: Interval, max_loss: float) -> bool:
    """Whether the whole interval of a difference in mean IoU is above a loss of `max_loss` points."""
    return difference.low is not None and 100 * difference.low > -max_loss


def verdict_text(compared: Compared, difference: Interval, config: VerifyConfig) -> str:
    """The verdict in one sentence."""
    against, target = compared.specs
    images = f"{len(compared.pair.samples):,} images"
    if difference.value is None or difference.low is None or difference.high is None:
        return f"not shown: no labelled pixel of {images} was compared"
    value, low, high = map(points, (difference.value, difference.low, difference.high))
    measured = f"difference {value} points, {LEVEL:.0%} interval {low} to {high}, {images}"
    allowed = f"{config.max_loss:g} {'point' if config.max_loss == 1 else 'points'} of mean IoU"
    if is_shown(difference, config.max_loss):
        return f"shown: {target} loses less than {allowed} against {against} ({measured})"
    if 100 * difference.high < -config.max_loss:
        return f"not shown: {target} loses more than {allowed} against {against} ({measured})"
    return (
        f"not shown: a loss of {allowed} or more of {target} against {against} cannot be excluded "
        f"({measured}); more images make the interval narrower"
    )


def _iou_by_class(counts: np.ndarray, compared: Compared, config: VerifyConfig) -> Record:
    """By class name the IoU of both `networks`, and their `difference`, with intervals."""
    names = compared.pair.samples.labels.names
    scores: dict[str, Score] = {name: partial(miou_of, classes=[i]) for i, name in enumerate(names)}
    found = bootstrap(counts, scores, resamples=config.resamples, seed=config.seed)
    alone, difference = map(as_record, found.alone), as_record(found.differences[0], difference=True)
    first, second = alone
    return {name: {"networks": [first[name], second[name]], "difference": difference[name]} for name in names}


def _latencies(compared: Compared, config: VerifyConfig, device: torch.device) -> list[Record | None]:
    """Median and 95th percentile of one pass over the first image, of each network in turns."""
    if not config.repeats:
        return [None, None]
    image = compared.pair.samples[0].image
    inputs = [resize_long_side(image, size).to(device)[None] for size in compared.pair.sizes]
    timers = [
        partial(_pass_seconds, partial(run_network, network, pixels, flip=config.flip), device)
        for network, pixels in zip(compared.networks, inputs, strict=True)
    ]
    seconds = in_turns(timers, warmup=WARMUP, repeats=config.repeats)
    return [
        {
            "input": list(pixels.shape[2:]),
            "median_ms": 1000 * statistics.median(times),
            "p95_ms": 1000 * float(np.quantile(times, 0.95)),
        }
        for pixels, times in zip(inputs, seconds, strict=True)
    ]


def _pass_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one pass, after one that is not timed: the other network has emptied the caches."""
    run()
    return timed(run, device)
