"""OpenVINO's models as passes over images, on one `Core` for the process."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, cast

import numpy as np


@functools.cache
def openvino_core() -> Any:
    """The one OpenVINO `Core` of this process.

    On a processor with AMX each Core brings a stack for signals of its own and takes it away when it ends.
    Where two do not end in reverse order, the thread is left with a stack that is gone: the next signal
    kills the process.
    """
    import openvino

    return openvino.Core()


@contextlib.contextmanager
def sole_core() -> Iterator[None]:
    """Libraries that make a `Core` of their own, as NNCF does at each step, get that of the process."""
    import openvino

    core, kind = openvino_core(), openvino.Core
    openvino.Core = lambda: core
    try:
        yield
    finally:
        openvino.Core = kind


class OpenVINOGraphs:
    """An OpenVINO model, compiled for any shape and once more for the first that comes twice in a row.

    A graph of one shape copies less, so that it takes 11 to 15 % less time. Only the graph that was used
    last holds memory for its maps.

    Args:
        model: OpenVINO's.
        threads: to use.
        precision: fp32 or bf16.
    """

    def __init__(self, model: Any, threads: int, precision: str) -> None:
        self.model = model
        self.settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.free = self.used = self._compile(model)
        self.last: tuple[int, ...] = ()
        self.own_shape: tuple[int, ...] | None = None
        self.own: Any = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """One pass over N images."""
        if self.own is None and values.shape == self.last:
            own = self.model.clone()
            own.reshape(list(values.shape))
            self.own, self.own_shape = self._compile(own), values.shape
        self.last = values.shape
        graph = self.own if values.shape == self.own_shape else self.free
        if graph is not self.used:
            self.used.release_memory()
            self.used = graph
        return cast(np.ndarray, graph(values)[0])

    def _compile(self, model: Any) -> Any:
        return openvino_core().compile_model(model, "CPU", self.settings)
