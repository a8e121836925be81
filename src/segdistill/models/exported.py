"""Networks in files that carry their own graph: ONNX, OpenVINO, torch.export, ExecuTorch; read and run.

N: images, H, W: rows and columns, K: classes.
"""

import contextlib
import functools
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.data.labels import LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD

FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2", ".pte": "executorch"}
"""Suffix of a file -> its format."""
ENTRY = "segdistill"
"""Under this name a file that has room for one text keeps its card."""
LARGEST = {"executorch": (1, 512)}
"""Most images and longest side of a format whose files reserve, once loaded, the memory that these take."""
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "pt2": "torch", "executorch": "executorch.runtime"}
"""The module that runs each format."""
SURE = 20.0
"""Logit of the class that a mask names, where the others have 0: its probability is 1 up to rounding."""

Run = Callable[[np.ndarray], np.ndarray]
"""One pass: N images in the file's own form -> its first output."""


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """What an exported file says of itself, in its own metadata and in the JSON file beside it.

    Attributes:
        labels: what the logits are over; None where a foreign file does not say.
        mean, std: of the RGB input in 0 to 1.
        size: long side, in pixels, of the images it is meant to see; None for any.
        input: `image` for N x H x W x 3 uint8 RGB, `tensor` for N x 3 x H x W normalised floats.
        output: `logits` N x K x H x W, or `mask` N x H x W uint8 class indices.
        source: run folder or spec that it was made from.
        version: of segdistill.
    """

    labels: LabelSet | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None
    input: Literal["image", "tensor"] = "tensor"
    output: Literal["logits", "mask"] = "logits"
    source: str = ""
    version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `read`."""
        labels = None if self.labels is None else self.labels.to_dict()
        return {**vars(self), "labels": labels, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def read(cls, texts: Mapping[str, str], path: Path) -> Self:
        """The card among the metadata of a file, each value a JSON text; a foreign file says little of it.

        Raises:
            ValueError: a value is not what segdistill, or docs/own-networks.md, would write.
        """
        try:
            said = {key: json.loads(texts[key]) for key in cls.__dataclass_fields__ if key in texts}
            if said.get("labels") is not None:
                named = said["labels"]
                said["labels"] = label_set(
                    named if isinstance(named, dict) else {"names": list(named)}, str(path)
                )
            for key in {"mean", "std"} & said.keys():
                said[key] = tuple(map(float, said[key]))
            return cls(**said)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the metadata of {path} cannot be read: {error}") from None


class ExportedNetwork(nn.Module):
    """A network in a file, as a module from normalised images to logits.

    It computes on the CPU; an ONNX file on CUDA where onnxruntime-gpu is installed.

    Args:
        path: .onnx, .xml (OpenVINO, its .bin beside it), .pt2 (torch.export) or .pte (ExecuTorch).
        threads: of onnxruntime and OpenVINO; None for PyTorch's number.
        precision: bf16 lets OpenVINO compute in it, the other runtimes as the file says only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its runtime is not installed, or cannot read it.
    """

    def __init__(self, path: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        self.path, self.format = path, FORMATS[path.suffix]
        if precision != "fp32" and (self.format, precision) != ("openvino", "bf16"):
            raise ValueError(
                f"{path} computes as it was exported, not in {precision}: "
                "only OpenVINO's can be run in another precision, bf16"
            )
        opened = {"onnx": _open_onnx, "pt2": _open_pt2, "executorch": _open_executorch}
        with _reading(path, self.format):
            if self.format == "openvino":
                self.run, self.metadata = _open_openvino(path, threads or torch.get_num_threads(), precision)
            else:
                self.run, self.metadata = opened[self.format](path, threads or torch.get_num_threads())
        self.card = ExportCard.read(self.metadata, path)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Most images and longest side, in pixels, that it takes at once; None for any, or where unknown."""
        return LARGEST.get(self.format) if self.card.version else None

    @property
    def content(self) -> Iterator[bytes]:
        """The bytes of its files."""
        yield self.path.read_bytes()
        if self.format == "openvino":
            yield self.path.with_suffix(".bin").read_bytes()

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised with the card's mean and std -> N x K x H x W logits on the same device.

        A file that wants images gets them back in 8 bits, so what is no 8-bit image is rounded to one. A file
        that answers with masks gives logits of `SURE` and 0.
        """
        values = image.detach().float().cpu()
        given = self.to_pixels(values) if self.card.input == "image" else values
        try:
            answer = torch.from_numpy(self.run(given.contiguous().numpy()))
        except Exception as error:  # the runtimes' own exceptions share no base class but Exception
            shape, hint = "x".join(map(str, values.shape)), "export it with free batch, height and width"
            if self.largest is not None:
                count, side = self.largest
                hint = f"it takes {count} of {side}x{side} pixels, or what needs no more memory"
            raise ValueError(
                f"{self.path} cannot take {shape} images: {first_line(error)} ({hint})"
            ) from None
        if self.card.output == "mask":
            if self.card.labels is None:
                raise ValueError(f"{self.path} answers with masks, but does not say of which classes")
            answer = F.one_hot(answer.long(), len(self.card.labels)).permute(0, 3, 1, 2) * SURE
        return answer.to(image.device)

    def to_pixels(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> N x H x W x 3 uint8."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.card.mean, self.card.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def import_runtime(path: Path) -> None:
    """Import what runs a file, without opening it.

    Raises:
        ValueError: it is not installed.
    """
    form = FORMATS[path.suffix]
    with _reading(path, form), _silent():
        importlib.import_module(RUNTIMES[form])


def _open_onnx(path: Path, threads: int) -> tuple[Run, dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0], session.get_modelmeta().custom_metadata_map


@functools.cache
def _openvino() -> Any:
    """The one OpenVINO `Core` of this process.

    On a processor with AMX each Core brings a stack for signals of its own and takes it away when it ends.
    Where two do not end in reverse order, the thread is left with a stack that is gone: the next signal
    kills the process.
    """
    import openvino

    return openvino.Core()


def _open_openvino(path: Path, threads: int, precision: str) -> tuple[Run, dict[str, str]]:
    model = _openvino().read_model(path)
    text = model.get_rt_info([ENTRY]).value if model.has_rt_info([ENTRY]) else "{}"
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return _OpenVINOGraphs(model, settings), _texts(text)


class _OpenVINOGraphs:
    """An OpenVINO model, compiled for any shape and once more for the first that comes twice in a row.

    A graph of one shape copies less, so that it takes 11 to 15 % less time. Only the graph that was used
    last holds memory for its maps.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any]) -> None:
        self.model, self.settings = model, settings
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
        return _openvino().compile_model(model, "CPU", self.settings)


