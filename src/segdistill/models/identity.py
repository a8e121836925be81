"""SHA-256 of the files that hold a network's weights: whether a network is still the same."""

import hashlib
from importlib import import_module
from pathlib import Path

from segdistill.models.card import WEIGHTS
from segdistill.models.exported import ExportedNetwork
from segdistill.models.file_formats import format_of
from segdistill.models.isolated import IsolatedRun
from segdistill.models.spec import parse_spec
from segdistill.models.trained import TrainedNetwork


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(spec: str) -> list[Path]:
    """The files that hold the weights of a run folder or an exported file; none for other networks."""
    parsed, form = parse_spec(spec), format_of(spec)
    if parsed.kind == "run" and parsed.path is not None:
        return [parsed.path / WEIGHTS]
    return form.files(Path(spec)) if parsed.kind == "file" and form is not None else []


def runtime_version(network: TrainedNetwork) -> str:
    """What computes a network, with its version: "onnxruntime 1.32.0"."""
    module = network.module
    if isinstance(module, ExportedNetwork) and isinstance(module.run, IsolatedRun):
        return module.run.packages[0].replace("==", " ")
    name = module.format.runtime.partition(".")[0] if isinstance(module, ExportedNetwork) else "torch"
    return f"{name} {getattr(import_module(name), '__version__', '')}".rstrip()


def weight_digests(spec: str, network: TrainedNetwork) -> dict[str, str]:
    """SHA-256 by file name; under "weights" that of all weights, for a network without a file of its own."""
    return {path.name: file_digest(path) for path in weight_files(spec)} or {"weights": network.fingerprint()}
