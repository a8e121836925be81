"""segdistill distils a large semantic-segmentation network into a small one that you can deploy."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segdistill.version import __version__

# OpenMP reads it when PyTorch is loaded. By default threads spin for milliseconds while they wait for each
# other: on a machine that does other work too everything is several times slower. Threads that sleep at once
# cost a quarter on an idle machine. So they spin for some microseconds.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from segdistill.api import (
        benchmark,
        cache,
        calibrate,
        compare,
        evaluate,
        export,
        label,
        load_student,
        pack,
        push,
        report,
        train,
        verify,
    )
    from segdistill.config.architecture import Architecture
    from segdistill.config.demo import DemoConfig
    from segdistill.config.deploy import (
        BenchmarkConfig,
        ExportConfig,
        LabelConfig,
        LoadConfig,
        PredictConfig,
        PushConfig,
        ServeConfig,
    )
    from segdistill.config.evaluate import (
        CalibrateConfig,
        CompareConfig,
        EvaluateConfig,
        EvaluationDataConfig,
    )
    from segdistill.config.search import SearchConfig
    from segdistill.config.train import (
        AugmentConfig,
        DataConfig,
        ObjectiveConfig,
        OptimConfig,
        RuntimeConfig,
        StudentConfig,
        TeacherConfig,
        TrainConfig,
    )
    from segdistill.config.verify import VerifyConfig
    from segdistill.demonstrating.start import demo
    from segdistill.engine.runtime import keep_freed_memory
    from segdistill.models.fused import fuse
    from segdistill.models.zoo import build_model
    from segdistill.predicting import load, predict, serve
    from segdistill.searching.search import search

__all__ = [
    "Architecture",
    "AugmentConfig",
    "BenchmarkConfig",
    "CalibrateConfig",
    "CompareConfig",
    "DataConfig",
    "DemoConfig",
    "EvaluateConfig",
    "EvaluationDataConfig",
    "ExportConfig",
    "LabelConfig",
    "LoadConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PredictConfig",
    "PushConfig",
    "RuntimeConfig",
    "SearchConfig",
    "ServeConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "VerifyConfig",
    "__version__",
    "benchmark",
    "build_model",
    "cache",
    "calibrate",
    "compare",
    "demo",
    "evaluate",
    "export",
    "fuse",
    "keep_freed_memory",
    "label",
    "load",
    "load_student",
    "pack",
    "predict",
    "push",
    "report",
    "search",
    "serve",
    "train",
    "verify",
]

_MODULES = {
    "api": (
        "benchmark", "cache", "calibrate", "compare", "evaluate", "export", "label", "load_student", "pack",
        "push", "report", "train", "verify",
    ),
    "predicting": ("load", "predict", "serve"),
    "config.deploy": (
        "BenchmarkConfig", "ExportConfig", "LabelConfig", "LoadConfig", "PredictConfig", "PushConfig",
        "ServeConfig",
    ),
    "config.architecture": ("Architecture",),
    "config.demo": ("DemoConfig",),
    "config.evaluate": ("CalibrateConfig", "CompareConfig", "EvaluateConfig", "EvaluationDataConfig"),
    "config.verify": ("VerifyConfig",),
    "config.train": (
        "AugmentConfig", "DataConfig", "ObjectiveConfig", "OptimConfig", "RuntimeConfig", "StudentConfig",
        "TeacherConfig", "TrainConfig",
    ),
    "demonstrating.start": ("demo",),
    "engine.runtime": ("keep_freed_memory",),
    "config.search": ("SearchConfig",),
    "searching.search": ("search",),
    "models.fused": ("fuse",),
    "models.zoo": ("build_model",),
}  # fmt: skip
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: PyTorch takes seconds, and `--help` needs none of it."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"segdistill.{module}"), name)
    raise AttributeError(f"module 'segdistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return __all__
