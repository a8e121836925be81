"""Two networks on the same images: the scores of each, and where their masks and probabilities differ.

K: classes, H, W: rows and columns of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from segdistill.data.samples import FileSamples, Sample
from segdistill.engine.evaluate import EvaluationOptions, evaluate_together
from segdistill.engine.metrics import Metrics
from segdistill.inference.segment import class_probabilities, largest_class
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

WORST = 5
"""Images that are kept to be looked at."""


@dataclass(frozen=True, kw_only=True)
class DifferingImage:
    """An image on which two networks differ.

    Attributes:
        id: its name.
        equal: fraction of its pixels with the same class.
        image: H x W x 3 uint8, RGB.
        truth: H x W uint8, class index or 255 = void.
        masks: H x W uint8 class indices of the first network and of the second.
    """

    id: str
    equal: float
    image: np.ndarray
    truth: np.ndarray
    masks: tuple[np.ndarray, np.ndarray]


class Agreement:
    """Running sums over images of how far two networks agree; void pixels count like any other.

    Args:
        networks: for the temperatures of their probabilities.

    Attributes:
        equal, pixels: with the same class, and all.
        deviation: largest absolute difference of two probabilities of a class at a pixel; None before the
            first image, and where one of the networks outputs masks.
        worst: the images with the smallest fraction of equal pixels, at most `WORST`, the worst first.
    """

    def __init__(self, networks: Sequence[TrainedNetwork]) -> None:
        self.temperatures = [network.temperature for network in networks]
        self.has_probabilities = not any(network.outputs_masks for network in networks)
        self.equal = self.pixels = 0
        self.deviation: float | None = None
        self.worst: list[DifferingImage] = []

    @property
    def share(self) -> float | None:
        """Fraction of the pixels with the same class; None before the first image."""
        return self.equal / self.pixels if self.pixels else None

    def update(self, sample: Sample, logits: Sequence[Tensor]) -> None:
        """Add one image, with both networks' K x H x W logits at its mask's size."""
        first, second = (largest_class(each) for each in logits)
        equal = int((first == second).sum())
        self.equal, self.pixels = self.equal + equal, self.pixels + first.size
        if self.has_probabilities:
            one, other = map(class_probabilities, logits, self.temperatures)
            self.deviation = max(self.deviation or 0.0, float((one - other).abs().max()))
        if equal == first.size:
            return
        image = sample.image.permute(1, 2, 0).numpy()
        differing = DifferingImage(
            id=sample.id,
            equal=equal / first.size,
            image=image,
            truth=sample.mask.numpy(),
            masks=(first, second),
        )
        self.worst = sorted([*self.worst, differing], key=lambda each: (each.equal, each.id))[:WORST]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two networks did on the same images.

    Attributes:
        samples: the images.
        sizes: long side, in pixels, of the input of each network; None for the image's own.
        metrics: the sums of each network.
        agreement: of the two.
    """

    samples: FileSamples
    sizes: tuple[int | None, int | None]
    metrics: tuple[Metrics, Metrics]
    agreement: Agreement


def evaluate_pair(
    networks: tuple[TrainedNetwork, TrainedNetwork],
    sizes: tuple[int | None, int | None],
    samples: FileSamples,
    accelerator: Accelerator,
    options: EvaluationOptions,
) -> Pair:
    """Score two networks in one pass over images with masks.

    Args:
        networks: whose classes have the data set's names.
        sizes: long side of the input of each, in pixels; None for the image's own.
        samples: images with masks.
        accelerator: device and precision; of one process.
        options: as in `evaluate`, but for size and temperature.
    """
    agreement = Agreement(networks)
    scored = [Teacher(network, samples.labels).to(accelerator.device) for network in networks]
    first, second = evaluate_together(
        list(zip((each.to(memory_format=torch.channels_last) for each in scored), sizes, strict=True)),
        samples,
        samples.labels,
        accelerator,
        options,
        observe=agreement.update,
    )
    return Pair(samples=samples, sizes=sizes, metrics=(first, second), agreement=agreement)
