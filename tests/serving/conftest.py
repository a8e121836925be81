"""A server around a network that answers with colours, on a real socket, for as long as a test takes."""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import uvicorn
from PIL import Image
from torch import nn

from segdistill.config.deploy import ServeConfig
from segdistill.data.labels import LabelSet
from segdistill.models.trained import TrainedNetwork
from segdistill.serving.server import Service, listening_socket, make_server, model_card

LABELS = LabelSet(names=("background", "red", "green"), palette=((0, 0, 0), (200, 0, 0), (0, 0, 200)))
Serve = Callable[..., contextlib.AbstractContextManager["Running"]]


class Colours(nn.Module):
    """Answers with the image's red and green, and between them with background; counts what it sees.

    While `gate` is clear, it keeps everyone waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.gate.wait(20)
        self.batches.append(tuple(image.shape))
        return 9 * torch.stack([0 * image[:, 0], image[:, 0], image[:, 1]], dim=1)


class Running:
    """A server that runs: its address, its service, its network and what is under it."""

    def __init__(self, url: str, service: Service, network: nn.Module, server: uvicorn.Server) -> None:
        self.url, self.service, self.network, self.server = url, service, network, server
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)


@contextlib.contextmanager
def running(network: nn.Module | None = None, **settings: Any) -> Iterator[Running]:
    """Serve `network`, else `Colours`, with settings of `ServeConfig`."""
    module = Colours() if network is None else network
    config = ServeConfig(**{"port": 0, "device": "cpu", "max_wait_ms": 1.0} | settings)
    trained = TrainedNetwork(module, LABELS, "colours").eval()
    with Service(trained, model_card(trained), config, torch.device("cpu")) as service:
        if isinstance(module, Colours):
            module.batches.clear()  # what it saw so far was a trial
        server = make_server(service)
        listener, url = listening_socket(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Running(url, service, module, server)
        finally:
            if isinstance(module, Colours):
                module.gate.set()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Starts servers, see `running`."""
    return running


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
