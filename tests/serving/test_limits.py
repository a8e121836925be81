"""What a server refuses: each limit, the token, damaged requests; and what it does not let out."""

import json
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from torch import Tensor, nn

from segdistill.config.deploy import ServeConfig
from segdistill.serving.admission import GRACE_S
from segdistill.serving.connections import make_protocol
from segdistill.serving.limits import Metrics
from segdistill.serving.server import allow_files, listening_socket

pytestmark = pytest.mark.integration


def post(running: Any, data: bytes, name: str = "photo.png", **options: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/segment", files={"image": (name, data)}, timeout=30, **options)


def error_of(response: httpx.Response, status: int) -> str:
    """The one line of JSON that a refusal is."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert "\n" not in response.text
    return response.json()["error"]


def connect(running: Any) -> socket.socket:
    return socket.create_connection((running.host, running.port), timeout=20)


def read_all(client: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    received = b""
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            return received
        if not part:
            return received
        received += part


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Any]:
    """A server with small limits, for tests that leave nothing behind."""
    with serve(max_bytes=100_000, max_pixels=10_000, max_header_bytes=2000, timeout_s=5) as running:
        yield running


def test_large_bodies_are_refused(server: Any) -> None:
    assert "above 100,000 bytes" in error_of(post(server, bytes(100_001)), 413)


def test_large_bodies_are_refused_before_they_are_sent(server: Any) -> None:
    with connect(server) as client:
        client.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_large_bodies_without_a_length_are_refused_while_they_come(server: Any) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        while sent < 50_000_000:
            sent += 10_000
            yield bytes(10_000)

    with httpx.Client(timeout=30) as client:
        response = client.post(
            f"{server.url}/v1/segment",
            content=endless(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
    assert "above 100,000 bytes" in error_of(response, 413)
    assert sent >= 100_000


def test_whoever_goes_on_sending_what_was_refused_is_hung_up_on(serve: Any) -> None:
    with serve(max_bytes=1000, timeout_s=0.5) as running, connect(running) as client:
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        until = time.monotonic() + 15
        while time.monotonic() < until:
            try:
                client.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
            except (ConnectionResetError, BrokenPipeError):
                break
            time.sleep(0.01)
        assert time.monotonic() < until
        assert httpx.get(f"{running.url}/healthz").status_code == 200


def test_many_pixels_are_refused(server: Any, encoded: Callable[..., bytes]) -> None:
    flat = encoded(Image.new("RGB", (2000, 2000)), optimize=True)  # 12 kB
    assert "has 2000x2000, but 10,000 pixels" in error_of(post(server, flat), 413)


def test_what_is_no_picture_is_refused(server: Any, encoded: Callable[..., bytes]) -> None:
    assert "not a JPEG" in error_of(post(server, b"#!/bin/sh"), 415)
    assert "not a JPEG" in error_of(post(server, encoded(kind="GIF"), name="photo.jpg"), 415)
    assert "cannot be decoded" in error_of(post(server, encoded()[:-40]), 422)
    assert "is empty" in error_of(post(server, b""), 422)


def test_broken_forms_are_refused(server: Any, encoded: Callable[..., bytes]) -> None:
    url = f"{server.url}/v1/segment"
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert "send multipart/form-data" in error_of(httpx.post(url, content=encoded()), 415)
    assert "send multipart/form-data" in error_of(httpx.post(url, json={"image": "x"}), 415)
    assert "cannot be read" in error_of(httpx.post(url, content=b"garbage", headers=form), 400)
    bare = {"Content-Type": "multipart/form-data"}
    assert "boundary" in error_of(httpx.post(url, content=b"x", headers=bare), 400)
    assert "in a field `image`" in error_of(httpx.post(url, files={"picture": encoded()}), 422)
    assert "in a field `image`" in error_of(
        httpx.post(url, files={"x": (None, "y")}, data={"image": "z"}), 422
    )
    two = [("image", encoded()), ("image", encoded())]
    assert "Too many files" in error_of(httpx.post(url, files=two), 400)
    assert "'mask', 'json' or 'overlay'" in error_of(
        httpx.post(url, params={"format": "gif"}, files={"image": encoded()}), 422
    )


def test_other_paths_and_methods_are_refused(server: Any) -> None:
    assert error_of(httpx.get(f"{server.url}/page/../../etc/passwd"), 404) == "Not Found"
    assert error_of(httpx.get(f"{server.url}/v1/segment"), 405) == "Method Not Allowed"
    lines = httpx.get(f"{server.url}/metrics").text
    assert 'path="other",status="404"' in lines
    assert "passwd" not in lines  # what clients make up does not become a label


def test_large_headers_are_refused(server: Any) -> None:
    response = httpx.get(f"{server.url}/healthz", headers={"X-Filler": "x" * 3000})
    assert response.status_code in {400, 431}
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(100):
            try:
                client.sendall(b"X-Filler: " + b"x" * 100 + b"\r\n")
            except (ConnectionResetError, BrokenPipeError):
                break
            time.sleep(0.002)
        assert b" 200 " not in read_all(client)


def test_what_is_no_http_is_refused_like_everything_else(server: Any) -> None:
    for sent in (
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"9" * 1500),
    ):
        with connect(server) as client:
            client.sendall(sent)
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"nosniff" in head
        assert "is no HTTP/1.1" in json.loads(body)["error"]


def test_memory_that_runs_out_is_no_fault_of_the_image(
    server: Any, encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("segdistill.serving.pictures.Image.open", fail)
        assert "not enough memory" in error_of(post(server, encoded()), 503)
    assert post(server, encoded()).status_code == 200


def test_the_limit_on_open_files_is_raised_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    allow_files(200)
    assert raised == []
    allow_files(1000)
    assert raised == [(1000, 4096)]
    with pytest.raises(ValueError, match=r"up to 5,000 open files, but the system allows 4,096: .*--connec"):
        allow_files(5000)


def test_slow_bodies_and_slow_networks_are_given_up(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(timeout_s=0.5) as running:
        with connect(running) as client:
            client.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
        running.network.gate.clear()
        assert "no answer was found within 0.5 s" in error_of(post(running, encoded()), 504)
        assert "no answer" in error_of(post(running, encoded()), 504)
        running.network.gate.set()
        assert post(running, encoded()).status_code == 200
        while len(running.service.places) > 0:
            time.sleep(0.01)
    assert len(running.network.batches) == 2  # the second had been given up before its turn


def test_slow_headers_are_hung_up_on(serve: Any) -> None:
    with serve(timeout_s=0.5) as running:
        for sent in (b"", b"GET /healthz HT"):
            with connect(running) as client:
                client.sendall(sent)
                started = time.monotonic()
                assert read_all(client) == b""
                assert time.monotonic() - started < 4
        with connect(running) as client:  # a second request on the same connection, after a good one
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            client.sendall(b"GET /hea")
            started = time.monotonic()
            read_all(client)
            assert time.monotonic() - started < 4


def test_clients_that_do_not_take_their_answer_are_hung_up_on() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        size = 1_000_000 if scope["path"] == "/small" else 50_000_000
        await send({"type": "http.response.body", "body": bytes(size)})

    protocol = make_protocol(connections=9, patience_s=2, metrics=Metrics(frozenset()))
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
                time.sleep(0.05)
            assert not server.server_state.connections
    finally:
        server.should_exit = True
        thread.join(30)


def test_a_full_queue_says_when_to_come_back(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(queue=2) as running, ThreadPoolExecutor(2) as clients:
        running.network.gate.clear()
        accepted = [clients.submit(post, running, encoded()) for _ in range(2)]
        while len(running.service.places) < 2:
            time.sleep(0.01)
        refused = post(running, encoded())
        assert "too many requests wait" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        running.network.gate.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]
        assert post(running, encoded()).status_code == 200


def test_connections_are_limited(
    serve: Any, encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(connections=2) as running, ThreadPoolExecutor(2) as clients:
        running.network.gate.clear()
        accepted = [clients.submit(post, running, encoded()) for _ in range(2)]
        while len(running.service.places) < 2:
            time.sleep(0.01)
        refused = httpx.get(f"{running.url}/healthz")
        assert "too many connections" in error_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        monkeypatch.setattr("segdistill.serving.connections.REFUSED", 2)
        with connect(running) as first, connect(running), connect(running):
            assert read_all(first) == b""
        running.network.gate.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        counted = httpx.get(f"{running.url}/metrics").text
        assert 'segdistill_requests_total{path="/healthz",status="503"} 1.0' in counted


def ask(client: socket.socket) -> None:
    """A whole request and its whole answer."""
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b"}"):
        part = client.recv(65536)
        assert part
        received += part
    assert received.startswith(b"HTTP/1.1 200")


def test_resting_connections_make_room(serve: Any) -> None:
    with serve(connections=2) as running:
        with connect(running) as first, connect(running) as second:
            for client in (first, second):
                ask(client)
            assert httpx.get(f"{running.url}/healthz").status_code == 200
            assert read_all(first) == b""  # it had rested for longest
            ask(second)


def test_slow_bodies_make_room(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(queue=2) as running, connect(running) as slow, connect(running) as slower:
        begun = b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"
        for client, more in ((slow, begun + bytes(1000)), (slower, begun)):
            client.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + more
            )
        while len(running.service.places) < 2:
            time.sleep(0.01)
        time.sleep(GRACE_S)
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        assert post(running, encoded()).status_code == 200
        answer = slower.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"too slowly while others waited" in answer
        assert 'path="/v1/segment",status="408"} 1.0' in httpx.get(f"{running.url}/metrics").text
        assert len(running.service.places) == 1


def test_answers_that_are_not_taken_make_room(serve: Any, encoded: Callable[..., bytes]) -> None:
    noise = Image.effect_noise((2000, 2000), 200).convert("RGB")  # whose overlay no socket's buffer holds
    file = encoded(noise, "JPEG")
    with serve(queue=1) as running, connect(running) as client:
        body = (
            b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n" + file + b"\r\n--b--\r\n"
        )
        client.sendall(
            b"POST /v1/segment?format=overlay HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" % len(body) + body
        )
        assert client.recv(12) == b"HTTP/1.1 200"
        time.sleep(GRACE_S + 0.2)
        assert len(running.service.places) == 1
        assert post(running, encoded()).status_code == 200
        until = time.monotonic() + 10
        while len(running.server.server_state.connections) > 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(running.server.server_state.connections) <= 1


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_token_is_wanted(
    serve: Any, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes], by_environment: bool
) -> None:
    if by_environment:
        monkeypatch.setenv("SEGDISTILL_TOKEN", "sésame")
    with serve(token=None if by_environment else "sésame") as running:
        for path in ("/", "/page.js", "/healthz", "/readyz"):
            assert httpx.get(running.url + path).status_code == 200
        for path in ("/v1/model", "/metrics", "/docs", "/openapi.json", "/nowhere"):
            assert "Authorization: Bearer" in error_of(httpx.get(running.url + path), 401)
        for given in ("Bearer sesame", "Bearer", "Basic sésame", "sésame"):
            refused = post(running, encoded(), headers={"Authorization": given.encode()})
            assert error_of(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        assert running.network.batches == []
        assert (
            post(running, encoded(), headers={"Authorization": "Bearer sésame".encode()}).status_code == 200
        )


def test_uploads_never_touch_the_disk(
    serve: Any, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes]
) -> None:
    def rollover(self: object) -> None:
        raise AssertionError("a file moved to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    data = encoded(Image.new("RGB", (1200, 1000), (255, 0, 0)), "BMP")
    assert len(data) > 3_000_000
    with serve() as running:
        for name in ("../../etc/passwd", "/etc/passwd", "CON", "x" * 500):
            assert post(running, data, name=name).status_code == 200


def test_a_failing_network_shows_no_traceback(
    serve: Any, encoded: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("secret detail")

    with serve(Failing()) as running:
        for _ in range(2):
            assert error_of(post(running, encoded()), 500) == "internal error; the server's log says more"
        lines = httpx.get(f"{running.url}/metrics").text
    assert 'segdistill_requests_total{path="/v1/segment",status="500"} 2.0' in lines
    assert "secret detail" in caplog.text


def test_clients_that_leave_are_forgotten(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve() as running:
        with connect(running) as client:
            client.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
            )
            while len(running.service.places) == 0:
                time.sleep(0.01)
        while len(running.service.places) == 1:
            time.sleep(0.01)
        assert post(running, encoded()).status_code == 200
        assert 'status="499"} 1.0' in httpx.get(f"{running.url}/metrics").text
