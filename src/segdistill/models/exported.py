"""Networks in files that carry their own graph: the table of file formats, and how each is opened and run.

N: images, H, W: rows and columns, K: classes.
"""

import contextlib
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.values import require
from segdistill.data.labels import LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.files import first_line
from segdistill.models.card import is_temperature
from segdistill.models.onnx_session import ProviderError, open_session
from segdistill.models.openvino_graphs import OpenVINOGraphs, openvino_core

ENTRY = "segdistill"
"""Under this name a file that has room for one text keeps its card."""
SURE = 20.0
"""Logit of the class of a pixel in a mask, where the others have 0: its probability is 1 up to rounding."""

Run = Callable[[np.ndarray], np.ndarray]
"""One pass: N images in the file's own form -> its first output."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a runtime computes.

    Attributes:
        threads: of onnxruntime and OpenVINO.
        precision: fp32, or what else `FileFormat.precisions` has.
        provider: of onnxruntime, see `open_session`.
    """

    threads: int
    precision: str = "fp32"
    provider: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """Describes an exported file, in the file's own metadata and in the JSON file beside it.

    Attributes:
        labels: what the logits are over; None where the metadata of a foreign file lack it.
        mean, std: of the RGB input in 0 to 1.
        size: long side, in pixels, of the images it is meant for; None for any.
        output_stride: its input is resized so that both sides are a multiple of it, plus 1; None for any.
        input: `image` for N x H x W x 3 uint8 RGB, `tensor` for N x 3 x H x W normalised floats.
        temperature: what logits, which are raw, are divided by before probabilities are made of them.
        output: `logits` N x K x H x W, or `mask` N x H x W uint8 class indices.
        source: run folder or spec that it was made from.
        version: of segdistill.
    """

    labels: LabelSet | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None
    output_stride: int | None = None
    input: Literal["image", "tensor"] = "tensor"
    output: Literal["logits", "mask"] = "logits"
    source: str = ""
    version: str = ""
    temperature: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `read`."""
        labels = None if self.labels is None else self.labels.to_dict()
        return {**vars(self), "labels": labels, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def read(cls, texts: Mapping[str, str], path: Path) -> Self:
        """The card in the metadata of a file, each value a JSON text; a foreign file may have a part of it.

        Raises:
            ValueError: a value is not what segdistill, or docs/own-networks.md, would write.
        """
        try:
            values = {key: json.loads(texts[key]) for key in cls.__dataclass_fields__ if key in texts}
            if values.get("labels") is not None:
                labels = values["labels"]
                description = labels if isinstance(labels, dict) else {"names": list(labels)}
                values["labels"] = label_set(description, str(path))
            for key in {"mean", "std"} & values.keys():
                values[key] = tuple(map(float, values[key]))
            stride = values.get("output_stride")
            possible = stride is None or (isinstance(stride, int) and stride > 0)
            require(possible, "output_stride", stride, "above 0, or null")
            if not is_temperature(values.get("temperature", 1.0)):
                raise ValueError(f"temperature is {values['temperature']!r}, but must be a number above 0")
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the metadata of {path} cannot be read: {error}") from None


class ExportedNetwork(nn.Module):
    """A network in a file, as a module from normalised images to logits.

    It computes on the CPU; an ONNX file where its provider does, by default on CUDA with onnxruntime-gpu.

    Args:
        path: .onnx, .xml (OpenVINO, its .bin beside it), .pt2 (torch.export) or .pte (ExecuTorch).
        threads: of onnxruntime and OpenVINO; None for PyTorch's number.
        precision: what the runtime computes in; most formats allow fp32 only, see `FORMATS`.
        provider: what of onnxruntime computes an .onnx file, see `open_session`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its runtime is not installed, cannot read it, or lacks the provider.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        provider: str | None = None,
    ) -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        form = format_of(path)
        assert form is not None
        self.path, self.format = path, form
        if precision not in form.precisions:
            others = [f"{f.name} files in {p}" for f in FORMATS.values() for p in f.precisions if p != "fp32"]
            raise ValueError(
                f"{path} computes as it was exported, not in {precision}; "
                f"what can be run in another precision: {', '.join(others)}"
            )
        if provider is not None and not form.providers:
            raise ValueError(f"{path} is {form.title}, but --provider is for .onnx files: leave it out")
        options = RunOptions(
            threads=threads or torch.get_num_threads(), precision=precision, provider=provider
        )
        with _reading(path, form):
            self.run, self.metadata = form.open(path, options)
        self.card = ExportCard.read(self.metadata, path)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Most images and longest side, in pixels, that it takes at once; None for any, or where unknown."""
        return self.format.largest if self.card.version else None

    @property
    def content(self) -> Iterator[bytes]:
        """The bytes of its files."""
        yield from (path.read_bytes() for path in self.format.files(self.path))

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised with the card's mean and std -> N x K x H x W logits on the same device.

        For a file that takes images they become 8 bits again, so what is no 8-bit image is rounded to one.
        For a file that outputs masks the logits are `SURE` and 0.
        """
        values = image.detach().float().cpu()
        pixels = self.to_pixels(values) if self.card.input == "image" else values
        try:
            output = torch.from_numpy(self.run(pixels.contiguous().numpy()))
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
                raise ValueError(f"{self.path} outputs masks, but its metadata lack the classes")
            output = F.one_hot(output.long(), len(self.card.labels)).permute(0, 3, 1, 2) * SURE
        return output.to(image.device)

    def to_pixels(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> N x H x W x 3 uint8."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.card.mean, self.card.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _open_onnx(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    return open_session(path, options.threads, options.provider)


def _open_openvino(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    model = openvino_core().read_model(path)
    text = model.get_rt_info([ENTRY]).value if model.has_rt_info([ENTRY]) else "{}"
    return OpenVINOGraphs(model, options.threads, options.precision), _texts(text)


def _open_pt2(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    del options
    extra = {ENTRY: "{}"}
    module = torch.export.load(path, extra_files=extra).module()

    @torch.no_grad()
    def run(values: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(values)).numpy()

    return run, _texts(extra[ENTRY])


def _open_executorch(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    del options
    with _silent():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
        text = program.load_method(ENTRY).execute([])[0] if ENTRY in program.method_names else "{}"
    assert method is not None

    def run(values: np.ndarray) -> np.ndarray:
        # The output lies in memory that the next pass writes to.
        return method.execute([torch.from_numpy(values)])[0].clone().numpy()

    return run, _texts(text)


def _texts(card: str) -> dict[str, str]:
    """A card in one JSON text, each value a JSON text of its own as in ONNX's metadata."""
    return {key: json.dumps(value) for key, value in json.loads(card).items()}


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format of exported files.

    Attributes:
        name: what settings call it.
        suffix: of the file.
        extra: of segdistill, which installs what it needs; None where segdistill itself does.
        title: what errors call such a network, with its article.
        runtime: the module that runs it.
        open: path and options -> one pass, and the file's metadata.
        companion: suffix of a second file that belongs to it.
        largest: most images and longest side, in pixels, that its files take at once, because they reserve
            the memory for these when they are loaded; None for any.
        quantize: smaller number types that it can be written in.
        precisions: what its runtime can compute a float32 file in.
        threads: whether its runtime can be told how many threads to use.
        providers: whether its runtime is onnxruntime, which computes on the provider that is asked for.
    """

    name: str
    suffix: str
    extra: str | None
    title: str
    runtime: str
    open: Callable[[Path, RunOptions], tuple[Run, dict[str, str]]]
    companion: str | None = None
    largest: tuple[int, int] | None = None
    quantize: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    threads: bool = True
    providers: bool = False

    def files(self, path: Path) -> list[Path]:
        """All files of the network in `path`."""
        return [path] if self.companion is None else [path, path.with_suffix(self.companion)]

    def import_runtime(self) -> None:
        """Import what runs such a file, without opening one.

        Raises:
            ValueError: it is not installed.
        """
        try:
            with _silent():
                importlib.import_module(self.runtime)
        except ModuleNotFoundError as error:
            raise ValueError(self.missing(error)) from None

    def missing(self, error: ModuleNotFoundError) -> str:
        """What to install for a module that is missing."""
        package = f"segdistill[{self.extra}]" if self.extra else "segdistill again"
        return f"{self.name} needs {error.name}: install {package}"


FORMATS: dict[str, FileFormat] = {
    form.name: form
    for form in (
        FileFormat(
            name="onnx", suffix=".onnx", extra="onnx", title="an ONNX network", runtime="onnxruntime",
            open=_open_onnx, quantize=("float16", "int8"), providers=True,
        ),
        FileFormat(
            name="openvino", suffix=".xml", extra="openvino", title="an OpenVINO network", runtime="openvino",
            open=_open_openvino, companion=".bin", quantize=("int8",), precisions=("fp32", "bf16"),
        ),
        FileFormat(
            name="pt2", suffix=".pt2", extra=None, title="a torch.export network", runtime="torch",
            open=_open_pt2,
        ),
        FileFormat(
            name="executorch", suffix=".pte", extra="executorch", title="an ExecuTorch network",
            runtime="executorch.runtime", open=_open_executorch, largest=(1, 512), threads=False,
        ),
    )
}  # fmt: skip
"""The file formats, by name."""


def format_of(path: str | Path) -> FileFormat | None:
    """The format of an exported file, by its suffix; None for anything else."""
    suffix = Path(path).suffix
    return next((form for form in FORMATS.values() if form.suffix == suffix), None)


@contextlib.contextmanager
def _reading(path: Path, form: FileFormat) -> Iterator[None]:
    """Every failure to open a file becomes one `ValueError` with its path."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: {form.missing(error)}") from None
    except ProviderError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # the runtimes' own exceptions share no base class but Exception
        raise ValueError(f"{path} is not {form.title}: {first_line(error)}") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it, warnings and what native code writes to standard error are dropped: ExecuTorch logs much."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
