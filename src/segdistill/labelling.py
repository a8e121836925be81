"""The verb `label`, as a function: a network's masks become a data set; `segdistill.api` has it too."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from segdistill.config.deploy import LabelConfig
from segdistill.config.keywords import with_keywords
from segdistill.config.show import IMAGES
from segdistill.console import counted, log, progress
from segdistill.data.check import survey
from segdistill.data.datasets import open_dataset
from segdistill.data.formats.classes import ClassMap
from segdistill.data.formats.layout import ALL
from segdistill.data.images import write_image
from segdistill.data.inputs import Source, expand, find_images
from segdistill.data.label_folder import LabelFolder, LabelledImage
from segdistill.engine.runtime import from_main_process, keep_freed_memory_on, make_accelerator
from segdistill.inference.pipeline import Pipeline, UnreadableFilesError
from segdistill.inference.segment import Decide, decide_above, decide_merged
from segdistill.models.fused import fuse_students
from segdistill.models.trained import TrainedNetwork
from segdistill.predicting import open_predictor
from segdistill.reporting.contact_sheet import Sheet, choose, draw_sheet
from segdistill.results import Labelling


def label(
    target: str | Path,
    paths: str | Path | Sequence[str | Path],
    config: LabelConfig | None = None,
    **settings: Any,
) -> Labelling:
    """Write a network's masks of images without masks as a data set that `train` and `data check` read.

    `config.out` gets `images` (hard links where the file system allows it), `masks` (palette PNG of the
    images' own size, 255 is void), `dataset.yaml`, `labels.jpg` (some images with their masks) and
    `label.json` (settings and sources). A later call with the same settings adds images and computes only the
    masks that are missing, or whose image has changed. The processes that `accelerate launch` starts share
    the images; the masks are those of one process.

    Args:
        target: a run folder, or any network spec.
        paths: an image file, a folder of images, a pattern such as `photos/*.jpg`, or several.
        config: output folder, confidence, input size, ...
        settings: settings by name, `out="labels", confidence=0.9`; they win over `config`.

    Returns:
        `out`, `images` and `computed` (how many are there, and by this call), `pixel_shares` and
        `image_counts` by class name, `void_share`, `sheet` and `problems` (how many files could not be read;
        their reasons are logged).

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        ValueError: the folder holds something else or masks of other settings, or another process writes
            into it; settings do not fit each other; or no image could be read.
    """
    config = with_keywords(LabelConfig, config, settings)
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    folder = LabelFolder(config.out)
    folder.check(path for one in given for path in expand(one))
    found = list(find_images(given))
    accelerator = make_accelerator(config.device, "fp32")
    predicting = config.for_masks(str(folder.masks))
    keep_freed_memory_on(accelerator.device)
    network = open_predictor(str(target), predicting, accelerator.device)
    if config.confidence:
        network.require_probabilities()
    settings = mask_settings(str(target), network, config)
    classes = ClassMap.of_names(config.map, network.labels)
    decide = _decision(network, classes, config)
    ready = fuse_students(network)
    ready.labels, folder.bits = classes.labels, network.bits
    pipeline = Pipeline(ready, predicting, accelerator.device, decide=decide, overlays=False)
    with ExitStack() as stack:

        def prepare() -> tuple[list[LabelledImage], list[LabelledImage]]:
            stack.enter_context(folder.locked())
            images = folder.open(found, classes.labels, settings)
            return images, [image for image in images if not folder.has(image)]

        images, missing = from_main_process(accelerator, prepare)
        log(f"Labelling {counted(len(missing), 'image')} with {target} into {config.out}", accelerator)
        reasons = _write_masks(folder, missing, pipeline, len(images), accelerator)
        return Labelling(
            from_main_process(accelerator, lambda: _finish(folder, len(missing) - len(reasons), len(reasons)))
        )


def mask_settings(target: str, network: TrainedNetwork, config: LabelConfig) -> dict[str, Any]:
    """What the masks depend on, as label.json keeps it."""
    return {
        "target": target,
        "confidence": config.confidence,
        "map": config.map or None,  # as in folders of versions that had no map
        "temperature": network.temperature if config.confidence else None,  # which changes no class
        "size": network.long_side(config.size),
        "flip": config.flip,
        "output_stride": network.output_stride,
        "bits": network.bits,
        "precision": config.precision,
        "provider": config.provider,
        "weights": network.fingerprint(),
    }


def _decision(network: TrainedNetwork, classes: ClassMap, config: LabelConfig) -> Decide:
    """What makes the masks' classes of the network's logits."""
    if classes.identity:
        return decide_above(config.confidence, network.temperature)
    merge = classes.of_logits(network.labels)
    return decide_merged(config.confidence, network.temperature, merge, len(classes.labels))


def _write_masks(
    folder: LabelFolder,
    missing: list[LabelledImage],
    pipeline: Pipeline,
    total: int,
    accelerator: Accelerator,
) -> dict[Source, str]:
    """Compute the masks that are missing, each in one of the processes.

    Returns:
        Why, by file, some could not be computed, from all processes.

    Raises:
        UnreadableFilesError: that is all of `total` images.
    """
    own = missing[accelerator.process_index :: accelerator.num_processes]
    by_mask = {folder.mask_file(image): image for image in own}
    reasons: dict[Source, str] = {}
    with progress(accelerator.is_main_process) as bar:
        task = bar.add_task("label", total=len(own), unit="image")
        try:
            for mask, prediction in pipeline.run(own):
                folder.add(by_mask[mask])
                shares = dict(list(prediction.shares.items())[:5])
                if (void := 1 - sum(prediction.shares.values())) > 1e-6:
                    shares["void"] = void
                log(f"{mask}: {', '.join(f'{name} {share:.0%}' for name, share in shares.items())}")
                bar.advance(task)
        except UnreadableFilesError as error:
            reasons = error.reasons
    for others in gather_object([reasons]):
        reasons |= others
    if reasons and len(reasons) == total:
        raise UnreadableFilesError(reasons, total)
    for reason in reasons.values():
        log(f"Left out: {reason}", accelerator)
    return reasons


def _finish(folder: LabelFolder, computed: int, problems: int) -> dict[str, Any]:
    """Write the sheet, and count what the masks hold; see `label`."""
    samples = open_dataset(folder.path, ALL)
    counted = survey(samples)
    chosen = choose(IMAGES, range(len(samples)))
    title = f"{len(chosen)} of {len(samples):,} images, evenly chosen, and their masks"
    sheet = Sheet(title=title, samples=samples, indices=chosen, counted=counted)
    write_image(folder.sheet, draw_sheet(sheet), "JPEG")
    return {
        "out": str(folder.path),
        "images": len(samples),
        "computed": computed,
        **counted.record,
        "sheet": str(folder.sheet),
        "problems": problems,
    }
