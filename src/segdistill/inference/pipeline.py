"""Images and videos in, masks and overlays out: decoded and written in threads, batched by size.

K: classes, h, w: rows and columns of the network's input.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from segdistill.config.deploy import PredictConfig
from segdistill.config.naming import setting
from segdistill.data.images import File, decode_image, open_image, write_image
from segdistill.data.inputs import Camera, Source, is_video
from segdistill.data.pictures import PictureInMemory
from segdistill.inference.prediction import Prediction, network_input, write_prediction
from segdistill.inference.segment import (
    Decide,
    class_mask,
    class_probabilities,
    largest_class,
    run_network,
    segment,
)
from segdistill.inference.tiles import check_tile, needs_tiles, predict_tiles
from segdistill.inference.video import predict_video, require_av
from segdistill.models.streams import choose_streams, stream_threads
from segdistill.models.trained import TrainedNetwork

FIRST_CHUNK = 1
"""Images of the first chunk, whose result comes soon; each next one has twice as many, up to `CHUNK`."""
CHUNK = 16
"""Most images that are decoded while those before them go through the network."""
CHUNK_PIXELS = 32_000_000
"""Most pixels that they have together; a larger image is decoded alone."""
BATCH = 8
"""Most images of a batch."""
CPU_BATCH = 1
"""The same on a CPU, whose caches hold the maps of one image at best: a batch is slower than its images."""
BATCH_PIXELS = 2**20
"""Most pixels of a batch's network inputs; a larger input is run alone."""
THREADS = min(4, os.cpu_count() or 1)
"""Threads that decode and write a chunk. PyTorch computes it in the caller's thread, with its own threads."""

PER_STREAM = 4
"""Least images for each of several streams, unless their number is asked for: a file is opened once more."""

Chunk = tuple["list[OpenedFile]", list[Future[Image.Image]]]
"""Files, and their images on the way."""
Result = tuple[Path, Prediction]
"""A mask file and what it holds; of a video, the overlay video and one frame."""


class UnreadableFilesError(ValueError):
    """Some files could not be read, or the network did not take them; all others were predicted.

    Attributes:
        reasons: why, by what was to be predicted.
    """

    def __init__(self, reasons: Mapping[Source, str], count: int) -> None:
        self.reasons = dict(reasons)
        listed = "; ".join(self.reasons.values())
        super().__init__(listed if count == 1 else f"{len(reasons)} of {count} files failed: {listed}")


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """One image or video that is to be predicted.

    Attributes:
        source: where it is.
        name: relative path of its outputs, without suffix.
        pixels: of an image that is decoded whole; None for a video, or an image that is cut into tiles.
    """

    source: Source
    name: Path
    pixels: int | None = None


@dataclass(frozen=True)
class Input:
    """A decoded image and what the network gets of it: 3 x h x w uint8."""

    image: Image.Image
    pixels: Tensor


def check_files(files: Sequence[tuple[Source, Path]], config: PredictConfig) -> None:
    """Refuse files that would get one name, and settings that do not go with each other or with a video."""
    for name, count in Counter(name for _, name in files).items():
        if count > 1:
            raise ValueError(
                f"two images are called {name}: predict them into different folders with {setting('out')}"
            )
    videos = [source for source, _ in files if is_video(source)]
    if videos:
        require_av()
        if config.probabilities or config.flip or config.tile:
            raise ValueError(
                f"{videos[0]} is a video, which goes with neither {setting('probabilities')}, "
                f"{setting('flip')} nor {setting('tile')}"
            )
    if config.tile:
        if config.probabilities or config.flip or config.size:
            raise ValueError(
                f"{setting('tile')} goes with neither {setting('probabilities')}, {setting('flip')} nor "
                f"{setting('size')}"
            )
        check_tile(config.tile, config.overlap)


