"""Networks in files that carry their own graph, as modules.

N: images, H, W: rows and columns, K: classes.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.naming import setting
from segdistill.files import first_line
from segdistill.models.export_card import ExportCard
from segdistill.models.file_formats import FORMATS, FileFormat, RunOptions, format_of
from segdistill.models.isolated import IsolatedRun
from segdistill.models.mobile import ForwardPass
from segdistill.models.onnx_session import OnnxSession, ProviderError
from segdistill.models.streams import sharing

SURE = 20.0
"""Logit of the class of a pixel in a mask, where the others have 0: its probability is 1 up to rounding."""


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
        self.runs: dict[int, ForwardPass] = {}
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

    def open_streams(self, streams: int) -> ForwardPass:
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
        shape = "x".join(map(str, values.shape))
        if not values.numel():  # which some runtimes take
            raise ValueError(f"{self.path} cannot take {shape} images: they have no pixels")
        pixels = self.to_square(values)
        pixels = self.to_pixels(pixels) if self.card.input == "image" else pixels
        try:
            output = torch.from_numpy(self.run(pixels.contiguous().numpy()))
        except Exception as error:  # the runtimes' own exceptions share no base class but Exception
            hint = "export it with free batch, height and width"
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
