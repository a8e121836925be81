"""Whether an exported network computes what PyTorch does: on drawn images, and in mean IoU.

N: images, H, W: rows and columns, K: classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.config.naming import setting
from segdistill.console import counted, log, progress
from segdistill.data.samples import FileSamples
from segdistill.data.transforms import normalise
from segdistill.engine.agreement import Pair, evaluate_pair
from segdistill.engine.evaluate import EvaluationOptions
from segdistill.engine.runtime import make_accelerator
from segdistill.models.trained import TrainedNetwork

SIZES = ((1, 1), (7, 5), (33, 65), (64, 64), (97, 128))
"""H, W of the images that both networks get: tiny, odd and even ones."""

SQUARES = 3
"""Images that both get where the file takes one size."""

BATCHES = (1, 3)
"""How many images they get at once, as far as the format takes them."""


def draw_images(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """N x 3 x H x W uint8: smooth blots and some noise, for noise alone looks like no photograph."""
    coarse = torch.rand(count, 3, 1 + height // 16, 1 + width // 16, generator=generator)
    blots = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.rand(count, 3, height, width, generator=generator)
    return (255 * (0.85 * blots + 0.15 * noise)).to(torch.uint8)


@torch.inference_mode()
def compare_logits(reference: TrainedNetwork, exported: TrainedNetwork) -> dict[str, Any]:
    """Run both networks on the same drawn images of every size and batch.

    Returns:
        `sizes`, `batches`, `logit_difference` (largest absolute; None where the file outputs masks) and
        `same_class` (fraction of the pixels with the same class).

    Raises:
        ValueError: the outputs differ in shape, or the reference takes none of the images.
    """
    batches = [count for count in BATCHES if exported.largest is None or count <= exported.largest[0]]
    sizes: list[list[int]] = []
    difference, same, pixels = 0.0, 0, 0
    for expected, logits in _outputs(reference, exported, batches):
        difference = max(difference, float((expected - logits).abs().max()))
        equal = expected.argmax(dim=1) == logits.argmax(dim=1)
        same, pixels = same + int(equal.sum()), pixels + equal.numel()
        size = list(expected.shape[2:])
        if size not in sizes:
            sizes.append(size)
    if not sizes:
        raise ValueError(f"{reference.spec} cannot be run on any of the images it was tried with: {SIZES}")
    return {
        "sizes": sizes,
        "batches": batches,
        "logit_difference": None if exported.outputs_masks else difference,
        "same_class": same / pixels,
    }


def _outputs(
    reference: TrainedNetwork, exported: TrainedNetwork, batches: list[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Both networks' logits, N x K x H x W, of each drawn batch that the reference takes."""
    generator = torch.Generator().manual_seed(0)
    # A file that takes one size pads smaller images, which changes what a network does near the edges.
    sizes = SIZES if exported.side is None else ((exported.side, exported.side),) * SQUARES
    for count in batches:
        for size in sizes:
            image = normalise(draw_images(count, *size, generator))
            try:
                # Bytes go in: an image that was resized to the output stride would be rounded to them.
                expected = reference.unresized(image)
            except (RuntimeError, ValueError):  # too small for its padding or pooling, say
                continue
            # OpenVINO's files run a shape that comes again in another graph: that one counts.
            exported.unresized(image)
            logits = exported.unresized(image)
            if logits.shape != expected.shape:
                raise ValueError(
                    f"{exported.spec} outputs {list(logits.shape)} for {list(image.shape)}, "
                    f"not {list(expected.shape)}"
                )
            yield expected, logits


def compare_scores(
    reference: TrainedNetwork, exported: TrainedNetwork, samples: FileSamples | None, count: int
) -> Pair | None:
    """Both networks on the same images, at the size of the reference or what the file takes of it.

    Args:
        reference: in PyTorch.
        exported: its file.
        samples: images with masks; None scores nothing.
        count: images that are used, evenly spaced; 0 takes all.
    """
    if samples is None:
        return None
    size = exported.input_size(reference.size)
    accelerator = make_accelerator("cpu", "fp32")
    images = samples.evenly_spaced(count).read_for(reference.bits)
    log(f"Comparing it with PyTorch on {counted(len(images), 'image')}")
    with progress() as bar:
        task = bar.add_task("compare", total=len(images), unit="image")
        options = EvaluationOptions(advance=lambda: bar.advance(task))
        return evaluate_pair((reference, exported), (size, size), images, accelerator, options)


@torch.inference_mode()
def same_class_fraction(
    reference: TrainedNetwork, exported: TrainedNetwork, images: Sequence[Tensor]
) -> float:
    """Fraction of the pixels that have the same class in both; images are 3 x H x W uint8 each."""
    same, pixels = 0, 0
    for image in images:
        batch = normalise(image[None])
        first, second = (network(batch).argmax(dim=1) for network in (reference, exported))
        same, pixels = same + int((first == second).sum()), pixels + first.numel()
    return same / pixels


def scores_record(pair: Pair | None) -> dict[str, Any]:
    """`images`, `miou_before`, `miou_after` and `equal_pixels` (fraction), None where nothing was scored."""
    if pair is None:
        return {"images": 0, "miou_before": None, "miou_after": None, "equal_pixels": None}
    before, after = (metrics.summary()["miou"] for metrics in pair.metrics)
    return {
        "images": len(pair.samples),
        "miou_before": before,
        "miou_after": after,
        "equal_pixels": pair.agreement.share,
    }


def parity_line(parity: Mapping[str, Any]) -> str:
    """What people are told of a comparison."""
    if parity["same_class"] is None:
        return "written and its specification checked, but not run here"
    line = f"{parity['same_class']:.3%} of the pixels of drawn images have PyTorch's class"
    if "fp16" in parity:
        line += f" ({parity['fp16']['same_class']:.3%} in fp16)"
    if parity.get("calibration_pixels") is not None:
        return (
            f"{parity['calibration_pixels']:.2%} of the pixels of the calibration images have PyTorch's "
            f"class in int8; what it loses on others is measured with {setting('data.root')}"
        )
    if parity["miou_before"] is None or parity["miou_after"] is None:
        return line
    scores = f"{parity['miou_before']:.4f} in PyTorch, {parity['miou_after']:.4f} in the file"
    return f"{line}; mean IoU on {parity['images']} images: {scores}"
