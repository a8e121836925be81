"""The server: its socket, its limit on open files, how it stops; and the errors of the command."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from segdistill import api, cli
from segdistill.config.deploy import ServeConfig
from segdistill.models.trained import TrainedNetwork
from segdistill.serving.server import allow_files, is_loopback, listen, listening_socket

pytestmark = pytest.mark.integration


def test_a_stopped_server_finishes_the_requests_that_it_admitted(
    run: Path, encoded: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    file = encoded(Image.new("RGB", (300, 200), (90, 30, 200)), "JPEG")
    found: list[int] = []
    urls: list[str] = []

    def stop_it_with_requests_in_progress() -> None:
        with httpx.Client(base_url=urls[0], timeout=60) as client, ThreadPoolExecutor(6) as clients:
            try:
                posts = [clients.submit(client.post, "/v1/segment", files={"image": file}) for _ in range(6)]
                while "segdistill_requests_working 6.0" not in client.get("/metrics").text:
                    assert not any(post.done() for post in posts)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
            found.extend(post.result().status_code for post in posts)

    visitor = threading.Thread(target=stop_it_with_requests_in_progress)

    def ready(url: str) -> None:
        urls.append(url)
        visitor.start()

    # Six images wait a second for two more to fill their batch.
    api.serve(run, ServeConfig(port=0, device="cpu", max_batch=8, max_wait_ms=1000), ready=ready)
    visitor.join(30)
    assert found == [200] * 6
    with pytest.raises(httpx.ConnectError):
        httpx.get(urls[0])


def test_a_failure_to_open_streams_ends_the_start(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: TrainedNetwork, streams: int) -> None:
        raise ValueError(f"student.onnx cannot be opened for {streams} streams: no memory")

    monkeypatch.setattr(TrainedNetwork, "open_streams", fail)
    assert cli.main(["serve", str(run), "--port", "0", "--device", "cpu", "--streams", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].endswith("student.onnx cannot be opened for 2 streams: no memory")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("network-")]


def test_an_address_in_use_is_one_line(server: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.url.rpartition(":")[2]
    assert cli.main(["serve", str(run), "--port", port, "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"segdistill: error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere.onnx"], "nowhere.onnx does not exist"),
        (["dsunet", "--port", "70000"], "port is 70000, but must be from 0 to 65535"),
        (["nets.py:make"], "nets.py:make is code, which a server does not run"),
    ],
)
def test_the_command_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], error: str) -> None:
    assert cli.main(["serve", *arguments]) == 1
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "token", "warns"), [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", "t", False)]
)
def test_an_open_address_without_a_token_is_warned_of(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    host: str, token: str | None, warns: bool,
) -> None:  # fmt: skip
    with serve(token=token) as running:
        object.__setattr__(running.service.config, "host", host)
        monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
        urls: list[str] = []
        listen(running.service, urls.append)
        assert urls[0].startswith(f"http://{host}:")
    assert ("Warning: everyone who reaches" in capsys.readouterr().err) == warns


def test_an_ipv6_address_is_bracketed_in_the_url() -> None:
    try:
        listener, url = listening_socket(ServeConfig(host="::1", port=0))
    except OSError:
        pytest.skip("this system has no IPv6")
    with listener:
        assert url.startswith("http://[::1]:")


def test_loopback_is_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "example.org")))


def test_the_limit_on_open_files_is_raised_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    allow_files(200)
    assert raised == []
    allow_files(1000)
    assert raised == [(1000, 4096)]
    with pytest.raises(ValueError, match=r"up to 5,000 open files, but the system allows 4,096: .*connec"):
        allow_files(5000)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    allow_files(5000)
    assert raised == [(1000, 4096)]


def test_impossible_settings_are_refused() -> None:
    for settings in ({"queue": 0}, {"timeout_s": 0}, {"token": ""}, {"max_wait_ms": -1}, {"port": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ServeConfig(**settings)  # type: ignore[arg-type]
