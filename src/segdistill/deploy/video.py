"""Videos in, overlay videos and mask videos out, one frame in memory at a time.

H, W: rows and columns of a frame.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdistill.deploy.predict import Prediction, blend, predict
from segdistill.models.trained import TrainedNetwork

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})


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
        size: long side, in pixels, that the network sees; None for what its run was evaluated at.
        masks: also write the masks.
        device: where the network is; None for the CPU.

    Yields:
        What was seen in each frame.

    Raises:
        ValueError: PyAV is not installed, or the file is no video.
    """
    av = _import_av()
    target.parent.mkdir(parents=True, exist_ok=True)
    drafts: list[tuple[Path, Path]] = []
    try:
        with ExitStack() as stack:
            try:
                source = stack.enter_context(av.open(str(path)))
                stream = source.streams.video[0]
            except (av.error.FFmpegError, IndexError):
                raise ValueError(f"{path} is not a video that can be read") from None
            stream.thread_type = "AUTO"
            rate = stream.average_rate or Fraction(25)
            writers = []
            wanted = [("_overlay.mp4", "libx264", "yuv420p")]
            wanted += [("_mask.mkv", "ffv1", "gray")] if masks else []
            for ending, codec, pixels in wanted:
                draft = target.with_name(f".{target.name}{ending}")
                drafts.append((draft, target.with_name(f"{target.name}{ending}")))
                container = "mp4" if ending.endswith("mp4") else "matroska"
                output = stack.enter_context(av.open(str(draft), "w", format=container))
                writers.append(_Writer(av, output, codec, pixels, rate))
            for frame in source.decode(stream):
                picture = frame.to_image()
                prediction = predict(network, picture, size=size, device=device)
                writers[0].write(even(blend(prediction)))
                if masks:
                    writers[1].write(prediction.mask)
                yield prediction
            for writer in writers:
                writer.end()
        for draft, final in drafts:
            draft.replace(final)
    finally:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)


def count_frames(path: Path) -> int | None:
    """Frames of a video as its header says, or None where it does not.

    Raises:
        ValueError: PyAV is not installed, or the file is no video.
    """
    av = _import_av()
    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            if stream.frames:
                return int(stream.frames)
            if stream.duration and stream.average_rate:
                return round(float(stream.duration * stream.time_base * stream.average_rate))
    except (av.error.FFmpegError, IndexError):
        raise ValueError(f"{path} is not a video that can be read") from None
    return None


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


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise ValueError("videos need PyAV: install segdistill[video]") from None
    return av
