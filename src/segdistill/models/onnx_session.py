"""Sessions of onnxruntime on the execution provider that is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "directml": ("DmlExecutionProvider", "CPUExecutionProvider"),
}
"""What settings call a provider -> onnxruntime's names: the first computes, the others what it cannot."""

DEFAULT = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Tried in this order where no provider is asked for."""


class ProviderError(ValueError):
    """This onnxruntime cannot compute on the provider that was asked for."""


def open_session(
    path: Path, threads: int, provider: str | None
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """An ONNX file as one pass, and the file's metadata.

    Args:
        path: the file.
        threads: of the operators that the CPU computes.
        provider: a key of `PROVIDERS`; None takes CUDA where it is there, else the CPU.

    Raises:
        ProviderError: this onnxruntime lacks the provider, or cannot start it.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    wanted = DEFAULT if provider is None else PROVIDERS[provider]
    if provider is not None and wanted[0] not in available:
        raise ProviderError(f"provider is {provider!r}, but {_choices(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = provider != "directml"  # which refuses to start with it
    session: Any = onnxruntime.InferenceSession(
        path, options, providers=[p for p in wanted if p in available]
    )
    if provider is not None and wanted[0] not in session.get_providers():  # libraries of it are missing
        raise ProviderError(f"provider is {provider!r}, but onnxruntime could not start it and fell back")
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0], session.get_modelmeta().custom_metadata_map


def _choices(available: list[str]) -> str:
    """What this onnxruntime offers, and which package offers more."""
    names = [name for name, (first, *_) in PROVIDERS.items() if first in available]
    return (
        f"this onnxruntime has {', '.join(names)}: install onnxruntime-gpu for cuda and tensorrt, "
        "onnxruntime-directml for directml (in place of onnxruntime)"
    )
