"""Videos and cameras in, overlay videos and mask videos out, one frame in memory at a time.

H, W: rows and columns of a frame.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Transpose

from segdistill.data.inputs import Camera
from segdistill.inference.prediction import Prediction, blend, predict_image
from segdistill.models.trained import TrainedNetwork

TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}
"""Degrees, counter-clockwise, that a frame is to be turned by -> how."""

CAMERAS = {
    "linux": ("/dev/video{}", "v4l2", {}),
    "darwin": ("{}", "avfoundation", {"framerate": "30"}),  # its default is one that few cameras have
}
"""Platform -> what FFmpeg calls a camera, what it reads it with, and its options."""
WAIT = 0.005
"""Seconds until a camera that has no frame yet is asked again."""


def predict_video(
    network: TrainedNetwork,
    source: Path | Camera,
    target: Path,
    *,
    size: int | None = None,
    masks: bool = False,
    device: torch.device | None = None,
) -> Iterator[Prediction]:
    """Segment a video frame by frame, while its outputs are written; they are whole after the last frame.

    A camera has no last frame: its outputs end where the caller does, or with Ctrl-C, and have the frames
    at the times at which they were taken.

    Args:
        network: on `device`.
        source: the video; its sound is left out.
        target: path of the outputs without suffix: `_overlay.mp4` (H.264) is added and, with `masks`,
            `_mask.mkv` (lossless FFV1, grey, whose values are class indices).
        size: long side of the network's input in pixels; None for what its run was evaluated at.
        masks: also write the masks.
        device: where the network is; None for the CPU.

    Yields:
        The prediction of each frame.

    Raises:
        ValueError: PyAV is not installed, the file is no video, or the camera cannot be opened.
    """
    av = require_av()
    live = isinstance(source, Camera)
    with _open_video(av, source) as video:
        stream = video.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        start = None
        with _outputs(av, target, rate, masks=masks, live=live) as writers:
            for frame in _frames(av, video):
                start = frame.time if start is None else start
                place = round((frame.time - start) * rate) if live and frame.time is not None else 0
                picture = upright(frame)
                prediction = predict_image(network, picture, size=size, probabilities=False, device=device)
                writers[0].write(even(blend(prediction)), place)
                if masks:
                    writers[1].write(prediction.mask, place)
                yield prediction


@contextmanager
def _open_video(av: Any, source: Path | Camera) -> Iterator[Any]:
    """A container with a video stream; a `ValueError` where a file is none, or a camera cannot be opened."""
    with ExitStack() as stack:
        try:
            opened = _open_camera(av, source) if isinstance(source, Camera) else av.open(str(source))
            stack.enter_context(opened).streams.video[0]
        except (av.error.FFmpegError, IndexError):
            raise ValueError(f"{source} is not a video that can be read") from None
        yield opened


def _open_camera(av: Any, camera: Camera) -> Any:
    """A container of what a camera sees; a `ValueError` where it cannot be opened."""
    if sys.platform not in CAMERAS:
        raise ValueError(
            f"{camera} cannot be opened: cameras are read on Linux and macOS; elsewhere record a video, and "
            "name its file"
        )
    device, form, options = CAMERAS[sys.platform]
    device = device.format(camera.number)
    try:
        return av.open(device, format=form, options=options)
    except av.error.FFmpegError as error:
        raise ValueError(f"{camera} cannot be opened: {error.strerror} ({device})") from None


def _frames(av: Any, video: Any) -> Iterator[Any]:
    """The frames of a video; a camera may have none yet, and is asked again."""
    while True:
        try:
            yield from video.decode(video=0)
            return
        except av.error.BlockingIOError:
            time.sleep(WAIT)


@contextmanager
def _outputs(av: Any, target: Path, rate: Fraction, *, masks: bool, live: bool) -> Iterator[list["_Writer"]]:
    """The videos to write, overlay first; they get their names at the end, or are removed on any error.

    The end of a `live` one is where its caller stops.
    """
    wanted = [("_overlay.mp4", "mp4", "libx264", "yuv420p")]
    wanted += [("_mask.mkv", "matroska", "ffv1", "gray")] if masks else []
    target.parent.mkdir(parents=True, exist_ok=True)
    drafts = {target.with_name(f".{target.name}{end}"): target.with_name(f"{target.name}{end}")
              for end, *_ in wanted}  # fmt: skip
    stopped: BaseException | None = None
    try:
        with ExitStack() as stack:
            writers: list[_Writer] = []
            for draft, (_, container, codec, pixels) in zip(drafts, wanted, strict=True):
                output = stack.enter_context(av.open(str(draft), "w", format=container))
                writers.append(_Writer(av, output, codec, pixels, rate))
            try:
                yield writers
            except (GeneratorExit, KeyboardInterrupt) as stop:
                if not live or not all(writer.started for writer in writers):
                    raise
                stopped = stop
            for writer in writers:
                writer.end()
        for draft, final in drafts.items():
            draft.replace(final)
        if stopped is not None:
            raise stopped
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def count_frames(source: Path | Camera) -> int | None:
    """Frames of a video according to its header; None where that gives none, or the file is no video.

    Raises:
        ValueError: PyAV is not installed.
    """
    av = require_av()
    if isinstance(source, Camera):
        return None
    try:
        with _open_video(av, source) as video:
            stream = video.streams.video[0]
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
        self.av, self.output, self.pixels, self.rate = av, output, pixels, rate
        self.stream = output.add_stream(codec, rate=rate)
        self.stream.pix_fmt = pixels
        self.started = False
        self.next = 0

    def write(self, picture: np.ndarray, place: int = 0) -> None:
        """Add H x W x 3 RGB, or H x W, as frame number `place`, or as the next one where that is higher."""
        if not self.started:
            self.stream.height, self.stream.width = picture.shape[:2]
            self.started = True
        frame = self.av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
        frame.pts, frame.time_base = max(place, self.next), 1 / self.rate
        self.next = frame.pts + 1
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
