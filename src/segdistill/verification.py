"""The verb `verify`: a certificate that one network is as good as another on given images.

Of two networks the first is always the baseline, and the second the one that is certified.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from segdistill.build import open_evaluation
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.values import one_each
from segdistill.config.verify import VerifyConfig
from segdistill.console import progress
from segdistill.data.digest import data_digest
from segdistill.data.labels import LabelSet
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
from segdistill.files import read_json, write_together
from segdistill.inference.segment import run_network
from segdistill.models.card import is_run
from segdistill.models.identity import runtime_version, weight_digests
from segdistill.models.spec import require_trust
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.profiling.timing import in_turns, timed
from segdistill.reporting.certificate import certificate_page
from segdistill.reporting.evidence import points
from segdistill.reporting.tables import SCORES as SCORE_TITLES
from segdistill.scoring import image_table, intervals_record, require_same_classes

KIND = "segdistill certificate 1"
"""Marks the JSON file, with the number of its schema."""

SCORES: dict[str, Score] = {"miou": miou_of, "pixel_accuracy": pixel_accuracy_of}
"""The scores that have intervals."""

TOLERANCE = 1e-4
"""Largest difference of a score, as a fraction, that another machine or version may make: 0.01 points."""

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


def verify(target: str | Path, config: VerifyConfig) -> Record:
    """Run two networks on the same images, and write a certificate of how much worse the first may be.

    Args:
        target: the network that is certified: a run folder, an exported file, or any network spec.
        config: what it is compared with, on which images, and the loss that is allowed.

    Returns:
        The certificate: what `config.out` gets, see docs/deploy.md, with `out` and `problems` (1 if nothing
        is shown). A page of the same beside it has the images on which the networks differ most.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: classes, data and settings do not fit each other, or there are several processes.
    """
    specs = (config.against, str(target))
    samples = _open_images(specs, config)
    networks = _open_networks(specs, samples.labels, config)
    compared = Compared(specs=specs, networks=networks, pair=_run_networks(networks, samples, config))
    return write_certificate(compared, config)


def _open_images(specs: tuple[str, str], config: VerifyConfig) -> FileSamples:
    """The images with masks that the settings name, else those of the first run of the two."""
    return open_evaluation(next(filter(is_run, specs), specs[0]), config.data).evenly_spaced(config.images)


def _open_networks(
    specs: tuple[str, str], labels: LabelSet, config: VerifyConfig
) -> tuple[TrainedNetwork, TrainedNetwork]:
    """Both networks; the provider is for those of the two that are .onnx files."""
    own_stride, against_stride = one_each(config.output_stride, 2, "output_stride")
    first, second = (
        load_network(
            spec, labels=labels, precision=config.precision, output_stride=stride,
            provider=config.provider if spec.endswith(".onnx") else None,
        )
        for spec, stride in zip(specs, (against_stride, own_stride), strict=True)
    )  # fmt: skip
    require_same_classes([first, second])
    return first, second


def _run_networks(
    networks: tuple[TrainedNetwork, TrainedNetwork], samples: FileSamples, config: VerifyConfig
) -> Pair:
    """Run both networks on the images."""
    accelerator = _one_process(config)
    keep_freed_memory_on(accelerator.device)
    own_size, against_size = one_each(config.size, 2, "size")
    sizes = (_input_size(networks[0], against_size), _input_size(networks[1], own_size))
    with progress() as bar:
        task = bar.add_task("verify", total=len(samples), numbers="")
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


def _input_size(network: TrainedNetwork, asked: int | None) -> int | None:
    """Long side of a network's input in pixels: what is asked for, else its own; what a file takes."""
    sides = [side for side in (asked or network.size, network.largest_side) if side is not None]
    return min(sides, default=None)


def write_certificate(compared: Compared, config: VerifyConfig) -> Record:
    """Write what two networks did as JSON into `config.out`, and as a page beside it.

    Returns:
        The content of the JSON file, its path as `out`, and `problems`: 1 where nothing is shown.
    """
    record = certify(compared, config)
    out = Path(config.out)
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
    allowed = f"{config.max_loss:g} points of mean IoU"
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


