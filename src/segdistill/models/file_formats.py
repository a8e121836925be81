"""The formats of exported files: what each is called, how its files are opened, and what runs them."""

import contextlib
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from segdistill.files import read_json
from segdistill.models import mobile
from segdistill.models.export_card import ENTRY
from segdistill.models.isolated import IsolatedRun
from segdistill.models.mobile import ForwardPass
from segdistill.models.onnx_session import OnnxSession
from segdistill.models.openvino_graphs import OpenVINOGraphs, openvino_core
from segdistill.models.quiet import quiet


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


def _open_onnx(path: Path, options: RunOptions) -> tuple[ForwardPass, dict[str, str]]:
    session = OnnxSession(path, options.threads, options.provider, options.streams)
    return session, session.metadata


def _open_openvino(path: Path, options: RunOptions) -> tuple[ForwardPass, dict[str, str]]:
    model = openvino_core().read_model(path)
    text = model.get_rt_info([ENTRY]).value if model.has_rt_info([ENTRY]) else "{}"
    return OpenVINOGraphs(model, options.threads, options.precision, options.streams), _texts(text)


def _open_pt2(path: Path, options: RunOptions) -> tuple[ForwardPass, dict[str, str]]:
    del options
    extra = {ENTRY: "{}"}
    with quiet():
        module = torch.export.load(path, extra_files=extra).module()

    @torch.no_grad()
    def run(values: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(values)).numpy()

    return run, _texts(extra[ENTRY])


def _open_executorch(path: Path, options: RunOptions) -> tuple[ForwardPass, dict[str, str]]:
    del options
    with _silent():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
        text = program.load_method(ENTRY).execute([])[0] if ENTRY in program.method_names else "{}"
    assert method is not None

    def run(values: np.ndarray) -> np.ndarray:
        try:
            output = method.execute([torch.from_numpy(values)])[0]
        except RuntimeError as error:
            if "does not have a device" not in str(error):
                raise
            raise RuntimeError(
                f"this ExecuTorch is built for another release of PyTorch than {torch.__version__}: "
                "1.5 fits 2.15, 1.2 fits 2.11"
            ) from None
        return output.clone().numpy()  # it lies in memory that the next pass writes to

    return run, _texts(text)


def _open_mobile(form: str, path: Path, options: RunOptions) -> tuple[ForwardPass, dict[str, str]]:
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
    open: Callable[[Path, RunOptions], tuple[ForwardPass, dict[str, str]]]
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