class Pipeline:
    """Predicts files, and gives their results in their order.

    On a CPU several images are on their way at a time, each from its file to its mask in a thread of its own,
    with an equal part of the cores. Otherwise, on an accelerator or with a network that takes one call at a
    time, threads decode a chunk of images and write its masks: on a CPU before and after it goes through the
    network, on another device meanwhile. Which images share a batch follows from the files alone, not from
    how fast they are decoded.

    Args:
        network: on `device`, in eval mode.
        config: output folder, input size, ...
        device: where the network computes.
        decide: makes classes of logits; a video's are the largest.
        overlays: also write overlays.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        config: PredictConfig,
        device: torch.device,
        *,
        decide: Decide = largest_class,
        overlays: bool = True,
    ) -> None:
        self.network, self.config, self.device = network, config, device
        self.decide, self.overlays = decide, overlays
        self.size = network.long_side(config.size)
        # On a CPU, threads that decode would hold up the threads of the network, which wait for each other.
        self.overlaps = device.type != "cpu"
        batch = BATCH if self.overlaps else CPU_BATCH
        self.batch = batch if network.largest is None else min(batch, network.largest[0])
        self.whole_logits = config.probabilities or config.flip  # which take far more memory than the image
        concurrent = network.concurrent and not self.whole_logits
        self.streams = choose_streams(config.streams, device, concurrent=concurrent)
        self.opened: dict[Path, Image.Image] = {}
        self.failed: dict[Source, str] = {}

    def run(self, files: Sequence[tuple[Source, Path]]) -> Generator[Result, None, None]:
        """Predict files, each given with the relative path (without suffix) of its outputs.

        Raises:
            UnreadableFilesError: after the last file, where some could not be predicted.
        """
        most = len(files) if self.config.streams else len(files) // PER_STREAM
        streams = min(self.streams, most)
        items = self._items(files)
        try:
            yield from self._run_streams(items, streams) if streams > 1 else self._run_chunks(items)
        finally:
            for image in self.opened.values():  # where the caller stopped early
                image.close()
        if self.failed:
            ordered = {source: self.failed[source] for source, _ in files if source in self.failed}
            raise UnreadableFilesError(ordered, len(files))

    def _run_streams(self, items: Iterator[OpenedFile], streams: int) -> Iterator[Result]:
        """Several images on their way at a time, but one alone that takes much memory."""
        self.network.open_streams(streams)
        with stream_threads(streams) as pool:
            waiting: deque[tuple[OpenedFile, Future[Result | None]]] = deque()

            def results(most: int, pixels: int) -> Iterator[Result]:
                """Of the first images, until at most `most` of `pixels` pixels wait and none is done."""
                while waiting and (
                    len(waiting) > most
                    or sum(item.pixels or 0 for item, _ in waiting) > pixels
                    or waiting[0][1].done()
                ):
                    if result := waiting.popleft()[1].result():
                        yield result

            for item in items:
                if item.pixels is None:
                    yield from results(0, 0)
                    yield from self._predict_alone(item)
                elif self._input_pixels(item.pixels) > BATCH_PIXELS:
                    yield from results(0, 0)
                    if result := self._predict_one(item):
                        yield result
                else:
                    yield from results(2 * streams - 1, max(0, CHUNK_PIXELS - item.pixels))
                    waiting.append((item, pool.submit(self._predict_one, item)))
            yield from results(0, 0)

    def _input_pixels(self, pixels: int) -> int:
        """Most pixels that the network gets of an image with so many."""
        return pixels if self.size is None else self.size**2

    def _predict_one(self, item: OpenedFile) -> Result | None:
        """Decode, predict and write one image; None where it is noted as failed."""
        given = self._input(item, partial(self._decode, item))
        prediction = None if given is None else self._predict_input(item, given)
        return None if prediction is None else self._write(item, prediction)

    def _run_chunks(self, items: Iterator[OpenedFile]) -> Iterator[Result]:
        """One pass of the network at a time, with chunks of images decoded before it and written after it."""
        pool = ThreadPoolExecutor(THREADS)
        try:
            ahead: Chunk = ([], [])
            for chunk in chunks(items):
                decoding = [pool.submit(self._decode, item) for item in chunk if item.pixels is not None]
                ready: Chunk = (chunk, decoding)
                if self.overlaps:
                    ready, ahead = ahead, ready
                yield from self._finish(*ready, pool)
            yield from self._finish(*ahead, pool)
        finally:
            pool.shutdown(cancel_futures=True)

    def _items(self, files: Iterable[tuple[Source, Path]]) -> Iterator[OpenedFile]:
        """The files that can be opened. An image's header says whether it is cut into tiles."""
        for source, name in files:
            if isinstance(source, Camera) or is_video(source) or self.config.tile:
                yield OpenedFile(source=source, name=name)
                continue
            if isinstance(source, PictureInMemory):
                size = source.size
            else:
                try:
                    self.opened[name] = open_image(source)
                except (FileNotFoundError, ValueError) as error:
                    self.failed[source] = str(error)
                    continue
                size = self.opened[name].size
            if needs_tiles(size, self.network, self.config):
                if image := self.opened.pop(name, None):
                    image.close()
                yield OpenedFile(source=source, name=name)
            else:
                yield OpenedFile(source=source, name=name, pixels=size[0] * size[1])

    def _decode(self, item: OpenedFile) -> Image.Image:
        if isinstance(item.source, PictureInMemory):
            return item.source.decode(self.network.bits)
        assert not isinstance(item.source, Camera)
        return decode_image(item.source, self.opened.pop(item.name), self.network.bits)

    def _input(self, item: OpenedFile, decode: Callable[[], Image.Image]) -> Input | None:
        """What the network gets of a file; None where that cannot be decoded, which is noted."""
        try:
            image = decode()
        except (FileNotFoundError, ValueError) as error:
            self.failed[item.source] = str(error)
            return None
        return Input(image, network_input(image, self.size))

    def _finish(
        self, chunk: list[OpenedFile], decoding: list[Future[Image.Image]], pool: ThreadPoolExecutor
    ) -> Iterator[Result]:
        """Predict and write the files of a chunk; a result comes once those before it are written."""
        if chunk and chunk[0].pixels is None:
            yield from self._predict_alone(chunk[0])
            return
        inputs: dict[OpenedFile, Input] = {}
        for item, future in zip(chunk, decoding, strict=True):
            if given := self._input(item, future.result):
                inputs[item] = given
        waiting = deque(inputs)
        written: dict[OpenedFile, Future[Result]] = {}
        held: list[tuple[OpenedFile, Prediction]] = []
        while inputs:
            held += self._predict_batch(self._next_batch(inputs))
            # Probabilities of a photograph take a hundred megabytes: those of one image at a time.
            if self.overlaps or self.config.probabilities or not inputs:
                written |= {item: pool.submit(self._write, item, prediction) for item, prediction in held}
                held.clear()
            wait = self.config.probabilities
            while waiting and (first := waiting[0]) in written and (wait or written[first].done()):
                yield written.pop(waiting.popleft()).result()
        yield from (written.pop(item).result() for item in waiting if item in written)

    def _next_batch(self, inputs: dict[OpenedFile, Input]) -> dict[OpenedFile, Input]:
        """Take the first input, and those of its size that fit into a batch with it."""
        shape = next(iter(inputs.values())).pixels.shape
        most = 1 if self.whole_logits else max(1, min(self.batch, BATCH_PIXELS // (shape[1] * shape[2])))
        alike = [item for item, given in inputs.items() if given.pixels.shape == shape]
        return {item: inputs.pop(item) for item in alike[:most]}

    def _predict_batch(self, batch: dict[OpenedFile, Input]) -> Iterator[tuple[OpenedFile, Prediction]]:
        """The predictions of inputs of one size, but those that the network does not take."""
        if len(batch) > 1:
            logits = self._run_batch([given.pixels for given in batch.values()])
            if logits is not None:
                for (item, given), values in zip(batch.items(), logits, strict=True):
                    yield item, self._prediction(given.image, values)
                return
        for item, given in batch.items():
            if prediction := self._predict_input(item, given):
                yield item, prediction

    def _predict_input(self, item: OpenedFile, given: Input) -> Prediction | None:
        """The prediction of one input; None where the network does not take it, which is noted."""
        try:
            if self.whole_logits:
                return self._predict_whole(given)
            return self._prediction(
                given.image, run_network(self.network, given.pixels[None].to(self.device))[0]
            )
        except ValueError as error:
            self.failed[item.source] = f"{item.source}: {error}"
            return None

    def _run_batch(self, pixels: list[Tensor]) -> Tensor | None:
        """N x K x h x w logits; None, from then on, where the network takes one image at a time."""
        try:
            logits = run_network(self.network, torch.stack(pixels).to(self.device))
        except (RuntimeError, ValueError):  # a file with a fixed batch, say
            logits = None
        if logits is None or len(logits) != len(pixels):
            self.batch = 1
            return None
        return logits

    def _prediction(self, image: Image.Image, logits: Tensor) -> Prediction:
        """The prediction of K x h x w logits."""
        mask = class_mask(logits, (image.height, image.width), self.decide)
        return Prediction(image=image, mask=mask, probabilities=None, labels=self.network.labels)

    def _predict_whole(self, given: Input) -> Prediction:
        """A prediction that needs the logits at the image's own size."""
        size = (given.image.height, given.image.width)
        logits = segment(self.network, given.pixels.to(self.device), size, flip=self.config.flip)
        prediction = self._prediction(given.image, logits)
        if not self.config.probabilities:
            return prediction
        probabilities = class_probabilities(logits, self.network.temperature).cpu().numpy()
        return replace(prediction, probabilities=probabilities)

    def _write(self, item: OpenedFile, prediction: Prediction) -> Result:
        file = write_prediction(
            prediction,
            Path(self.config.out),
            item.name,
            probabilities=self.config.probabilities,
            overlay=self.overlays,
        )
        return file, prediction

    def _predict_alone(self, item: OpenedFile) -> Iterator[Result]:
        """Predict a video frame by frame, or an image tile by tile."""
        target = Path(self.config.out) / item.name
        try:
            if isinstance(item.source, Camera) or is_video(item.source):
                video = target.with_name(f"{target.name}_overlay.mp4")
                for frame in predict_video(
                    self.network,
                    item.source,
                    target,
                    size=self.config.size,
                    masks=self.config.mask_video,
                    device=self.device,
                ):
                    yield video, frame
            else:
                yield self._predict_tiled(item.source, target)
        except (FileNotFoundError, ValueError) as error:
            self.failed[item.source] = str(error)

    def _predict_tiled(self, source: File | PictureInMemory, target: Path) -> Result:
        """Segment one image tile by tile; its overlay is downscaled to a size that can be looked at."""
        mask, downscaled = predict_tiles(
            self.network, source, self.config, device=self.device, decide=self.decide
        )
        file = target.with_name(f"{target.name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, replace(downscaled, mask=mask).palette_mask(), "PNG")
        if self.overlays:
            write_image(target.with_name(f"{target.name}_overlay.jpg"), downscaled.overlay(), "JPEG")
        return file, downscaled


def chunks(items: Iterable[OpenedFile]) -> Iterator[list[OpenedFile]]:
    """Consecutive items that may be in memory together; a video or an image in tiles is alone."""
    chunk: list[OpenedFile] = []
    total, most = 0, FIRST_CHUNK
    for item in items:
        alone = item.pixels is None or (bool(chunk) and chunk[0].pixels is None)
        full = len(chunk) == most or total + (item.pixels or 0) > CHUNK_PIXELS
        if chunk and (alone or full):
            yield chunk
            chunk, total, most = [], 0, min(CHUNK, 2 * most)
        chunk.append(item)
        total += item.pixels or 0
    if chunk:
        yield chunk
