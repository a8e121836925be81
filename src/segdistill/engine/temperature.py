"""Temperature scaling: one number by which logits are divided before probabilities are made of them.

It makes a network as sure as it is right on the images that it is fitted on, and changes no mask.

M: pixels, K: classes, T: the temperature.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Subset

from segdistill.data.labels import VOID
from segdistill.data.loaders import evaluation_samples
from segdistill.data.samples import Samples
from segdistill.data.worker import with_plain_errors
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.metrics import calibration_bins, expected_calibration_error
from segdistill.inference.segment import segment
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

IMAGES = 500
"""Most images that a temperature is fitted on, evenly spaced."""
PIXELS = 2000
"""Most pixels of an image: neighbours tell nearly the same."""
NUMBERS = 2**24
"""Most logits in memory, 64 MiB: with very many classes fewer pixels are drawn."""
RANGE = (0.05, 20.0)
"""Where T is looked for. A network without an error on its images ends at the lower end."""
HALVINGS = 25
"""Of that range, on a logarithmic scale: T is exact to six digits."""


@dataclass(frozen=True, kw_only=True)
class PixelSample:
    """Labelled pixels of some images: M x K float32 logits and M int64 classes, on the CPU."""

    logits: Tensor
    target: Tensor

    def error(self, temperature: float) -> float | None:
        """Expected calibration error of their probabilities at a temperature; None without pixels."""
        confidence, prediction = (self.logits / temperature).softmax(dim=1).max(dim=1)
        return expected_calibration_error(calibration_bins(confidence, prediction == self.target))


@dataclass(frozen=True, kw_only=True)
class FittedTemperature:
    """A temperature, and how much it helps on the pixels that it was fitted on and on others.

    Attributes:
        temperature: T, fitted on all of the drawn pixels, see `best_temperature`.
        images, pixels: how many it was fitted on.
        error_before, error_after: expected calibration error on those pixels.
        held_out_before, held_out_after: the same on the second half of the images, at a temperature that was
            fitted on the first half; None with fewer than two images.
    """

    temperature: float
    images: int
    pixels: int
    error_before: float | None
    error_after: float | None
    held_out_before: float | None
    held_out_after: float | None


def fit(
    network: nn.Module, samples: Samples, accelerator: Accelerator, options: EvaluationOptions
) -> FittedTemperature:
    """Fit the temperature of a network on images with masks; neither weights nor random numbers change.

    Args:
        network: as in `evaluate`, in eval mode, with raw logits.
        samples: images with masks.
        accelerator: device, precision and processes; all processes get the same result.
        options: size of the input, loader processes, callbacks.
    """
    drawn = draw_pixels(network, samples, accelerator, options)
    names = sorted(drawn)
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    everything, halves = _joined(drawn, names), [_joined(drawn, half) for half in (first, second)]
    temperature, alone = best_temperature(everything), best_temperature(halves[0])
    return FittedTemperature(
        temperature=temperature,
        images=len(names),
        pixels=len(everything.target),
        error_before=everything.error(1.0),
        error_after=everything.error(temperature),
        held_out_before=halves[1].error(1.0) if first else None,
        held_out_after=halves[1].error(alone) if first else None,
    )


@torch.inference_mode()
def draw_pixels(
    network: nn.Module, samples: Samples, accelerator: Accelerator, options: EvaluationOptions
) -> dict[str, PixelSample]:
    """Labelled pixels of images at their masks' own size, by image id; which ones depends on the id alone."""
    total = len(samples)
    chosen = [index * total // IMAGES for index in range(IMAGES)] if total > IMAGES else list(range(total))
    classes = len(samples.labels)
    count = max(1, min(PIXELS, NUMBERS // (classes * max(1, len(chosen)))))
    loader = evaluation_samples(
        Subset(samples, chosen), options.size, options.workers,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    drawn: dict[str, PixelSample] = {}
    with accelerator.autocast():
        for image, sample in with_plain_errors(loader):
            if options.stopped():
                break
            logits = segment(network, image.to(accelerator.device), sample.mask.shape).flatten(1)
            mask = sample.mask.flatten().long()
            labelled = (mask != VOID).nonzero()[:, 0]
            generator = torch.Generator().manual_seed(zlib.crc32(sample.id.encode()))
            positions = labelled[torch.randperm(len(labelled), generator=generator)[:count]]
            values = logits[:, positions.to(logits.device)].T.float().cpu().contiguous()
            drawn[sample.id] = PixelSample(logits=values, target=mask[positions])
            options.advance()
    if accelerator.num_processes == 1:
        return drawn
    gathered: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, drawn)
    return {name: sample for each in gathered for name, sample in each.items()}


@torch.inference_mode()
def fit_temperature(sample: PixelSample) -> float:
    """The T whose probabilities give the pixels' classes the least negative log-likelihood.

    That is convex in b = 1 / T, so its slope in b, the mean of E[logit] - logit of the true class, has one
    root: the range is halved towards it.

    Returns:
        T within `RANGE`; 1 where there are no pixels, or all logits of each are equal.
    """
    spread = sample.logits.amax(dim=1) - sample.logits.amin(dim=1) if len(sample.target) else torch.zeros(1)
    if not spread.any():
        return 1.0
    true = sample.logits.gather(1, sample.target[:, None])[:, 0].double().mean()
    low, high = map(math.log, RANGE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        probabilities = (sample.logits / math.exp(middle)).softmax(dim=1)
        expected = (probabilities * sample.logits).sum(dim=1).double().mean()
        low, high = (middle, high) if expected > true else (low, middle)
    return math.exp((low + high) / 2)


def best_temperature(sample: PixelSample) -> float:
    """The fitted temperature; 1 where that has the smaller calibration error.

    What is fitted is the likelihood. For a network that has hardly learnt anything a temperature can raise
    both it and the error.
    """
    temperature = fit_temperature(sample)
    before, after = sample.error(1.0), sample.error(temperature)
    return temperature if before is not None and after is not None and after < before else 1.0


def _joined(drawn: Mapping[str, PixelSample], names: Sequence[str]) -> PixelSample:
    """The pixels of some images; none where there are no images."""
    if not names:
        return PixelSample(logits=torch.zeros(0, 1), target=torch.zeros(0, dtype=torch.int64))
    return PixelSample(
        logits=torch.cat([drawn[name].logits for name in names]),
        target=torch.cat([drawn[name].target for name in names]),
    )


def calibrate(
    network: TrainedNetwork, samples: Samples, accelerator: Accelerator, options: EvaluationOptions
) -> tuple[FittedTemperature, dict[str, Any]]:
    """Fit the temperature of a network, set it, and score it with that on all labelled pixels.

    Args:
        network: in eval mode, on the accelerator's device; its classes are those of the samples.
        samples: images with masks.
        accelerator: device, precision and processes.
        options: size of the input, loader processes, callbacks.

    Returns:
        The fit, and `temperature`, `calibration_error`, `calibration_error_before` and the bins
        `calibration`, as `Metrics.summary` has them.
    """
    scored = Teacher(network, samples.labels)
    fitted = fit(scored, samples, accelerator, options)
    network.temperature = fitted.temperature
    options = replace(options, temperature=fitted.temperature)
    summary = evaluate(scored, samples, samples.labels, accelerator, options).summary()
    names = ("calibration_error", "calibration_error_before", "calibration")
    return fitted, {"temperature": fitted.temperature, **{name: summary[name] for name in names}}


def count_passes(samples: Samples, processes: int) -> int:
    """How often `calibrate` calls `options.advance` in the first of some processes."""
    return -(-min(len(samples), IMAGES) // processes) + -(-len(samples) // processes)


def fit_line(fitted: FittedTemperature) -> str:
    """What people are told of a fit."""
    if fitted.error_before is None or fitted.error_after is None:
        return "Temperature 1: no labelled pixel to fit it on"
    line = (
        f"Temperature {fitted.temperature:.3f}, fitted on {fitted.images} images: calibration error "
        f"{fitted.error_before:.4f} -> {fitted.error_after:.4f}"
    )
    if fitted.held_out_before is None or fitted.held_out_after is None:
        return line
    return (
        f"{line}; fitted on half of them, on the others {fitted.held_out_before:.4f} -> "
        f"{fitted.held_out_after:.4f}"
    )
