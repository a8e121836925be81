"""A run's file for a faster runtime: made once, checked against PyTorch, and kept in the run folder."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segdistill.config.deploy import ExportConfig, RuntimeName
from segdistill.config.naming import setting
from segdistill.console import log
from segdistill.engine.run_folder import Record, RunFolder
from segdistill.models.file_formats import FORMATS, format_of
from segdistill.models.hub_runs import find_run
from segdistill.version import __version__

if TYPE_CHECKING:
    from segdistill.data.samples import FileSamples

FASTEST = ("openvino", "onnx")
"""Runtimes that `auto` looks for, in this order; see docs/deploy.md for what they gain."""

IMAGES = 8
"""Validation images on which file and PyTorch are compared, where the run's are at hand."""


def fast_file(target: str, runtime: RuntimeName, precision: str, device: torch.device) -> Path | None:
    """The file that computes a run folder in the runtime that is asked for; None where PyTorch does.

    The choice is logged in one line. An exported file has its own runtime: it is left as it is.

    Args:
        target: a run folder, or any network spec.
        runtime: `auto` falls back to PyTorch, with the reason, where there is no faster one.
        precision: fp32 or bf16.
        device: where PyTorch would compute.

    Raises:
        FileNotFoundError: the run has no student.
        ValueError: the runtime is not installed, does not fit target or device, or computes something else.
        OSError: the run folder cannot be written.
    """
    if runtime == "pytorch" or (runtime == "auto" and format_of(target) is not None):
        return None
    reasons = []
    for form in FASTEST if runtime == "auto" else (runtime,):
        try:
            return _checked_file(target, form, precision, device)
        except (ValueError, OSError) as error:
            if runtime != "auto":
                raise
            reasons.append(str(error))
    log(f"{target} is computed by PyTorch: {'; '.join(dict.fromkeys(reasons))}")
    return None


def _checked_file(target: str, form: str, precision: str, device: torch.device) -> Path:
    """The run's file for one runtime, as it is there, or made now."""
    if find_run(target) != Path(target):  # nothing is written into the cache of the hub
        raise ValueError(f"{setting('runtime')} is for run folders on this disk, and {target} is none")
    if device.type != "cpu":
        raise ValueError(
            f"{setting('runtime')} {form} computes on the CPU, and PyTorch on {device.type}: add "
            f"{setting('device')} cpu"
        )
    if precision not in FORMATS[form].precisions:
        raise ValueError(
            f"{setting('runtime')} {form} computes in {' or '.join(FORMATS[form].precisions)} only"
        )
    FORMATS[form].import_runtime()
    folder = RunFolder(target)
    source = {
        "student": folder.student_digest(),
        "segdistill": __version__,
        FORMATS[form].runtime: import_module(FORMATS[form].runtime).__version__,
    }
    files = folder.runtimes
    record = files.record(form, source)
    if record is None:
        with files.locked():
            record = files.record(form, source)
            if record is None:
                log(f"Making {files.file(form)}, once")
                record = _make(folder, form, source)
    log(
        f"{target} is computed by {form}: {_checked(record)}, and no logit "
        f"differs by more than {record['parity']['logit_difference']:.1g}"
    )
    return files.file(form)


def _make(folder: RunFolder, form: str, source: Record) -> Record:
    """Write the file and its record; nothing is kept if it computes something else."""
    from segdistill.exporting.export import export  # not above: later calls need none of it

    config = ExportConfig(format=form, input="tensor", images=IMAGES)  # type: ignore[arg-type]
    with export(folder.student(), folder.runtimes.file(form), config, samples=_images(folder)) as written:
        record = written.record | {"source": source}
    same = record["parity"]["equal_pixels"]
    if same is not None and same < config.same_class:
        folder.runtimes.remove(form)
        raise ValueError(
            f"{form} has PyTorch's class on {same:.4%} of the pixels, below {config.same_class:.4%}"
        )
    folder.runtimes.write_record(form, record)
    return record


def _images(folder: RunFolder) -> "FileSamples | None":
    """The run's validation images, where they are at hand."""
    from segdistill.data.datasets import open_validation

    try:
        return open_validation(folder.config.data)
    except (FileNotFoundError, ValueError):
        return None


def _checked(record: Record) -> str:
    """What was compared, in words."""
    parity = record["parity"]
    if parity["equal_pixels"] is None:
        same, images = parity["same_class"], "drawn images"
    else:
        same, images = parity["equal_pixels"], f"{parity['images']} validation images"
    return f"{same:.3%} of the pixels of {images} have PyTorch's class"
