"""segdistill distils a large semantic-segmentation network into a small one that you can deploy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segdistill.version import __version__

if TYPE_CHECKING:
    from segdistill.api import benchmark, cache, evaluate, export, load_student, predict, report, serve, train
    from segdistill.config.deploy import BenchmarkConfig, ExportConfig, PredictConfig, ServeConfig
    from segdistill.config.evaluate import EvaluateConfig
    from segdistill.config.train import TrainConfig
    from segdistill.engine.runtime import keep_freed_memory
    from segdistill.models.fused import fuse
    from segdistill.models.zoo import build_model

_HOME = {
    "BenchmarkConfig": "config.deploy",
    "EvaluateConfig": "config.evaluate",
    "ExportConfig": "config.deploy",
    "PredictConfig": "config.deploy",
    "ServeConfig": "config.deploy",
    "TrainConfig": "config.train",
    "benchmark": "api",
    "build_model": "models.zoo",
    "cache": "api",
    "evaluate": "api",
    "export": "api",
    "fuse": "models.fused",
    "keep_freed_memory": "engine.runtime",
    "load_student": "api",
    "predict": "api",
    "report": "api",
    "serve": "api",
    "train": "api",
}

__all__ = [
    "BenchmarkConfig",
    "EvaluateConfig",
    "ExportConfig",
    "PredictConfig",
    "ServeConfig",
    "TrainConfig",
    "__version__",
    "benchmark",
    "build_model",
    "cache",
    "evaluate",
    "export",
    "fuse",
    "keep_freed_memory",
    "load_student",
    "predict",
    "report",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: PyTorch takes seconds, and `--help` needs none of it."""
    if name in _HOME:
        return getattr(import_module(f"segdistill.{_HOME[name]}"), name)
    raise AttributeError(f"module 'segdistill' has no attribute {name!r}")
