"""Runs files for phones: LiteRT, ncnn and Core ML.

It imports NumPy and the runtime only, so that it also runs as a program in an environment that has nothing
else: `python mobile.py FORMAT FILE THREADS PRECISION` answers each array on standard input with one on
standard output. H, W: rows and columns, K: classes.
"""

import importlib
import io
import os
import platform
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

ForwardPass = Callable[[np.ndarray], np.ndarray]
"""Images as the file takes them (N x H x W x 3 uint8, or N x 3 x H x W floats) -> logits, or masks."""


def open_litert(path: Path, threads: int, precision: str) -> ForwardPass:
    """A .tflite file, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    del precision
    interpreter: Any = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(values: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def open_ncnn(path: Path, threads: int, precision: str) -> ForwardPass:
    """A .ncnn.param file with its .ncnn.bin, on the CPU; fp16 is what ncnn does by default on a phone."""
    import ncnn

    net: Any = ncnn.Net()
    net.opt.num_threads = threads
    half = precision == "fp16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError("ncnn cannot load it, or the .ncnn.bin file beside it")

    def run(values: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(as_planes(values)[0])  # a Mat of it does not keep it alive
        # A copy of ncnn's own: layers that compute in place would write to the array, and crash.
        image = ncnn.Mat(planes).clone()
        extractor = net.create_extractor()
        extractor.input("in0", image)
        failed, output = extractor.extract("out0")
        if failed:
            raise ValueError("ncnn could not compute it")
        return np.array(output)[None]

    return run


def open_coreml(path: Path, threads: int, precision: str) -> ForwardPass:
    """An .mlpackage folder. Only macOS has what runs it."""
    system = platform.system()
    if system != "Darwin":
        raise ValueError(f"Core ML runs on macOS only, and this is {system}: copy the folder to a Mac")
    import coremltools

    del threads, precision
    model: Any = coremltools.models.MLModel(str(path))
    (given,), (output,) = model.get_spec().description.input, model.get_spec().description.output

    def run(values: np.ndarray) -> np.ndarray:
        return model.predict({given.name: as_planes(values)})[output.name]

    return run


OPENERS: dict[str, Callable[[Path, int, str], ForwardPass]] = {
    "litert": open_litert,
    "ncnn": open_ncnn,
    "coreml": open_coreml,
}
"""What opens a file with a number of threads and a precision, by name of the format."""


def as_planes(values: np.ndarray) -> np.ndarray:
    """1 x H x W x 3 uint8 -> 1 x 3 x H x W float32 from 0 to 255; floats stay as they are."""
    return values.transpose(0, 3, 1, 2).astype(np.float32) if values.dtype == np.uint8 else values


def send(stream: IO[bytes], array: np.ndarray) -> None:
    """Write an array, after its length in bytes."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    stream.write(struct.pack("<Q", content.tell()) + content.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> np.ndarray | None:
    """The next array; None where the stream has ended."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return np.load(io.BytesIO(stream.read(struct.unpack("<Q", head)[0])), allow_pickle=False)


def main(form: str, path: str, threads: str, precision: str) -> None:
    """Answer arrays until standard input ends; what native code prints goes to standard error."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        run = OPENERS[form](Path(path), int(threads), precision)
        while (values := receive(sys.stdin.buffer)) is not None:
            send(answers, run(values))


def is_installed(module: str) -> bool:
    """Whether a runtime can be imported here."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
