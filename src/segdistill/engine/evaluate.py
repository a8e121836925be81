"""Evaluation at the masks' own size, of anything that turns images into logits."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from segdistill.data.datasets import Sample
from segdistill.data.labels import LabelSet
from segdistill.data.loaders import evaluation_samples, plainly
from segdistill.data.transforms import normalise
from segdistill.engine.metrics import Metrics


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
            for image, sample in plainly(loader):
                if stopped():
                    break
                mask = sample.mask.long()
                logits = segment(network, image, mask.shape, device=device, flip=flip, scales=scales)
                known = None if teacher is None else segment(teacher, sample.image, mask.shape, device=device)
                with torch.autocast(device.type, enabled=False):
                    metrics.update(logits, mask, sample.id, known)
                advance()
    finally:
        network.train(training)
    _sum_over_processes(metrics, accelerator)
    return metrics


@torch.inference_mode()
def segment(
    network: nn.Module,
    image: Tensor,
    size: torch.Size | tuple[int, int],
    *,
    device: torch.device | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> Tensor:
    """What a network sees in one image.

    Args:
        network: on `device`, in eval mode.
        image: 3 x h x w uint8 RGB, at the size that the network is to see.
        size: H, W that is asked for.
        device: where to compute; None for the CPU.
        flip: also look at the mirrored image, and average the probabilities.
        scales: look at the image at each of these relative sizes, and average the probabilities.

    Returns:
        K x H x W float32: with one plain view the network's logits, resized bilinearly; otherwise the
        logarithm of the mean probability.
    """
    pixels = normalise(image.to(device or torch.device("cpu")))[None]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    views = []
    for scale in scales:
        seen = pixels
        if scale != 1:
            wanted = [max(1, round(side * scale)) for side in pixels.shape[2:]]
            seen = F.interpolate(pixels, size=wanted, mode="bilinear", align_corners=False, antialias=True)
        views.append(resize_logits(network(seen), size))
        if flip:
            views.append(resize_logits(network(seen.flip(3)).flip(3), size))
    if len(views) == 1:
        return views[0][0]
    total = torch.stack([view.log_softmax(dim=1) for view in views]).logsumexp(dim=0)[0]
    return total - math.log(len(views))


def resize_logits(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """N x K x h x w -> N x K x H x W float32, bilinear."""
    logits = logits.float()
    if logits.shape[2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _sum_over_processes(metrics: Metrics, accelerator: Accelerator) -> None:
    if accelerator.num_processes == 1:
        return
    for name in ("confusion", "boundary", "calibration", "agreement"):
        setattr(metrics, name, accelerator.reduce(getattr(metrics, name), "sum"))
    gathered: list[dict[str, float | None] | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, metrics.images)
    metrics.images = {key: value for part in gathered if part for key, value in part.items()}
