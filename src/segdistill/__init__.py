"""segdistill distils a large semantic-segmentation network into a small one that you can deploy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segdistill.version import __version__

if TYPE_CHECKING:
    from segdistill.api import cache, evaluate, export, load_student, predict, report, train
    from segdistill.config import EvaluateConfig, ExportConfig, PredictConfig, TrainConfig
    from segdistill.engine.runtime import keep_freed_memory
    from segdistill.models.fused import fuse
    from segdistill.models.zoo import build_model

_HOME = {
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "PredictConfig": "config",
    "TrainConfig": "config",
    "build_model": "models.zoo",
    "cache": "api",
    "evaluate": "api",
    "export": "api",
    "fuse": "models.fused",
    "keep_freed_memory": "engine.runtime",
    "load_student": "api",
    "predict": "api",
    "report": "api",
    "train": "api",
}

__all__ = [
    "EvaluateConfig",
    "ExportConfig",
    "PredictConfig",
    "TrainConfig",
    "__version__",
    "build_model",
    "cache",
    "evaluate",
    "export",
    "fuse",
    "keep_freed_memory",
    "load_student",
    "predict",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: PyTorch takes seconds, and `--help` needs none of it."""
    if name in _HOME:
        return getattr(import_module(f"segdistill.{_HOME[name]}"), name)
    raise AttributeError(f"module 'segdistill' has no attribute {name!r}")
