"""Connections: how many, how long each may stall, what is not HTTP; and what is used of uvicorn."""

import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h11
import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from segdistill.config.deploy import ServeConfig
from segdistill.serving.connections import LimitedProtocol, make_protocol
from segdistill.serving.metrics import ServerMetrics
from segdistill.serving.server import listening_socket


def read_all(client: socket.socket) -> bytes:
    """What arrives until the server closes the connection."""
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def ask(client: socket.socket) -> None:
    """A whole request and its whole response."""
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b"}"):
        chunk = client.recv(65536)
        assert chunk
        received += chunk
    assert received.startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def small(serve: Any) -> Iterator[Any]:
    """A server with small limits, for tests that leave nothing behind."""
    with serve(max_bytes=1000, max_header_bytes=2000, timeout_s=0.4) as running:
        yield running


OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "handle_events": ["self"],
    "send_400_response": ["self", "msg"],
    "on_response_complete": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "connection_lost": ["self", "exc"],
}
CHANGED = (
    f"uvicorn {uvicorn.__version__} has changed what serving/connections.py builds on: adapt it, "
    "or lower the bound on uvicorn in pyproject.toml. Changed: "
)


@pytest.mark.unit
def test_uvicorn_still_has_what_is_overridden_and_used() -> None:
    """These are not part of uvicorn's public API."""
    own = {name for name, value in vars(LimitedProtocol).items() if inspect.isfunction(value)}
    assert own - {"abort", "_update_idle", "_discard"} == set(OVERRIDDEN), "OVERRIDDEN is not up to date"
    for name, parameters in OVERRIDDEN.items():
        method = getattr(H11Protocol, name, None)
        assert method is not None, f"{CHANGED}no method {name}"
        assert list(inspect.signature(method).parameters) == parameters, f"{CHANGED}arguments of {name}"

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    class Loop:
        """The protocol only keeps it."""

    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    protocol = H11Protocol(config, ServerState(), {}, Loop())  # type: ignore[arg-type]
    for name in ("app", "loop", "conn", "scope", "cycle", "transport"):
        assert hasattr(protocol, name), f"{CHANGED}no attribute {name} of the protocol"
    assert isinstance(protocol.conn, h11.Connection), f"{CHANGED}conn is no h11.Connection"
    source = inspect.getsource(H11Protocol.handle_events)
    for used in ("self.app", "self.send_400_response(", '"state"', "on_response=self.on_response_complete"):
        assert used in source, f"{CHANGED}handle_events no longer uses {used}"
    initial = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "message_event", "response_complete"):
        assert f"self.{name} = " in initial, f"{CHANGED}no attribute {name} of a request's cycle"


@pytest.mark.integration
def test_what_is_not_http_is_refused_like_everything_else(small: Any) -> None:
    for sent in (
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"9" * 1500),
    ):
        with small.connect() as client:
            client.sendall(sent)
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"nosniff" in head
        assert "is no HTTP/1.1" in json.loads(body)["error"]


@pytest.mark.integration
def test_headers_without_end_are_refused(small: Any) -> None:
    with small.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        try:
            for _ in range(100):
                client.sendall(b"X-Filler: " + b"x" * 100 + b"\r\n")
                time.sleep(0.001)
        except (ConnectionResetError, BrokenPipeError):
            pass
        received = read_all(client)
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")


@pytest.mark.integration
def test_bodies_announced_as_too_large_are_refused_before_they_are_sent(small: Any) -> None:
    with small.connect() as client:
        client.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.integration
def test_a_client_that_keeps_sending_a_refused_body_is_aborted(small: Any) -> None:
    with small.connect() as client:
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        until = time.monotonic() + 15
        aborted = False
        while not aborted and time.monotonic() < until:
            try:
                client.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
            except (ConnectionResetError, BrokenPipeError):
                aborted = True
            time.sleep(0.01)
        assert aborted
    assert small.get("/healthz").status_code == 200


@pytest.mark.integration
def test_slow_headers_are_aborted(small: Any) -> None:
    started = time.monotonic()
    with small.connect() as silent, small.connect() as slow, small.connect() as second:
        slow.sendall(b"GET /healthz HT")
        ask(second)
        second.sendall(b"GET /hea")  # of a second request, after a good one
        for client in (silent, slow, second):
            assert read_all(client) == b""
    assert 0.4 <= time.monotonic() - started < 4


@pytest.mark.integration
def test_clients_that_do_not_read_their_response_are_aborted() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        size = 1_000_000 if scope["path"] == "/small" else 30_000_000
        await send({"type": "http.response.body", "body": bytes(size)})

    protocol = make_protocol(9, 0.8, ServerMetrics())
    server = uvicorn.Server(uvicorn.Config(large, http=protocol, ws="none", lifespan="off", log_config=None))
    listener, url = listening_socket(ServeConfig(port=0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert len(httpx.get(f"{url}/small", timeout=60).content) == 1_000_000
        with socket.create_connection(listener.getsockname(), timeout=20) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            until = time.monotonic() + 20
            while server.server_state.connections and time.monotonic() < until:
                time.sleep(0.02)
            assert not server.server_state.connections
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.mark.integration
def test_connections_are_limited(
    serve: Any, encoded: Callable[..., bytes], error_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(connections=2) as running, ThreadPoolExecutor(2) as clients:
        running.network.gate.clear()
        admitted = [clients.submit(running.post, encoded()) for _ in range(2)]
        running.wait_for_requests(2)
        refused = running.get("/healthz")
        assert "too many connections" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        monkeypatch.setattr("segdistill.serving.connections.MAX_REFUSED", 2)
        with running.connect() as first, running.connect(), running.connect():
            assert read_all(first) == b""
        running.network.gate.set()
        assert [response.result().status_code for response in admitted] == [200, 200]
        assert running.get("/healthz").status_code == 200
        counted = running.get("/metrics").text
        assert 'segdistill_requests_total{path="/healthz",status="503"} 1.0' in counted


@pytest.mark.integration
def test_the_connection_that_was_idle_for_longest_is_replaced(serve: Any) -> None:
    with serve(connections=2) as running, running.connect() as first, running.connect() as second:
        for client in (first, second):
            ask(client)
        assert running.get("/healthz").status_code == 200
        assert read_all(first) == b""
        ask(second)
