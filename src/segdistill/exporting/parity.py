"""Whether an exported network still answers as PyTorch does: on drawn images, and in mean IoU.

N: images, H, W: rows and columns, K: classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from segdistill.data.labels import LabelSet
from segdistill.data.samples import Sample
from segdistill.data.transforms import normalise
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.runtime import make_accelerator
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

SIZES = ((1, 1), (7, 5), (33, 65), (64, 64), (97, 128))
"""H, W of the images that both networks are shown: tiny, odd and even ones."""

BATCHES = (1, 3)
"""How many images are shown at once, as far as the format takes them."""


def draw_images(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """N x 3 x H x W uint8: smooth blots and some noise, for noise alone looks like no photograph."""
    coarse = torch.rand(count, 3, 1 + height // 16, 1 + width // 16, generator=generator)
    blots = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.rand(count, 3, height, width, generator=generator)
    return (255 * (0.85 * blots + 0.15 * noise)).to(torch.uint8)


@torch.inference_mode()
def compare(reference: TrainedNetwork, exported: TrainedNetwork) -> dict[str, Any]:
    """Show both networks the same drawn images at every size and batch, leaving out what the first refuses.

    The exported one sees each twice and is judged by its second answer: OpenVINO's files answer a shape that
    comes again from another graph.

    Returns:
        `sizes`, `batches`, `logit_difference` (largest absolute; None where the file answers with masks) and
        `same_class` (share of the pixels with the same class).
    """
    generator = torch.Generator().manual_seed(0)
    shown: list[list[int]] = []
    batches = [count for count in BATCHES if exported.largest is None or count <= exported.largest[0]]
    largest, same, pixels = 0.0, 0, 0
    for count in batches:
        for height, width in SIZES:
            image = normalise(draw_images(count, height, width, generator))
            try:
                expected = reference(image)
            except (RuntimeError, ValueError):  # too small for its padding or pooling, say
                continue
            exported(image)
            found = exported(image)
            if found.shape != expected.shape:
                raise ValueError(
                    f"{exported.spec} answers {list(image.shape)} with {list(found.shape)}, "
                    f"not with {list(expected.shape)}"
                )
            largest = max(largest, float((expected - found).abs().max()))
            same += int((expected.argmax(dim=1) == found.argmax(dim=1)).sum())
            pixels += count * height * width
            if [height, width] not in shown:
                shown.append([height, width])
    if not shown:
        raise ValueError(f"{reference.spec} cannot be run on any of the images it was tried with: {SIZES}")
    return {
        "sizes": shown,
        "batches": batches,
        "logit_difference": None if exported.answers_masks else largest,
        "same_class": same / pixels,
    }


def mean_iou(
    network: TrainedNetwork, samples: Dataset[Sample], labels: LabelSet, size: int | None
) -> float | None:
    """Mean IoU on a data set, as `evaluate` scores it; None where no class can be scored."""
    accelerator = make_accelerator("cpu", "fp32")
    scored = Teacher(network, labels)
    return evaluate(scored, samples, labels, accelerator, EvaluationOptions(size=size)).summary()["miou"]
