"""A network over HTTP: masks of posted pictures, a model card, health, metrics, and a page to try it.

H, W: rows and columns of a picture.
"""

import asyncio
import ipaddress
import logging
import math
import os
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import torch
import uvicorn
from fastapi import HTTPException, Request, Response
from starlette.types import ASGIApp
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from segdistill.config.deploy import ServeConfig
from segdistill.console import log
from segdistill.data.transforms import resize_long_side
from segdistill.engine.runtime import stop_signal
from segdistill.models.card import is_run, read_card
from segdistill.models.fused import fuse
from segdistill.models.spec import parse_architecture, parse_spec
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.serving.admission import Admission
from segdistill.serving.batching import Batcher, largest_batch
from segdistill.serving.connections import REFUSED, make_protocol
from segdistill.serving.limits import Metrics, Middleware, read_upload
from segdistill.serving.pictures import Format, encode, open_picture
from segdistill.serving.routes import OPEN_PATHS, PATHS, SEGMENT_PATH, make_app

LARGEST_VIEW = 1024
"""Long side, in pixels, that a network without a size of its own sees at most."""

TOKEN = "SEGDISTILL_TOKEN"
"""Environment variable with the token that clients must send."""

KEEP_ALIVE_S = 5
"""Seconds that a connection may rest between two requests."""

BACKLOG = 2048
"""Connections that the system keeps until the server takes them."""

OTHER_FILES = 128
"""Files that the process has open beside its connections."""

T = TypeVar("T")


