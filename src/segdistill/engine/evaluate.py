"""Evaluation at the masks' own size, of anything that turns images into logits."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from segdistill.data.labels import LabelSet
from segdistill.data.loaders import evaluation_samples
from segdistill.data.samples import Sample
from segdistill.data.worker import with_plain_errors
from segdistill.engine.metrics import Metrics
from segdistill.inference.segment import segment


def evaluate(
    network: nn.Module,
    samples: Dataset[Sample],
    labels: LabelSet,
    *,
    accelerator: Accelerator,
    size: int | None = None,
    workers: int = 0,
    teacher: nn.Module | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    advance: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Score a network on a data set with masks.

    Images go through the network one by one, their long side resized to `size`; its logits are resized
    bilinearly to the mask's own size before the class is taken. Sums are added up over all processes.

    Args:
        network: from N x 3 x H x W normalised images to N x K x H x W logits over `labels`.
        samples: images with masks.
        labels: the K classes.
        accelerator: device, precision and processes.
        size: long side, in pixels, that the network sees; None for the image's own.
        workers: loader processes.
        teacher: a network with the same output to compare decisions with; it sees images at their own size.
        flip, scales: views of the image to average, see `segment`.
        advance: called after each image.
        stopped: asked before each image; once it is true, the rest of this process's images is left out.

    Returns:
        The sums, on the first process those of all.
    """
    device = accelerator.device
    metrics = Metrics(labels, torch.device("cpu") if device.type == "mps" else device)  # mps has no float64
    loader = evaluation_samples(
        samples, size, workers, rank=accelerator.process_index, world=accelerator.num_processes
    )
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(), accelerator.autocast():
            for image, sample in with_plain_errors(loader):
                if stopped():
                    break
                mask = sample.mask.long()
                logits = segment(network, image.to(device), mask.shape, flip=flip, scales=scales)
                known = None if teacher is None else segment(teacher, sample.image.to(device), mask.shape)
                with torch.autocast(device.type, enabled=False):
                    metrics.update(logits, mask, sample.id, known)
                advance()
    finally:
        network.train(training)
    _sum_over_processes(metrics, accelerator)
    return metrics


def _sum_over_processes(metrics: Metrics, accelerator: Accelerator) -> None:
    if accelerator.num_processes == 1:
        return
    for name in ("confusion", "boundary", "calibration", "agreement"):
        setattr(metrics, name, accelerator.reduce(getattr(metrics, name), "sum"))
    gathered: list[dict[str, float | None] | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, metrics.images)
    metrics.images = {key: value for part in gathered if part for key, value in part.items()}
