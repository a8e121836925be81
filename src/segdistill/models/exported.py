"""Networks in files that carry their own graph: the table of file formats, and how each is opened and run.

N: images, H, W: rows and columns, K: classes.
"""

import contextlib
import importlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.naming import setting
from segdistill.files import first_line, read_json
from segdistill.models import mobile
from segdistill.models.export_card import ENTRY as ENTRY
from segdistill.models.export_card import ExportCard as ExportCard
from segdistill.models.isolated import IsolatedRun
from segdistill.models.onnx_session import OnnxSession, ProviderError
from segdistill.models.openvino_graphs import OpenVINOGraphs, openvino_core
from segdistill.models.streams import sharing

SURE = 20.0
"""Logit of the class of a pixel in a mask, where the others have 0: its probability is 1 up to rounding."""

Run = Callable[[np.ndarray], np.ndarray]
"""One pass: N images in the file's own form -> its first output."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a runtime computes.

    Attributes:
        threads: of onnxruntime, OpenVINO, LiteRT and ncnn.
        precision: fp32, or what else `FileFormat.precisions` has.
        provider: of onnxruntime, see `OnnxSession`.
        isolated: a runtime that is not installed is run in an environment of its own.
        streams: passes at a time, from as many threads; they share `threads`.
    """

    threads: int
    precision: str = "fp32"
    provider: str | None = None
    isolated: bool = False
    streams: int = 1


