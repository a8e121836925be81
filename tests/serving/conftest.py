"""A server of a network that classifies colours, on a real socket."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from PIL import Image
from torch import nn

from segdistill.config.deploy import ServeConfig
from segdistill.data.labels import LabelSet
from segdistill.models.trained import TrainedNetwork
from segdistill.serving.server import listening_socket, make_server
from segdistill.serving.service import Service, network_card

LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 0, 200)))
Serve = Callable[..., contextlib.AbstractContextManager["Running"]]

HEAD = (
    b"POST /v1/segment?format=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)
PART = b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"


class Colours(nn.Module):
    """Logits are the image's red and green, and 0 for background; it records the shapes of its inputs.

    While `gate` is clear, `forward` waits; `calls` counts those that began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.batches: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.gate.wait(20)
        self.batches.append(tuple(image.shape))
        return 9 * torch.stack([0 * image[:, 0], image[:, 0], image[:, 1]], dim=1)


class Running:
    """A running server, and clients of it; `client` opens a new connection for each request."""

    def __init__(self, url: str, service: Service, network: nn.Module, server: uvicorn.Server) -> None:
        self.url, self.service, self.network, self.server = url, service, network, server
        self.client = httpx.Client(
            base_url=url, timeout=30, verify=False, trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(
        self, data: bytes, path: str = "/v1/segment", *, name: str = "photo.png", **options: Any
    ) -> httpx.Response:
        return self.client.post(path, files={"image": (name, data)}, **options)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection without a request yet."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        host, port = self.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        return client

    def begin(self, client: socket.socket, body: bytes, *, length: int = 5000, form: bytes = b"mask") -> None:
        """Send the header of a request for a mask, and as much of its body as is given."""
        client.sendall(HEAD % (form, length) + body)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return once `reached`."""
        until = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < until
            time.sleep(0.002)

    def wait_for_requests(self, count: int) -> None:
        """Return once `count` requests are admitted."""
        self.wait_until(lambda: len(self.service.admission) == count)

    def wait_for_queue(self, count: int) -> None:
        """Return once `count` images wait for the network."""
        self.wait_until(lambda: len(self.service.batcher) == count)


@contextlib.contextmanager
def running(network: nn.Module | None = None, **settings: Any) -> Iterator[Running]:
    """Serve `network`, else `Colours`, with settings of `ServeConfig`."""
    module = Colours() if network is None else network
    config = ServeConfig(**{"port": 0, "device": "cpu", "max_wait_ms": 1.0} | settings)
    trained = TrainedNetwork(module, LABELS, "colours").eval()
    with Service(trained, network_card(trained), config, torch.device("cpu")) as service:
        if isinstance(module, Colours):
            module.calls = 0
            module.batches.clear()  # of the trial with two images
        server = make_server(service)
        listener, url = listening_socket(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        found = Running(url, service, module, server)
        try:
            yield found
        finally:
            found.client.close()
            if isinstance(module, Colours):
                module.gate.set()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Starts servers, see `running`."""
    return running


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Running]:
    """A server for tests that leave nothing behind."""
    with serve() as found:
        yield found


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """64 x 32 pixels, left half red, right half green."""
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 255, 0), (32, 0, 64, 32))
    return image


@pytest.fixture(scope="session")
def encoded(picture: Image.Image) -> Callable[..., bytes]:
    """The picture, or another one, as the bytes of a file."""

    def encode(image: Image.Image = picture, kind: str = "PNG", **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def error_of() -> Callable[[httpx.Response, int], str]:
    """Checks that a response is an error, one line of JSON, and returns its text."""

    def check(response: httpx.Response, status: int) -> str:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["error"]
        assert "\n" not in response.text
        return response.json()["error"]

    return check