class Service:
    """A network with its queue: what the routes answer from.

    Args:
        network: on `device`, in eval mode.
        card: what is said of it, see `model_card`.
        config: limits and batching.
        device: where it computes.
    """

    def __init__(
        self, network: TrainedNetwork, card: dict[str, Any], config: ServeConfig, device: torch.device
    ) -> None:
        self.labels, self.config = network.labels, config
        self.size = config.size or network.size
        self.most = min(LARGEST_VIEW, network.largest_side or LARGEST_VIEW)
        if (self.size or 0) > self.most and network.largest_side is not None:
            raise ValueError(
                f"the file takes no image of {self.size} pixels: serve it with --size {self.most}"
            )
        batch = largest_batch(network, device, config.max_batch)
        if batch < config.max_batch:
            log(f"{card['name']} takes one image at a time: requests are not batched")
        self.metrics = Metrics(PATHS)
        self.batcher = Batcher(
            network, device, max_batch=batch, wait_s=config.max_wait_ms / 1000,
            observe=self.metrics.batches.observe,
        )  # fmt: skip
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="pictures")
        self.places = Admission(config.queue)
        self.metrics.working.set_function(lambda: len(self.places))
        self.metrics.queue.set_function(lambda: len(self.batcher))
        limits = {name: asdict(config)[name] for name in ("max_bytes", "max_pixels", "timeout_s")}
        self.card = card | {"size": self.size, "device": device.type, "limits": limits}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what was submitted, and end the threads."""
        self.batcher.close()
        self.pool.shutdown()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.batcher.thread.is_alive() and not self.places.full

    async def answer(self, request: Request, form: Format) -> Response:
        """The mask of a request's picture.

        Raises:
            HTTPException: the time is over, or the picture is refused.
        """
        data = None
        try:
            async with asyncio.timeout(self.config.timeout_s):
                data = await read_upload(request, "image", self.config.max_bytes)
                return await self._segment(data, form)
        except TimeoutError:
            late = "the body did not arrive" if data is None else "no answer was found"
            status = 408 if data is None else 504
            raise HTTPException(status, f"{late} within {self.config.timeout_s:g} s") from None

    async def _segment(self, data: bytes, form: Format) -> Response:
        clock = time.perf_counter()
        pixels, size = await self._in_pool(lambda: self._view(data))
        decoded = time.perf_counter()
        logits = await asyncio.wrap_future(self.batcher.submit(pixels))
        seconds = {
            "decode": round(decoded - clock, 4),
            "network": round(time.perf_counter() - decoded, 4),
        }
        body, media_type = await self._in_pool(
            lambda: encode(logits, lambda: self._open(data), size, self.labels, form, seconds)
        )
        return Response(body, media_type=media_type)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        """What `work` returns, done in a thread: the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def _view(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """A picture as the network is to see it, 3 x h x w uint8, and its own H, W."""
        picture = self._open(data)
        long_side = self.size
        if long_side is None and max(picture.size) > self.most:
            long_side = self.most
        return resize_long_side(F.pil_to_tensor(picture), long_side), (picture.height, picture.width)

    def _open(self, data: bytes) -> Any:
        return open_picture(data, self.config.max_pixels)


def open_network(
    spec: str, device: torch.device, precision: str = "fp32"
) -> tuple[TrainedNetwork, dict[str, Any]]:
    """A network for a server, on `device` and fused where it is the dsunet student; and its model card.

    Raises:
        ValueError: the spec is code or names nothing, or its files are damaged.
        FileNotFoundError: a file does not exist.
    """
    refuse_code(spec)
    network = load_network(spec, precision=precision)
    card = model_card(network)
    network = network.to(device)
    if any(isinstance(module, DSUNet) for module in network.modules()):
        return cast(TrainedNetwork, fuse(network)), card
    return network.to(memory_format=torch.channels_last), card


def model_card(network: TrainedNetwork) -> dict[str, Any]:
    """What a server says of its network, without a path of its machine."""
    spec, labels = network.spec, network.labels
    card: dict[str, Any] = {
        "name": Path(spec).resolve().name if Path(spec).exists() else spec,
        "classes": [
            {"index": index, "name": name, "colour": list(labels.palette[index])}
            for index, name in enumerate(labels.names)
        ],
        "parameters": sum(p.numel() for p in network.parameters()) or None,
        "metrics": {},
    }
    if is_run(spec):
        found = read_card(Path(spec))
        scores = {name: value for name, value in found.metrics.items() if isinstance(value, float)}
        card |= {"architecture": found.spec, "metrics": scores}
    return card


def refuse_code(spec: str) -> None:
    """A server runs no code that a spec names, be it on the command line or in a run folder's card.

    Raises:
        ValueError: it names some.
    """
    network = parse_spec(spec)
    if network.kind == "run":
        network = parse_architecture(read_card(Path(spec)).spec)
    if network.is_code:
        raise ValueError(
            f"{network.text} is code, which a server does not run: "
            "serve a run folder, an exported file or a built-in network"
        )


class Server(uvicorn.Server):
    """Uvicorn's server, which the system keeps `BACKLOG` connections for, whatever it takes in at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


def make_server(service: Service) -> uvicorn.Server:
    """The HTTP server around a service."""
    config = service.config
    # Warnings are about what clients send, who would fill the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    token = config.token or os.environ.get(TOKEN) or None
    app: ASGIApp = Middleware(
        service.places.around(make_app(service), SEGMENT_PATH),
        service.metrics,
        max_header_bytes=config.max_header_bytes,
        token=token,
        open_paths=OPEN_PATHS,
    )
    return Server(
        uvicorn.Config(
            cast(Any, app),
            http=make_protocol(config.connections, config.timeout_s, service.metrics),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            backlog=max(1, min(config.connections // 4, BACKLOG)),
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=config.max_header_bytes,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(config.timeout_s) + KEEP_ALIVE_S,
        )
    )


def listen(service: Service, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted.

    Args:
        service: a network with its queue.
        ready: called with the URL once connections are taken.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: the system does not allow the process so many connections.
    """
    config = service.config
    allow_files(config.connections + min(config.connections // 4, BACKLOG) + REFUSED + OTHER_FILES)
    listener, url = listening_socket(config)
    server = make_server(service)
    if not is_loopback(config.host) and not (config.token or os.environ.get(TOKEN)):
        log(f"Warning: everyone who reaches {config.host} can use this server; --token or {TOKEN} closes it")
    with stop_signal():  # uvicorn stops on the signal, and then hands it on
        log(f"{service.card['name']} is served at {url} on {service.card['device']}; Ctrl-C stops")
        ready(url)
        server.run(sockets=[listener])


def allow_files(count: int) -> None:
    """Raise this process's own limit on open files, connections among them, where it is below `count`.

    Raises:
        ValueError: the system's limit is below it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ValueError(
            f"so many connections take up to {count:,} open files, but the system allows {hard:,}: "
            "choose fewer with --connections, or raise its limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def listening_socket(config: ServeConfig) -> tuple[socket.socket, str]:
    """A socket that takes connections, and its URL.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"cannot listen on {config.host}:{config.port}: {reason}") from None
    host = f"[{config.host}]" if ":" in config.host else config.host
    return listener, f"http://{host}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