def _open_pt2(path: Path, threads: int) -> tuple[Run, dict[str, str]]:
    del threads
    extra = {ENTRY: "{}"}
    module = torch.export.load(path, extra_files=extra).module()

    @torch.no_grad()
    def run(values: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(values)).numpy()

    return run, _texts(extra[ENTRY])


def _open_executorch(path: Path, threads: int) -> tuple[Run, dict[str, str]]:
    del threads
    with _silent():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
        text = program.load_method(ENTRY).execute([])[0] if ENTRY in program.method_names else "{}"
    assert method is not None

    def run(values: np.ndarray) -> np.ndarray:
        # Its answer lies in memory that the next pass writes to.
        return method.execute([torch.from_numpy(values)])[0].clone().numpy()

    return run, _texts(text)


def _texts(card: str) -> dict[str, str]:
    """A card in one JSON text, each value a JSON text of its own as in ONNX's metadata."""
    return {key: json.dumps(value) for key, value in json.loads(card).items()}


def first_line(error: Exception) -> str:
    """What an exception says, as far as one line goes."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Every failure to open a file becomes one `ValueError` with its path."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs {error.name}: install segdistill[{form}]") from None
    except Exception as error:  # the runtimes' own exceptions share no base class but Exception
        names = {"onnx": "an ONNX", "openvino": "an OpenVINO", "pt2": "a torch.export"}
        kind = names.get(form, "an ExecuTorch")
        raise ValueError(f"{path} is not {kind} network: {first_line(error)}") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it, warnings and what native code writes to standard error are dropped: ExecuTorch says much."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