class ExportedNetwork(nn.Module):
    """A network in a file, as a module from normalised images to logits.

    It computes on the CPU; an ONNX file where its provider does, by default on CUDA with onnxruntime-gpu.
    Where threads share the cores (see `share_cores`), it is opened once more, for as many streams.

    Args:
        path: .onnx, .xml (OpenVINO, its .bin beside it), .pt2 (torch.export), ..., see `FORMATS`.
        threads: of the runtime, where it can be told; None for PyTorch's number.
        precision: what the runtime computes in; most formats allow fp32 only, see `FORMATS`.
        provider: what of onnxruntime computes an .onnx file, see `OnnxSession`.
        isolated: see `RunOptions`.

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
        isolated: bool = False,
    ) -> None:
        super().__init__()
        form = format_of(path)
        assert form is not None
        if not (path.is_dir() if form.folder else path.is_file()):
            raise FileNotFoundError(f"{path} does not exist")
        self.path, self.format = path, form
        if precision not in form.precisions:
            others = [f"{f.name} files in {p}" for f in FORMATS.values() for p in f.precisions if p != "fp32"]
            raise ValueError(
                f"{path} computes as it was exported, not in {precision}; "
                f"what can be run in another precision: {', '.join(others)}"
            )
        if provider is not None and not form.providers:
            raise ValueError(
                f"{path} is {form.title}, but {setting('provider')} is for .onnx files: leave it out"
            )
        self.options = RunOptions(
            threads=threads or torch.get_num_threads(), precision=precision, provider=provider,
            isolated=isolated,
        )  # fmt: skip
        self.lock = threading.Lock()
        self.runs: dict[int, Run] = {}
        with _reading(path, form):
            self.runs[1], self.metadata = form.open(path, self.options)
        self.card = ExportCard.read(self.metadata, path)

    @property
    def concurrent(self) -> bool:
        """Whether it computes several passes at a time: on the CPU, in a runtime that does so."""
        run = self.runs[1]
        return self.format.concurrent and not (isinstance(run, OnnxSession) and not run.on_cpu)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Most images and longest side, in pixels, that it takes at once; None for any, or where unknown."""
        if self.card.side is not None:
            return 1, self.card.side
        return self.format.largest if self.card.version else None

    @property
    def content(self) -> Iterator[bytes]:
        """The bytes of its files."""
        yield from (path.read_bytes() for path in self.format.files(self.path))

    def close(self) -> None:
        """End the process that runs it, where there is one."""
        for run in self.runs.values():
            if isinstance(run, IsolatedRun):
                run.close()

    def run(self, values: np.ndarray) -> np.ndarray:
        """One pass over N images in the file's own form, of as many at a time as share the cores.

        Raises:
            ValueError: see `open_streams`.
        """
        return self.open_streams(sharing())(values)

    def open_streams(self, streams: int) -> Run:
        """What computes as many passes at a time, if the file can; opened at the first call.

        Raises:
            ValueError: the runtime cannot open it once more.
        """
        streams = streams if self.concurrent else 1
        with self.lock:
            if streams not in self.runs:
                try:
                    run, _ = self.format.open(self.path, replace(self.options, streams=streams))
                except Exception as error:  # the runtimes' own exceptions share no base class but Exception
                    raise ValueError(
                        f"{self.path} cannot be opened for {streams} streams: {first_line(error)} "
                        f"({setting('streams')} 1 opens it once)"
                    ) from None
                self.runs[streams] = run
            return self.runs[streams]

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised with the card's mean and std -> N x K x H x W logits on the same device.

        For a file that takes images they become 8 bits again, so what is no 8-bit image is rounded to one.
        For a file that outputs masks the logits are `SURE` and 0.
        """
        values = image.detach().float().cpu()
        height, width = values.shape[2:]
        pixels = self.to_square(values)
        pixels = self.to_pixels(pixels) if self.card.input == "image" else pixels
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
        output = output[..., :height, :width]
        if self.card.output == "mask":
            if self.card.labels is None:
                raise ValueError(f"{self.path} outputs masks, but its metadata lack the classes")
            output = F.one_hot(output.long(), len(self.card.labels)).permute(0, 3, 1, 2) * SURE
        return output.to(image.device)

    def to_square(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> padded with the mean, which is 0, to the one size that the file takes.

        Raises:
            ValueError: it is larger.
        """
        side, (height, width) = self.card.side, image.shape[2:]
        if side is None:
            return image
        if max(height, width) > side:
            raise ValueError(f"{self.path} takes images of {side}x{side} pixels, not {height}x{width}")
        return F.pad(image, (0, side - width, 0, side - height))

    def to_pixels(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> N x H x W x 3 uint8."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.card.mean, self.card.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _open_onnx(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    session = OnnxSession(path, options.threads, options.provider, options.streams)
    return session, session.metadata


def _open_openvino(path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    model = openvino_core().read_model(path)
    text = model.get_rt_info([ENTRY]).value if model.has_rt_info([ENTRY]) else "{}"
    return OpenVINOGraphs(model, options.threads, options.precision, options.streams), _texts(text)


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


def _open_mobile(form: str, path: Path, options: RunOptions) -> tuple[Run, dict[str, str]]:
    """A file that cannot hold its card, which is in the JSON file beside it."""
    beside = path.with_name(f"{path.name}.json")
    card = read_json(beside) if beside.is_file() else {}
    isolated = options.isolated and not mobile.is_installed(FORMATS[form].runtime)
    start = partial(IsolatedRun, form) if isolated else mobile.OPENERS[form]
    run = start(path, options.threads, options.precision)
    return run, {key: json.dumps(value) for key, value in card.items()}


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
        square: its files take one square image, see `ExportCard.side`.
        planes: where its files take images, these are 1 x 3 x H x W floats from 0 to 255, as its runtime
            makes them of pictures.
        folder: such a file is a folder.
        system: the one on which it can be run, as `platform.system` calls it; None for any.
        quantize: smaller number types that it can be written in.
        calibrated: its int8 files take the ranges of maps from images; others find them at each pass.
        precisions: what its runtime can compute a float32 file in.
        threads: whether its runtime can be told how many threads to use.
        providers: whether its runtime is onnxruntime, which computes on the provider that is asked for.
        concurrent: whether its runtime computes several passes at a time on a CPU.
    """

    name: str
    suffix: str
    extra: str | None
    title: str
    runtime: str
    open: Callable[[Path, RunOptions], tuple[Run, dict[str, str]]]
    companion: str | None = None
    largest: tuple[int, int] | None = None
    square: bool = False
    planes: bool = False
    folder: bool = False
    system: str | None = None
    quantize: tuple[str, ...] = ()
    calibrated: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    threads: bool = True
    providers: bool = False
    concurrent: bool = False

    def files(self, path: Path) -> list[Path]:
        """All files of the network in `path`."""
        if self.folder:
            return sorted(file for file in path.rglob("*") if file.is_file())
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
            open=_open_onnx, quantize=("float16", "int8"), calibrated=True, providers=True, concurrent=True,
        ),
        FileFormat(
            name="openvino", suffix=".xml", extra="openvino", title="an OpenVINO network", runtime="openvino",
            open=_open_openvino, companion=".bin", quantize=("int8",), calibrated=True,
            precisions=("fp32", "bf16"), concurrent=True,
        ),
        FileFormat(
            name="pt2", suffix=".pt2", extra=None, title="a torch.export network", runtime="torch",
            open=_open_pt2,
        ),
        FileFormat(
            name="executorch", suffix=".pte", extra="executorch", title="an ExecuTorch network",
            runtime="executorch.runtime", open=_open_executorch, largest=(1, 512), threads=False,
        ),
        FileFormat(
            name="litert", suffix=".tflite", extra="mobile", title="a LiteRT network",
            runtime="ai_edge_litert", open=partial(_open_mobile, "litert"), square=True, quantize=("int8",),
        ),
        FileFormat(
            name="ncnn", suffix=".ncnn.param", extra="mobile", title="an ncnn network", runtime="ncnn",
            open=partial(_open_mobile, "ncnn"), companion=".bin", square=True, planes=True,
            precisions=("fp32", "fp16"),
        ),
        FileFormat(
            name="coreml", suffix=".mlpackage", extra="mobile", title="a Core ML network",
            runtime="coremltools", open=partial(_open_mobile, "coreml"), square=True, planes=True,
            folder=True, system="Darwin", threads=False,
        ),
    )
}  # fmt: skip
"""The file formats, by name."""


def format_of(path: str | Path) -> FileFormat | None:
    """The format of an exported file, by its suffix; None for anything else."""
    name = Path(path).name
    return next((form for form in FORMATS.values() if name.endswith(form.suffix)), None)


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
