"""A trained network as a file for another runtime, kept only if it computes there what PyTorch does."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segdistill.config.deploy import WEB_SUFFIX, ExportConfig
from segdistill.data.samples import FileSamples
from segdistill.engine.agreement import Pair
from segdistill.exporting.parity import compare, compare_scores, scores_record
from segdistill.exporting.quantize import QUANTIZERS, halve_weights
from segdistill.exporting.writers import WRITERS, trace
from segdistill.models.exported import FORMATS, ExportCard, FileFormat
from segdistill.models.hub_runs import find_run
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.version import __version__


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written and kept.

    Attributes:
        path: the file.
        record: format, card, bytes and parity; the content of the JSON file beside it.
        network: the file, opened in its own runtime.
        pair: what network and file did on images with masks; None where there were none.
    """

    path: Path
    record: dict[str, Any]
    network: TrainedNetwork
    pair: Pair | None


def export(
    network: TrainedNetwork,
    path: Path,
    config: ExportConfig,
    *,
    samples: FileSamples | None = None,
    calibration: Sequence[Tensor] = (),
) -> Exported:
    """Write a network to `path`, run it in its own runtime, and keep it if it passes.

    Args:
        network: a PyTorch network, on the CPU.
        path: the file; its record is written beside it as PATH.json.
        config: format and limits.
        samples: images with masks that both are scored on.
        calibration: 3 x H x W uint8 images for int8.

    Raises:
        ValueError: the network cannot be exported, or the file does not pass; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        exported = write_checked(network, draft, path, config, samples=samples, calibration=calibration)
        files = sorted(draft.parent.iterdir(), key=lambda file: file == draft)
        beside = draft.with_name(f"{draft.name}.json")
        beside.write_text(json.dumps(exported.record, indent=2) + "\n")
        for file in (beside, *files):  # the network itself comes last
            file.replace(path.with_name(file.name))
    return exported


def write_checked(
    network: TrainedNetwork,
    draft: Path,
    path: Path,
    config: ExportConfig,
    *,
    samples: FileSamples | None,
    calibration: Sequence[Tensor],
) -> Exported:
    """Write a network to `draft`, in an empty folder, and compare; `path` is where it will be.

    Args, returns, raises: see `export`.
    """
    form = file_format(config.format)
    card = ExportCard(
        labels=network.labels, mean=network.mean, std=network.std, size=network.size, input=config.input,
        output=config.output, source=network.spec, version=__version__, output_stride=network.output_stride,
        temperature=1.0 if config.output == "mask" else network.temperature,
    )  # fmt: skip
    _write(network, draft, card, config, calibration)
    written = load_network(str(draft))
    parity = compare(network, written)
    pair = compare_scores(network, written, samples, config.images)
    parity |= scores_record(pair)
    require_parity(parity, config, path)
    record = {
        "file": path.name,
        "format": form.name,
        "quantize": config.quantize,
        **card.to_dict(),
        "largest": _limits(form),
        "bytes": sum(file.stat().st_size for file in draft.parent.iterdir()),
        "parity": parity,
    }
    return Exported(path=path, record=record, network=written, pair=pair)


def export_path(spec: str, config: ExportConfig) -> Path:
    """The file that the settings ask for; of a page in parts, the folder.

    Raises:
        ValueError: it has no name, or one that does not fit the format; or the folder is there already.
    """
    if config.format == "web" and config.web.folder:
        if not config.out:
            raise ValueError("name the folder with --out DIR")
        if Path(config.out).exists():
            raise ValueError(f"{config.out} is there already: choose another folder, or delete it")
        return Path(config.out)
    suffix = WEB_SUFFIX if config.format == "web" else FORMATS[config.format].suffix
    if not config.out and find_run(spec) != Path(spec):  # the cache of the hub is not ours to write into
        raise ValueError(f"name the file with --out FILE{suffix}")
    path = Path(config.out) if config.out else Path(spec) / f"model{suffix}"
    if path.suffix != suffix:
        raise ValueError(f"out is {config.out!r}, but {config.format} files end with {suffix}")
    return path


def file_format(name: str) -> FileFormat:
    """The format of the network's file; a page has an ONNX file in it."""
    return FORMATS["onnx" if name == "web" else name]


def check_format(config: ExportConfig) -> None:
    """Raise a `ValueError` if the format lacks the number type that the settings ask for."""
    wanted = config.quantize
    if wanted is not None and wanted not in file_format(config.format).quantize:
        possible = [name for name, form in FORMATS.items() if wanted in form.quantize]
        raise ValueError(
            f"quantize is {wanted!r}, but must be null for {config.format}: "
            f"{', '.join(possible)} and web have {wanted}"
        )


def _write(
    network: TrainedNetwork, path: Path, card: ExportCard, config: ExportConfig, calibration: Sequence[Tensor]
) -> None:
    """Write the network's file or files, whatever they compute."""
    form = file_format(config.format).name
    program = trace(network, card, form, int8=config.quantize == "int8")
    with _plain_errors(network.spec, form):
        if config.quantize == "int8":
            QUANTIZERS[form](program, path, card, calibration)
        else:
            WRITERS[form](program, path, card)
        if config.quantize == "float16":
            halve_weights(path)


@contextlib.contextmanager
def _plain_errors(spec: str, form: str) -> Iterator[None]:
    """Whatever a converter raises becomes a `ValueError` that names what to try."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(FORMATS[form].missing(error)) from None
    except Exception as error:  # converters raise nearly anything
        reason = " ".join(str(error).split())[-300:] or type(error).__name__
        others = ", ".join(f"--format {other}" for other in WRITERS if other != form)
        raise ValueError(f"{spec} cannot be written as {form}: {reason}; try {others}") from None


def require_parity(parity: dict[str, Any], config: ExportConfig, path: Path) -> None:
    """Raise a `ValueError` unless the file computes what the network does, within the limits."""
    if config.quantize != "int8":
        if parity["same_class"] < config.same_class:
            raise ValueError(
                f"{path} was not written: {parity['same_class']:.4%} of the pixels have PyTorch's class, but "
                f"--same_class asks for {config.same_class:.4%}"
            )
        return
    before, after = parity["miou_before"], parity["miou_after"]
    if before is None or after is None:
        raise ValueError("what int8 loses must be measured: name a data set with masks with --data.root")
    if 100 * (before - after) > config.max_loss:
        raise ValueError(
            f"{path} was not written: int8 takes mean IoU from {before:.4f} to {after:.4f}, more than "
            f"{config.max_loss} points; calibrate on more images, or allow it with --max_loss"
        )


def _limits(form: FileFormat) -> dict[str, int] | None:
    """Most images and longest side, in pixels, that a file takes at once; None without a limit."""
    return None if form.largest is None else dict(zip(("batch", "side"), form.largest, strict=True))
