"""The verb `label`, as a function: a network's masks become a data set; `segdistill.api` has it too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segdistill.build import open_predictor
from segdistill.config.deploy import LabelConfig
from segdistill.console import log, progress
from segdistill.data.check import Survey, survey
from segdistill.data.datasets import open_dataset
from segdistill.data.label_folder import LabelFolder, LabelledImage
from segdistill.engine.runtime import find_device, keep_freed_memory_on
from segdistill.inference.pipeline import Pipeline, UnreadableFilesError
from segdistill.inference.prediction import find_images, write_image
from segdistill.inference.segment import decide_above
from segdistill.models.fused import fuse_students
from segdistill.reporting.contact_sheet import contact_sheet


def label(
    target: str | Path, paths: str | Path | Sequence[str | Path], config: LabelConfig | None = None
) -> dict[str, Any]:
    """Write a network's masks of images without masks as a data set that `train` and `data check` read.

    `config.out` gets `images` (hard links where the file system allows it), `masks` (palette PNG of the
    images' own size, 255 is void), `dataset.yaml`, `labels.jpg` (some images with their masks) and
    `label.json` (settings and sources). A later call with the same settings adds images and computes only the
    masks that are missing, or whose image has changed.

    Args:
        target: a run folder, or any network spec.
        paths: an image file or folder of images, or several.
        config: output folder, confidence, input size, ...

    Returns:
        `out`, `images` and `computed` (how many are there, and by this call), `pixel_shares` and
        `image_counts` by class name, `void_share`, `sheet` and `problems` (how many files could not be read;
        their reasons are logged).

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        ValueError: the folder holds something else or masks of other settings, or another process writes
            into it; settings do not fit each other; or no image could be read.
    """
    config = config or LabelConfig()
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    folder = LabelFolder(config.out)
    folder.check(given)
    found = list(find_images(given))
    predicting = config.for_masks(str(folder.masks))
    device = find_device(config.device)
    keep_freed_memory_on(device)
    network = open_predictor(str(target), predicting, device)
    if config.confidence and network.outputs_masks:
        raise ValueError(f"{target} outputs masks: it has no probabilities (export it with --output logits)")
    settings = {
        "target": str(target),
        "confidence": config.confidence,
        "temperature": network.temperature if config.confidence else None,  # which changes no class
        "size": config.size or network.size,
        "flip": config.flip,
        "output_stride": network.output_stride,
        "precision": config.precision,
        "weights": network.fingerprint(),
    }
    pipeline = Pipeline(
        fuse_students(network) if config.precision == "fp32" else network,
        predicting,
        device,
        decide=decide_above(config.confidence, network.temperature),
        overlays=False,
    )
    with folder.locked():
        images = folder.open(found, network.labels, settings)
        missing = [image for image in images if not folder.has(image)]
        reasons = _write_masks(folder, missing, pipeline, len(images))
        samples = open_dataset(folder.path, "all")
        counted = survey(samples)
        write_image(folder.sheet, contact_sheet(samples), "JPEG")
    return {
        "out": str(folder.path),
        "images": len(samples),
        "computed": len(missing) - len(reasons),
        **_shares(counted),
        "sheet": str(folder.sheet),
        "problems": len(reasons),
    }


def _write_masks(
    folder: LabelFolder, missing: list[LabelledImage], pipeline: Pipeline, total: int
) -> dict[Path, str]:
    """Compute the masks that are missing; returns why, by file, some could not be.

    Raises:
        UnreadableFilesError: that is all of `total` images.
    """
    by_mask = {folder.mask_file(image): image for image in missing}
    with progress() as bar:
        task = bar.add_task("label", total=total, completed=total - len(missing), numbers="")
        try:
            for mask, prediction in pipeline.run(list(missing)):
                folder.add(by_mask[mask])
                shares = dict(list(prediction.shares.items())[:5])
                if (void := 1 - sum(prediction.shares.values())) > 1e-6:
                    shares["void"] = void
                log(f"{mask}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")
                bar.advance(task)
        except UnreadableFilesError as error:
            if len(error.reasons) == total:
                raise
            for reason in error.reasons.values():
                log(f"Left out: {reason}")
            return error.reasons
    return {}


def _shares(counted: Survey) -> dict[str, Any]:
    """Of all masks: the fraction of the pixels of each class and of void, and in how many each class is."""
    pixels = counted.pixels / counted.pixels.sum()
    names = counted.labels.names
    return {
        "pixel_shares": {name: float(pixels[index]) for index, name in enumerate(names)},
        "image_counts": {name: int(counted.images[index]) for index, name in enumerate(names)},
        "void_share": counted.void,
    }
