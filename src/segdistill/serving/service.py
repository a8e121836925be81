"""A network with its queue, its limits and its model card: what the server's routes call.

H, W: rows and columns of an image, h, w: those of the network's input.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import torch
from fastapi import HTTPException, Request, Response
from PIL import Image
from torch import Tensor

from segdistill.config.deploy import LONGEST_SIDE, ServeConfig
from segdistill.config.naming import setting
from segdistill.console import log
from segdistill.data.transforms import resize_long_side, to_tensor
from segdistill.inference.pipeline import BATCH, CPU_BATCH
from segdistill.models.card import read_card
from segdistill.models.spec import parse_architecture, parse_spec
from segdistill.models.streams import choose_streams
from segdistill.models.trained import TrainedNetwork
from segdistill.page.card import describe_network
from segdistill.serving.admission import Admission
from segdistill.serving.batching import Batcher, largest_batch
from segdistill.serving.codec import ResponseFormat, decode_upload, encode_mask, read_upload
from segdistill.serving.metrics import ServerMetrics
from segdistill.serving.schemas import Limits, Model, NetworkCard

T = TypeVar("T")


class Service:
    """Turns requests into masks.

    Args:
        network: on `device`, in eval mode.
        card: of the network, see `network_card`.
        config: limits and batching.
        device: where it computes.

    Raises:
        ValueError: the network does not take images of the size that is asked for, or its file cannot be
            opened for several streams.
    """

    def __init__(
        self, network: TrainedNetwork, card: NetworkCard, config: ServeConfig, device: torch.device
    ) -> None:
        self.labels, self.bits, self.config = network.labels, network.bits, config
        self.size = network.long_side(config.size)
        self.max_side = min(LONGEST_SIDE, network.largest_side or LONGEST_SIDE)
        if network.largest_side is not None and (self.size or 0) > self.max_side:
            raise ValueError(
                f"the file takes no image of {self.size} pixels: serve it with {setting('size')} "
                f"{self.max_side}"
            )
        self.streams = choose_streams(config.streams, device, concurrent=network.concurrent)
        wanted = config.max_batch or (CPU_BATCH if device.type == "cpu" else BATCH)
        batch = largest_batch(network, device, wanted)
        if batch < wanted:
            log(f"{card.name} takes one image at a time: requests are not batched")
        self.metrics = ServerMetrics()
        network.open_streams(self.streams)  # before the first request
        self.batcher = Batcher(
            network, device, max_batch=batch, streams=self.streams, wait_s=config.max_wait_ms / 1000,
            observe=self.metrics.batches.observe,
        )  # fmt: skip
        self.pool = ThreadPoolExecutor(
            min(8, os.cpu_count() or 1), "images", torch.set_num_threads, (1,)
        )  # with one thread of PyTorch's each: the network has the others
        self.admission = Admission(config.queue)
        self.metrics.working.set_function(lambda: len(self.admission))
        self.metrics.queue.set_function(lambda: len(self.batcher))
        limits = Limits(max_bytes=config.max_bytes, max_pixels=config.max_pixels, timeout_s=config.timeout_s)
        self.card = Model(**dict(card), size=self.size, device=device.type, limits=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what has been submitted, and end the threads."""
        self.batcher.close()
        self.pool.shutdown()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.batcher.alive and not self.admission.full

    async def segment(self, request: Request, form: ResponseFormat) -> Response:
        """The mask of a request's image.

        Raises:
            HTTPException: the time is over, or the image is refused.
        """
        data = None
        try:
            async with asyncio.timeout(self.config.timeout_s):
                data = await read_upload(request, self.config.max_bytes)
                return await self._segment(data, form)
        except TimeoutError:
            late = "the body did not arrive" if data is None else "the mask was not computed"
            status = 408 if data is None else 504
            raise HTTPException(status, f"{late} within {self.config.timeout_s:g} s") from None

    async def _segment(self, data: bytes, form: ResponseFormat) -> Response:
        started = time.perf_counter()
        image, size = await self._in_pool(lambda: self._network_input(data))
        decoded = time.perf_counter()
        logits = await asyncio.wrap_future(self.batcher.submit(image))
        seconds = {
            "decode": round(decoded - started, 4),
            "network": round(time.perf_counter() - decoded, 4),
        }
        body, media_type = await self._in_pool(
            lambda: encode_mask(logits, lambda: self._decode(data), size, self.labels, form, seconds)
        )
        return Response(body, media_type=media_type)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        """What `work` returns, run in a thread: the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def _network_input(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """The network's input, 3 x h x w uint8, and H, W of the image."""
        image = self._decode(data)
        long_side = self.size
        if long_side is None and max(image.size) > self.max_side:
            long_side = self.max_side
        return resize_long_side(to_tensor(image), long_side), (image.height, image.width)

    def _decode(self, data: bytes) -> Image.Image:
        return decode_upload(data, self.config.max_pixels, self.bits)


def network_card(network: TrainedNetwork) -> NetworkCard:
    """The card of a network that is not fused yet, see `describe_network`."""
    return NetworkCard(**describe_network(network))


def refuse_code(spec: str) -> None:
    """Refuse to run code that a spec names, on the command line or in a run folder's card.

    Raises:
        ValueError: it names some.
    """
    network = parse_spec(spec)
    if network.kind == "run" and network.path is not None:
        network = parse_architecture(read_card(network.path).spec)
    if network.is_code:
        raise ValueError(
            f"{network.text} is code, which a server does not run: "
            "serve a run folder, an exported file or a built-in network"
        )
