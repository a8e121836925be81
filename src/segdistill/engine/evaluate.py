"""Evaluation at the masks' own size, of anything that turns images into logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segdistill.data.labels import LabelSet
from segdistill.data.loaders import evaluation_samples
from segdistill.data.samples import Sample
from segdistill.data.transforms import resize_long_side
from segdistill.data.worker import with_plain_errors
from segdistill.engine.metrics import Metrics
from segdistill.inference.segment import segment


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How images reach the network in an evaluation, and how a caller follows it."""

    size: int | None = None
    """Long side, in pixels, of the network's input; None for the image's own."""
    flip: bool = False
    """Average with the mirrored image."""
    scales: tuple[float, ...] = (1.0,)
    """Average over the image at these relative sizes, see `segment`."""
    temperature: float = 1.0
    """What logits are divided by for confidences."""
    workers: int = 0
    """Loader processes."""
    advance: Callable[[], None] = lambda: None
    """Called after each image."""
    stopped: Callable[[], bool] = lambda: False
    """Asked before each image; once it is true, the rest of this process's images is left out."""
    observe: Callable[[Sample, Tensor], None] = lambda sample, logits: None
    """Called by `evaluate` with each image and its logits, K x H x W at its mask's size."""


def evaluate(
    network: nn.Module,
    samples: Dataset[Sample],
    labels: LabelSet,
    accelerator: Accelerator,
    options: EvaluationOptions = EvaluationOptions(),
    *,
    teacher: nn.Module | None = None,
) -> Metrics:
    """Score a network on a data set with masks.

    Images go through the network one by one, their long side resized to `options.size`; its logits are
    resized bilinearly to the mask's own size before the class is taken. Sums are added over all processes.

    Args:
        network: from N x 3 x H x W normalised images to N x K x H x W logits over `labels`.
        samples: images with masks.
        labels: the K classes.
        accelerator: device, precision and processes.
        options: input size, averaged views, loader processes, callbacks.
        teacher: a network with the same output to compare decisions with; its input is the image's own size.

    Returns:
        The sums, on the first process those of all.
    """
    device = accelerator.device
    kept_on = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
    metrics = Metrics(labels, kept_on, temperature=options.temperature)
    loader = evaluation_samples(
        samples,
        options.size,
        options.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    training = network.training
    network.eval()
    try:
        with accelerator.autocast():
            for image, sample in with_plain_errors(loader):
                if options.stopped():
                    break
                size = sample.mask.shape
                logits = segment(network, image.to(device), size, flip=options.flip, scales=options.scales)
                teacher_logits = None
                if teacher is not None:
                    teacher_logits = segment(teacher, sample.image.to(device), size)
                with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                    metrics.update(logits, sample.mask.long(), sample.id, teacher_logits)
                    options.observe(sample, logits)
                options.advance()
    finally:
        network.train(training)
    sum_over_processes(metrics, accelerator)
    return metrics


def evaluate_together(
    networks: Sequence[tuple[nn.Module, int | None]],
    samples: Dataset[Sample],
    labels: LabelSet,
    accelerator: Accelerator,
    options: EvaluationOptions = EvaluationOptions(),
    *,
    observe: Callable[[Sample, list[Tensor]], None] | None = None,
) -> list[Metrics]:
    """Score several networks on the same images, each of which is read once.

    Args:
        networks: each as in `evaluate`, in eval mode, with the long side of its input in pixels or None for
            the image's own.
        samples: images with masks.
        labels: the K classes.
        accelerator: device, precision and processes.
        options: as in `evaluate`, but for size and temperature.
        observe: called with each image and all networks' logits of it, K x H x W at its mask's size.

    Returns:
        The sums of each network, as `evaluate` gives them.
    """
    device = accelerator.device
    kept_on = torch.device("cpu") if device.type == "mps" else device
    scores = [Metrics(labels, kept_on) for _ in networks]
    loader = evaluation_samples(
        samples, None, options.workers, rank=accelerator.process_index, world=accelerator.num_processes
    )
    with accelerator.autocast():
        for image, sample in with_plain_errors(loader):
            if options.stopped():
                break
            kept: list[Tensor] = []
            for (network, size), metrics in zip(networks, scores, strict=True):
                resized = resize_long_side(image, size).to(device)
                logits = segment(
                    network, resized, sample.mask.shape, flip=options.flip, scales=options.scales
                )
                with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                    metrics.update(logits, sample.mask.long(), sample.id)
                if observe is not None:
                    kept.append(logits)
            if observe is not None:
                with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                    observe(sample, kept)
            options.advance()
    for metrics in scores:
        sum_over_processes(metrics, accelerator)
    return scores


def sum_over_processes(metrics: Metrics, accelerator: Accelerator) -> None:
    """Add up the sums of all processes, and gather what there is of single images."""
    if accelerator.num_processes == 1:
        return
    for name in ("confusion", "boundary", "calibration", "uncalibrated", "agreement"):
        setattr(metrics, name, accelerator.reduce(getattr(metrics, name), "sum"))
    gathered: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, metrics.counts)
    metrics.counts = {key: value for counts in gathered for key, value in counts.items()}
