"""Videos in, overlay videos and mask videos out, one frame in memory at a time.

H, W: rows and columns of a frame.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Transpose

from segdistill.inference.prediction import Prediction, blend, predict_image
from segdistill.models.trained import TrainedNetwork

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})

TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}
"""Degrees, counter-clockwise, that a frame is to be turned by -> how."""


def predict_video(
    network: TrainedNetwork,
    path: Path,
    target: Path,
    *,
    size: int | None = None,
    masks: bool = False,
    device: torch.device | None = None,
) -> Iterator[Prediction]:
    """Segment a video frame by frame, while its outputs are written; they are whole after the last frame.

    Args:
        network: on `device`.
        path: the video; its sound is left out.
        target: path of the outputs without suffix: `_overlay.mp4` (H.264) is added and, with `masks`,
            `_mask.mkv` (lossless FFV1, grey, whose values are class indices).
        size: long side of the network's input in pixels; None for what its run was evaluated at.
        masks: also write the masks.
        device: where the network is; None for the CPU.

    Yields:
        The prediction of each frame.

    Raises:
        ValueError: PyAV is not installed, or the file is no video.
    """
    av = require_av()
    with _open_video(av, path) as source:
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        with _outputs(av, target, rate, masks=masks) as writers:
            for frame in source.decode(stream):
                picture = upright(frame)
                prediction = predict_image(network, picture, size=size, probabilities=False, device=device)
                writers[0].write(even(blend(prediction)))
                if masks:
                    writers[1].write(prediction.mask)
                yield prediction


@contextmanager
def _open_video(av: Any, path: Path) -> Iterator[Any]:
    """A container with a video stream; a `ValueError` where the file is none."""
    with ExitStack() as stack:
        try:
            source = stack.enter_context(av.open(str(path)))
            source.streams.video[0]
        except (av.error.FFmpegError, IndexError):
            raise ValueError(f"{path} is not a video that can be read") from None
        yield source


@contextmanager
def _outputs(av: Any, target: Path, rate: Fraction, *, masks: bool) -> Iterator[list["_Writer"]]:
    """The videos to write, overlay first; they get their names at the end, or are removed on any error."""
    wanted = [("_overlay.mp4", "mp4", "libx264", "yuv420p")]
    wanted += [("_mask.mkv", "matroska", "ffv1", "gray")] if masks else []
    target.parent.mkdir(parents=True, exist_ok=True)
    drafts = {target.with_name(f".{target.name}{end}"): target.with_name(f"{target.name}{end}")
              for end, *_ in wanted}  # fmt: skip
    try:
        with ExitStack() as stack:
            writers = []
            for draft, (_, container, codec, pixels) in zip(drafts, wanted, strict=True):
                output = stack.enter_context(av.open(str(draft), "w", format=container))
                writers.append(_Writer(av, output, codec, pixels, rate))
            yield writers
            for writer in writers:
                writer.end()
        for draft, final in drafts.items():
            draft.replace(final)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def count_frames(path: Path) -> int | None:
    """Frames of a video according to its header; None where that gives none, or the file is no video.

    Raises:
        ValueError: PyAV is not installed.
    """
    av = require_av()
    try:
        with _open_video(av, path) as source:
            stream = source.streams.video[0]
            if stream.frames:
                return int(stream.frames)
            if stream.duration and stream.average_rate:
                return round(float(stream.duration * stream.time_base * stream.average_rate))
    except ValueError:
        return None
    return None


def upright(frame: Any) -> Image.Image:
    """A frame as RGB, turned as its video says: a telephone held upright notes that it was."""
    picture, turn = frame.to_image(), TURNS.get(frame.rotation % 360)
    return picture if turn is None else picture.transpose(turn)


def even(picture: np.ndarray) -> np.ndarray:
    """H x W x 3 with its last row and column repeated where a side is odd: H.264 halves the colours."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class _Writer:
    """One output video; the codec is opened with the size of the first frame."""

    def __init__(self, av: Any, output: Any, codec: str, pixels: str, rate: Fraction) -> None:
        self.av, self.output, self.pixels = av, output, pixels
        self.stream = output.add_stream(codec, rate=rate)
        self.stream.pix_fmt = pixels
        self.started = False

    def write(self, picture: np.ndarray) -> None:
        """H x W x 3 RGB, or H x W."""
        if not self.started:
            self.stream.height, self.stream.width = picture.shape[:2]
            self.started = True
        frame = self.av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
        self.output.mux(self.stream.encode(frame))

    def end(self) -> None:
        """Write what the codec still holds."""
        self.output.mux(self.stream.encode())


def require_av() -> Any:
    """The module `av`, which reads and writes videos.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise ValueError("videos need PyAV: install segdistill[video]") from None
    return av
