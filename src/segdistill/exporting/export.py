"""A trained network as a file for another runtime, written only if it answers there as it does in PyTorch."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import functional as F

from segdistill.config.deploy import ExportConfig
from segdistill.data.images import list_images, read_image
from segdistill.data.labels import LabelSet
from segdistill.data.samples import Sample
from segdistill.data.transforms import resize_long_side
from segdistill.exporting.parity import compare, mean_iou
from segdistill.exporting.quantize import QUANTIZERS
from segdistill.exporting.writers import WRITERS, trace
from segdistill.models.exported import FORMATS, LARGEST, ExportCard
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.version import __version__

SUFFIXES = {form: suffix for suffix, form in FORMATS.items()}

CALIBRATION_SIDE = 512
"""Long side, in pixels, of images to calibrate on for a network without a size: it sees several at once."""


def export(
    network: TrainedNetwork,
    path: Path,
    config: ExportConfig,
    *,
    samples: tuple[Dataset[Sample], LabelSet] | None = None,
    calibration: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """Write a network to `path`, run it in its own runtime, and keep it if it passes.

    Args:
        network: a PyTorch network, on the CPU.
        path: the file; a JSON file with all that is known of it is written beside it.
        config: format and limits.
        samples: images with masks, and their label set, that both are scored on.
        calibration: 3 x H x W uint8 images for 8 bits.

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: the network cannot be exported, or the file does not pass; nothing is left behind then.
    """
    card = ExportCard(
        labels=network.labels, mean=network.mean, std=network.std, size=network.size, input=config.input,
        output=config.output, source=network.spec, version=__version__,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        program = trace(network, card, config.format, eight_bits=config.quantize is not None)
        with _plain_errors(network.spec, config.format):
            if config.quantize is None:
                WRITERS[config.format](program, draft, card)
            else:
                QUANTIZERS[config.format](program, draft, card, calibration)
        written = load_network(str(draft))
        parity = compare(network, written)
        parity |= _scores(network, written, samples, config)
        _judge(parity, config, path)
        parts = sorted(draft.parent.iterdir(), key=lambda part: part == draft)
        record = {
            "file": path.name,
            "format": config.format,
            "quantize": config.quantize,
            **card.to_dict(),
            "largest": _largest(config.format),
            "bytes": sum(part.stat().st_size for part in parts),
            "parity": parity,
        }
        sidecar = draft.with_name(f"{draft.name}.json")
        sidecar.write_text(json.dumps(record, indent=2) + "\n")
        for part in (sidecar, *parts):  # the file itself comes last
            part.replace(path.with_name(part.name))
    return record


@contextlib.contextmanager
def _plain_errors(spec: str, form: str) -> Iterator[None]:
    """Whatever a converter raises becomes a `ValueError` that says what to try."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{form} needs {error.name}: install segdistill[{form}]") from None
    except Exception as error:  # converters raise nearly anything
        reason = " ".join(str(error).split())[-300:] or type(error).__name__
        others = ", ".join(f"--format {other}" for other in WRITERS if other != form)
        raise ValueError(f"{spec} cannot be written as {form}: {reason}; try {others}") from None


def calibration_images(found: Dataset[Sample] | Path, count: int, size: int | None) -> list[Tensor]:
    """Up to `count` images of a data set or a folder, evenly spaced, at the size that the network sees.

    Where that is None, those above `CALIBRATION_SIDE` are reduced to it.
    """
    files = list(list_images(found)) if isinstance(found, Path) else None
    total = len(files) if files is not None else len(found)  # type: ignore[arg-type]
    if total == 0:
        raise ValueError(f"{found} holds no images to calibrate on")
    chosen = [index * total // count for index in range(count)] if total > count else range(total)
    images = (
        F.pil_to_tensor(read_image(files[i])) if files is not None else found[i].image  # type: ignore[index]
        for i in chosen
    )
    return [resize_long_side(image, size or min(max(image.shape[1:]), CALIBRATION_SIDE)) for image in images]


def _scores(
    network: TrainedNetwork,
    written: TrainedNetwork,
    samples: tuple[Dataset[Sample], LabelSet] | None,
    config: ExportConfig,
) -> dict[str, Any]:
    """Mean IoU of both on the same images, or nothing without any."""
    if samples is None:
        return {"images": 0, "miou_before": None, "miou_after": None}
    dataset, labels = samples
    count = len(dataset)  # type: ignore[arg-type]
    if 0 < config.images < count:
        dataset = Subset(dataset, [i * count // config.images for i in range(config.images)])
        count = config.images
    sizes = [size for size in (network.size, written.largest_side) if size is not None]
    size = min(sizes, default=None)
    before, after = (mean_iou(each, dataset, labels, size) for each in (network, written))
    return {"images": count, "miou_before": before, "miou_after": after}


def _judge(parity: dict[str, Any], config: ExportConfig, path: Path) -> None:
    """Raise a `ValueError` unless the file answers as the network does, within the limits."""
    if config.quantize is None and parity["same_class"] < config.same_class:
        raise ValueError(
            f"{path} was not written: it gives {parity['same_class']:.4%} of the pixels PyTorch's class, and "
            f"--same_class asks for {config.same_class:.4%}"
        )
    before, after = parity["miou_before"], parity["miou_after"]
    if config.quantize is not None:
        if before is None or after is None:
            raise ValueError("what 8 bits lose must be measured: name a data set with masks with --data.root")
        if 100 * (before - after) > config.max_loss:
            raise ValueError(
                f"{path} was not written: 8 bits take mean IoU from {before:.4f} to {after:.4f}, more than "
                f"{config.max_loss} points; calibrate on more images, or allow it with --max_loss"
            )


def _largest(form: str) -> dict[str, int] | None:
    """Most images and longest side that a file takes; None without a limit."""
    return dict(zip(("batch", "side"), LARGEST[form], strict=True)) if form in LARGEST else None
