"""Sessions of onnxruntime on the execution provider that is asked for."""

from pathlib import Path
from typing import Any, cast

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


class OnnxSession:
    """An ONNX file, opened: called with N images it makes one pass, in several threads at a time if need be.

    Args:
        path: the file.
        threads: that the operators on the CPU take in all, those of callers among them.
        provider: a key of `PROVIDERS`; None takes CUDA where it is there, else the CPU.
        streams: threads that call it at a time. Each computes in its own pass, and the session has as many
            more as `threads` leaves, which help all of them.

    Attributes:
        metadata: of the file.
        on_cpu: whether the CPU computes it, and no accelerator.

    Raises:
        ProviderError: this onnxruntime lacks the provider, or cannot start it.
    """

    def __init__(self, path: Path, threads: int, provider: str | None, streams: int = 1) -> None:
        import onnxruntime

        available = onnxruntime.get_available_providers()
        wanted = DEFAULT if provider is None else PROVIDERS[provider]
        if provider is not None and wanted[0] not in available:
            raise ProviderError(f"provider is {provider!r}, but {_choices(available)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads - streams + 1)  # one of them is the caller
        # Threads that wait sleep: else those of an idle session take cores from one that computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = provider != "directml"  # which refuses to start with it
        self.session: Any = onnxruntime.InferenceSession(
            path, options, providers=[p for p in wanted if p in available]
        )
        started = self.session.get_providers()
        if provider is not None and wanted[0] not in started:  # libraries of it are missing
            raise ProviderError(f"provider is {provider!r}, but onnxruntime could not start it and fell back")
        self.on_cpu = started[0] == "CPUExecutionProvider"
        self.input = self.session.get_inputs()[0].name
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """One pass over N images in the file's own form."""
        return cast(np.ndarray, self.session.run(None, {self.input: values})[0])


def _choices(available: list[str]) -> str:
    """What this onnxruntime offers, and which package offers more."""
    names = [name for name, (first, *_) in PROVIDERS.items() if first in available]
    return (
        f"this onnxruntime has {', '.join(names)}: install onnxruntime-gpu for cuda and tensorrt, "
        "onnxruntime-directml for directml (in place of onnxruntime)"
    )