def verify_again(certificate: Path, config: VerifyConfig, target: str | None = None) -> Record:
    """Run what a certificate is about once more, and compare: files, data, scores and verdict.

    Sizes and other settings are those of the certificate. Networks and data are looked for where it says; a
    file that is not there, also beside the certificate.

    Args:
        certificate: the JSON file.
        config: `against` and `data`, where they are elsewhere now; nothing else of it counts.
        target: the network that was certified, where it is elsewhere now.

    Returns:
        `certificate`, `verdict` (of now), `mismatches` in words, `networks` with their `miou` `then` and
        `now`, and `problems`: how many mismatches there are, and 1 where nothing is shown.

    Raises:
        FileNotFoundError: a file or folder is not there any more.
        ValueError: it is no certificate, or one of other images or of other weights.
    """
    then = read_certificate(certificate)
    config = _settings_of(then, config)
    first, second = (network["target"] for network in then["networks"])
    specs = (config.against or _found(first, certificate), target or _found(second, certificate))
    samples = _open_images(specs, config)
    _require_same_data(then, samples, certificate)
    networks = _open_networks(specs, samples.labels, config)
    _require_same_weights(then, specs, networks, certificate)
    pair = _run_networks(networks, samples, config)
    now = certify(Compared(specs=specs, networks=networks, pair=pair), config)
    mismatches = list(_mismatches(then, now))
    return {
        "certificate": str(certificate),
        "verdict": now["verdict"],
        "mismatches": mismatches,
        "networks": [
            {"target": new["target"], "then": old["miou"]["value"], "now": new["miou"]["value"]}
            for old, new in zip(then["networks"], now["networks"], strict=True)
        ],
        "problems": len(mismatches) + (not now["verdict"]["shown"]),
    }


def read_certificate(path: Path) -> Record:
    """The content of a certificate.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{path} is no certificate of `segdistill verify` ({KIND!r})")
    return content


def _settings_of(then: Record, config: VerifyConfig) -> VerifyConfig:
    """The settings of a certificate, with the places that `config` names; latency is not measured again."""
    try:
        settings = dict(then["settings"])
        data = EvaluationDataConfig(**settings.pop("data"))
        against, target = then["networks"]
        settings |= {name: [target[name], against[name]] for name in ("size", "output_stride")}
        settings |= {"against": config.against, "repeats": 0}
        return VerifyConfig(**settings, data=config.data if config.data.root else data)
    except (LookupError, TypeError) as error:
        raise ValueError(f"the certificate is damaged: {type(error).__name__} {error}") from None


def _found(spec: str, certificate: Path) -> str:
    """A network that a certificate names; a file of that name beside it, where it is not in its place.

    Raises:
        ValueError: it is code that nobody has said to trust.
    """
    require_trust(spec, certificate)
    beside = certificate.parent / Path(spec).name
    return str(beside) if not Path(spec).exists() and beside.exists() else spec


def _require_same_data(then: Record, samples: FileSamples, certificate: Path) -> None:
    """Raise a `ValueError` unless the images and masks are those of the certificate."""
    digest = data_digest(samples)
    if digest != then["data_sha256"]:
        raise ValueError(
            f"{certificate} is about other data: {then['image_count']} images with SHA-256 "
            f"{then['data_sha256'][:12]}…, but here are {len(samples)} with {digest[:12]}…; "
            "name its images with --data.root and --data.split"
        )


def _require_same_weights(
    then: Record,
    specs: tuple[str, str],
    networks: tuple[TrainedNetwork, TrainedNetwork],
    certificate: Path,
) -> None:
    """Raise a `ValueError` unless both networks have the weights of the certificate."""
    for old, spec, network in zip(then["networks"], specs, networks, strict=True):
        found = weight_digests(spec, network)
        for (name, digest), value in zip(old["sha256"].items(), found.values(), strict=True):
            if digest != value:
                raise ValueError(
                    f"{certificate} is about another {spec}: {name} had the SHA-256 {digest[:12]}…, but has "
                    f"{value[:12]}… now; make a new certificate"
                )


def _mismatches(then: Record, now: Record) -> Iterator[str]:
    """What a network does now that its certificate does not say, in words."""
    for old, new in zip(then["networks"], now["networks"], strict=True):
        for name in SCORES:
            before, after = old[name]["value"], new[name]["value"]
            if (before is None) != (after is None) or abs((before or 0) - (after or 0)) > TOLERANCE:
                yield f"{SCORE_TITLES[name]} of {new['target']} was {before}, but is {after}"
    before, after = then["equal_pixels"], now["equal_pixels"]
    if abs(before - after) > TOLERANCE:
        yield f"the fraction of equal pixels was {before}, but is {after}"
    if then["verdict"]["shown"] != now["verdict"]["shown"]:
        yield f"the verdict was {then['verdict']['text']!r}"
