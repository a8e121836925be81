"""A trained network as a file for another runtime, kept only if it computes there what PyTorch does."""

import contextlib
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from segdistill.config.deploy import LEAST_SIDE, WEB_SUFFIX, ExportConfig
from segdistill.config.naming import setting
from segdistill.console import counted, log
from segdistill.data.samples import FileSamples
from segdistill.engine.agreement import Pair
from segdistill.exporting.parity import compare_logits, compare_scores, same_class_fraction, scores_record
from segdistill.exporting.quantize import QUANTIZERS, halve_weights
from segdistill.exporting.writers import WRITERS, trace
from segdistill.models.export_card import ExportCard
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import FORMATS, FileFormat
from segdistill.models.hub_runs import find_run
from segdistill.models.spec import display_name
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network
from segdistill.version import __version__

LEAST_AGREEMENT = 0.9
"""Smallest fraction of pixels with PyTorch's class in an int8 file, where no masks tell what it loses."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written and kept; a context in which its runtime is open.

    Attributes:
        path: the file.
        record: format, card, bytes and parity; the content of the JSON file beside it.
        network: the file, opened in its own runtime; None where that does not run on this system.
        pair: what network and file did on images with masks; None where there were none.
    """

    path: Path
    record: dict[str, Any]
    network: TrainedNetwork | None
    pair: Pair | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.network is not None:
            close(self.network)


def close(network: TrainedNetwork) -> None:
    """End the process that runs an exported file, where there is one."""
    if isinstance(network.module, ExportedNetwork):
        network.module.close()


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
        with contextlib.ExitStack() as stack:
            stack.push(exported)
            beside = draft.with_name(f"{draft.name}.json")
            beside.write_text(json.dumps(exported.record, indent=2) + "\n")
            _move_into_place(draft, path)
            stack.pop_all()  # the file stays open, for whoever gets it
    return exported


def _move_into_place(draft: Path, path: Path) -> None:
    """Move what was written to where it will be, the network itself last."""
    if path.is_dir():
        shutil.rmtree(path)  # no folder replaces one that has files
    for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):
        file.replace(path.with_name(file.name))


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
    card = make_card(network, config)
    fitted = f", in 8 bits that fit {counted(len(calibration), 'image')}" if calibration else ""
    log(f"Writing {draft.name}{fitted if config.quantize == 'int8' else ''}")
    _write(network, draft, card, config, calibration)
    with contextlib.ExitStack() as stack:
        written = load_network(str(draft), LoadOptions(isolated=True)) if runs_here(form) else None
        if written is not None:
            stack.callback(close, written)
        parity, pair = _compare(network, written, samples, config)
        if written is not None and pair is None and calibration:
            log(f"Comparing it with PyTorch on {counted(len(calibration), 'calibration image')}")
            parity["calibration_pixels"] = same_class_fraction(network, written, calibration)
        if written is not None and "fp16" in form.precisions:  # what phones compute in
            parity["fp16"] = _compare_half(network, draft)
        require_parity(parity, config, path)
        stack.pop_all()  # the file stays open, for whoever gets it
    record = {
        "file": path.name,
        "format": form.name,
        "quantize": config.quantize,
        **card.to_dict(),
        "largest": _limits(form, card),
        "bytes": sum(file.stat().st_size for file in form.files(draft)),
        "parity": parity,
    }
    return Exported(path=path, record=record, network=written, pair=pair)


def write_unchecked(
    network: TrainedNetwork, path: Path, config: ExportConfig, calibration: Sequence[Tensor] = ()
) -> None:
    """Write a network to `path` without comparing anything: to measure one that is not trained.

    Args, raises: see `export`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        _write(network, draft, make_card(network, config), config, calibration)
        _move_into_place(draft, path)


def make_card(network: TrainedNetwork, config: ExportConfig) -> ExportCard:
    """What the file will say of itself.

    Raises:
        ValueError: it takes one size, and neither network nor settings name it.
    """
    return ExportCard(
        labels=network.labels, mean=network.mean, std=network.std, size=network.size, input=config.input,
        output=config.output, source=display_name(network.spec), version=__version__,
        output_stride=network.output_stride,
        temperature=1.0 if config.output == "mask" else network.temperature,
        side=_square_side(network, config), bits=network.bits,
    )  # fmt: skip


def _compare_half(network: TrainedNetwork, draft: Path) -> dict[str, Any]:
    """What `compare_logits` finds of the file where it computes in fp16."""
    log("Comparing it with PyTorch in fp16")
    half = load_network(str(draft), LoadOptions(precision="fp16", isolated=True))
    try:
        return compare_logits(network, half)
    finally:
        close(half)


def runs_here(form: FileFormat) -> bool:
    """Whether this system has what runs such files."""
    return form.system in {None, platform.system()}


def _square_side(network: TrainedNetwork, config: ExportConfig) -> int | None:
    """Side of the one image that the file takes; None for free sizes."""
    if not file_format(config.format).square:
        return None
    side = config.side or network.size
    if side is None:
        raise ValueError(
            f"{config.format} files take images of one size: name its side in pixels with {setting('side')}"
        )
    return max(side, LEAST_SIDE)


def _compare(
    network: TrainedNetwork, written: TrainedNetwork | None, samples: FileSamples | None, config: ExportConfig
) -> tuple[dict[str, Any], Pair | None]:
    """What `compare_logits` and `compare_scores` find; all of it None where the file cannot be run."""
    if written is None:
        nothing: dict[str, Any] = {"sizes": [], "batches": [], "logit_difference": None, "same_class": None}
        return nothing | scores_record(None), None
    pair = compare_scores(network, written, samples, config.images)
    log("Comparing it with PyTorch on drawn images")
    return compare_logits(network, written) | scores_record(pair), pair


def export_path(spec: str, config: ExportConfig) -> Path:
    """The file that the settings ask for; of a page in parts, the folder.

    Raises:
        ValueError: it has no name, or one that does not fit the format; or the folder is there already.
    """
    if config.format == "web" and config.web.folder:
        if not config.out:
            raise ValueError(f"name the folder with {setting('out')} DIR")
        if Path(config.out).exists():
            raise ValueError(f"{config.out} is there already: choose another folder, or delete it")
        return Path(config.out)
    suffix = WEB_SUFFIX if config.format == "web" else FORMATS[config.format].suffix
    if not config.out and find_run(spec) != Path(spec):  # the cache of the hub is not ours to write into
        raise ValueError(f"name the file with {setting('out')} FILE{suffix}")
    path = Path(config.out) if config.out else Path(spec) / f"model{suffix}"
    if not path.name.endswith(suffix):
        raise ValueError(f"out is {config.out!r}, but {config.format} files end with {suffix}")
    return path


def file_format(name: str) -> FileFormat:
    """The format of the network's file; a page has an ONNX file in it."""
    return FORMATS["onnx" if name == "web" else name]


def check_format(config: ExportConfig) -> None:
    """Raise a `ValueError` if the format lacks the number type, side or output that the settings ask for."""
    wanted, form = config.quantize, file_format(config.format)
    if config.side is not None and not form.square:
        raise ValueError(f"side is {config.side}, but must be null for {config.format}: it takes any size")
    if config.output == "mask" and form.planes:
        possible = [name for name, form in FORMATS.items() if not form.planes]
        raise ValueError(
            f"output is 'mask', but must be logits for {config.format}: {', '.join(possible)} have masks"
        )
    if wanted is not None and wanted not in form.quantize:
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
        others = ", ".join(f"{setting('format')} {other}" for other in WRITERS if other != form)
        raise ValueError(f"{spec} cannot be written as {form}: {reason}; try {others}") from None


def require_parity(parity: dict[str, Any], config: ExportConfig, path: Path) -> None:
    """Raise a `ValueError` unless the file computes what the network does, within the limits."""
    if config.quantize != "int8":
        if parity["same_class"] is not None and parity["same_class"] < config.same_class:
            raise ValueError(
                f"{path} was not written: {parity['same_class']:.4%} of the pixels have PyTorch's class, but "
                f"{setting('same_class')} asks for {config.same_class:.4%}"
            )
        return
    before, after = parity["miou_before"], parity["miou_after"]
    if before is None or after is None:
        same, images = parity.get("calibration_pixels"), "its calibration images"
        if same is None:
            same, images = parity["same_class"], "drawn images"
        if same < LEAST_AGREEMENT:
            raise ValueError(
                f"{path} was not written: int8 gives {same:.2%} of the pixels of {images} PyTorch's class, "
                f"but must give {LEAST_AGREEMENT:.0%}: name images with masks with {setting('data.root')}, "
                "and mean IoU decides"
            )
        return
    if 100 * (before - after) > config.max_loss:
        raise ValueError(
            f"{path} was not written: int8 takes mean IoU from {before:.4f} to {after:.4f}, more than "
            f"{config.max_loss} points; calibrate on more images, or allow it with {setting('max_loss')}"
        )


def _limits(form: FileFormat, card: ExportCard) -> dict[str, int] | None:
    """Most images and longest side, in pixels, that a file takes at once; None without a limit."""
    largest = form.largest if card.side is None else (1, card.side)
    return None if largest is None else dict(zip(("batch", "side"), largest, strict=True))
