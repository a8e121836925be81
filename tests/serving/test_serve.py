"""The server as its clients meet it: answers, model card, health, metrics, and the command itself."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from segdistill import cli
from segdistill.config.deploy import ServeConfig
from segdistill.inference.prediction import predict_image
from segdistill.models.fused import FusedBlock
from segdistill.models.trained import load_network
from segdistill.serving.server import is_loopback, listen, open_network

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Any]:
    """A server for tests that leave nothing behind."""
    with serve() as running:
        yield running


def post(running: Any, data: bytes, path: str = "/v1/segment", **options: Any) -> httpx.Response:
    return httpx.post(running.url + path, files={"image": ("photo.png", data)}, timeout=30, **options)


def waiting(running: Any, count: int) -> None:
    """Return once `count` requests are in the server."""
    for _ in range(1000):
        if len(running.service.places) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{len(running.service.places)} requests are in the server, not {count}")


# Answers


def test_json_says_which_pixels_are_of_which_class(server: Any, encoded: Callable[..., bytes]) -> None:
    answer = post(server, encoded(), "/v1/segment?format=json").json()
    assert (answer["width"], answer["height"]) == (64, 32)
    assert [(found["name"], found["share"]) for found in answer["classes"]] == [("red", 0.5), ("green", 0.5)]
    red, green = answer["classes"]
    assert red["runs"] == [value for row in range(32) for value in (64 * row, 32)]
    assert green["runs"] == [value for row in range(32) for value in (64 * row + 32, 32)]
    assert (red["colour"], red["pixels"], red["index"]) == ([200, 0, 0], 1024, 1)
    assert set(answer["seconds"]) == {"decode", "network"}


def test_the_mask_is_a_palette_png(server: Any, encoded: Callable[..., bytes]) -> None:
    response = post(server, encoded())
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as mask:
        assert np.asarray(mask).tolist() == [[1] * 32 + [2] * 32] * 32
        assert mask.convert("RGB").getpixel((63, 0)) == (0, 0, 200)


def test_the_overlay_shows_the_picture_under_its_colours(server: Any, encoded: Callable[..., bytes]) -> None:
    response = post(server, encoded(), "/v1/segment?format=overlay")
    with Image.open(io.BytesIO(response.content)) as overlay:
        assert overlay.size > (64, 32)  # the legend is below
        assert overlay.getpixel((60, 5)) == (0, 115, 110)  # 0.45 * (0, 255, 0) + 0.55 * (0, 0, 200)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.9, image/png;q=0.5", "application/json"),
        ("application/json;q=0.9, image/png", "image/png"),
        ("application/json;q=0, */*;q=0.1", "image/png"),
        ("application/json;q=much", None),
        ("image/png;variant=picture", None),
        ("image/avif,image/*;q=0.8", "image/png"),
        ("*/*", "image/png"),
        ("text/html", None),
    ],
)
def test_the_accept_header_chooses(
    server: Any, encoded: Callable[..., bytes], accept: str, kind: str | None
) -> None:
    response = post(server, encoded(), headers={"Accept": accept})
    if kind is None:
        assert response.status_code == 406
    else:
        assert response.headers["content-type"] == kind


@pytest.mark.parametrize(
    ("accept", "query", "same_as"),
    [
        ("image/png; variant=overlay", "", "?format=overlay"),
        ('image/png; Variant="overlay"; q=0.9, application/json;q=0.5', "", "?format=overlay"),
        ("image/png; variant=mask, image/png; variant=overlay", "", "?format=mask"),
        ("image/png; variant=overlay", "?format=mask", "?format=mask"),
    ],
)
def test_the_accept_header_chooses_the_overlay_too(
    server: Any, encoded: Callable[..., bytes], accept: str, query: str, same_as: str
) -> None:
    response = post(server, encoded(), f"/v1/segment{query}", headers={"Accept": accept})
    assert response.headers["content-type"] == "image/png"
    assert response.content == post(server, encoded(), f"/v1/segment{same_as}").content


def test_a_run_is_served_as_predict_sees_it(serve: Any, run: Path, encoded: Callable[..., bytes]) -> None:
    network, card = open_network(str(run), torch.device("cpu"))
    assert any(isinstance(module, FusedBlock) for module in network.modules())
    plain = load_network(str(run))
    assert card["name"] == run.name
    assert card["parameters"] == sum(p.numel() for p in plain.parameters())
    assert card["classes"][1]["colour"] == list(plain.labels.palette[1])
    assert 0 <= card["metrics"]["pixel_accuracy"] <= 1
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((65, 47))
    with serve(network, size=40) as running:
        # The classes of the run are nine, of which the server's fixture names three: look at the mask alone.
        response = post(running, encoded(picture))
    with Image.open(io.BytesIO(response.content)) as mask:
        seen = np.asarray(mask)
    assert (seen == predict_image(plain, picture, size=40).mask).mean() > 0.999  # fused: up to rounding


def test_large_pictures_are_seen_smaller(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve() as running:
        response = post(running, encoded(Image.new("RGB", (2000, 500), (0, 255, 0))))
    with Image.open(io.BytesIO(response.content)) as mask:
        assert mask.size == (2000, 500)
        assert np.unique(np.asarray(mask)).tolist() == [2]
    assert running.network.batches == [(1, 3, 256, 1024)]


def test_concurrent_requests_share_a_batch(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(max_batch=4) as running, ThreadPoolExecutor(8) as clients:
        running.network.gate.clear()
        small = encoded(Image.new("RGB", (8, 8)))
        first = clients.submit(post, running, small)
        waiting(running, 1)
        for _ in range(1000):  # until the network has taken it
            if not len(running.service.batcher):
                break
            time.sleep(0.01)
        more = [clients.submit(post, running, encoded()) for _ in range(5)]
        for _ in range(1000):
            if len(running.service.batcher) == 5:
                break
            time.sleep(0.01)
        running.network.gate.set()
        assert {answer.result().status_code for answer in [first, *more]} == {200}
        assert running.network.batches == [(1, 3, 8, 8), (4, 3, 32, 64), (1, 3, 32, 64)]
        lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    assert "segdistill_batch_size_count 3.0" in lines
    assert "segdistill_batch_size_sum 6.0" in lines
    assert 'segdistill_requests_total{path="/v1/segment",status="200"} 6.0' in lines
    assert 'segdistill_request_seconds_count{status="200"} 6.0' in lines
    assert "segdistill_queue_length 0.0" in lines


def test_the_model_card(server: Any) -> None:
    card = httpx.get(f"{server.url}/v1/model").json()
    assert card == {
        "name": "colours",
        "classes": [
            {"index": 0, "name": "background", "colour": [0, 0, 0]},
            {"index": 1, "name": "red", "colour": [200, 0, 0]},
            {"index": 2, "name": "green", "colour": [0, 0, 200]},
        ],
        "parameters": None,
        "metrics": {},
        "size": None,
        "device": "cpu",
        "limits": {"max_bytes": 16 * 2**20, "max_pixels": 32_000_000, "timeout_s": 30.0},
    }


def test_health_and_readiness(serve: Any, encoded: Callable[..., bytes]) -> None:
    with serve(queue=1) as running, ThreadPoolExecutor(1) as client:
        assert httpx.get(f"{running.url}/healthz").json() == {"status": "alive"}
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        running.network.gate.clear()
        answer = client.submit(post, running, encoded())
        waiting(running, 1)
        assert httpx.get(f"{running.url}/readyz").status_code == 503
        assert httpx.get(f"{running.url}/healthz").status_code == 200  # the loop is free while others wait
        running.network.gate.set()
        assert answer.result().status_code == 200


def test_nothing_served_names_another_host(server: Any) -> None:
    for path in ("/", "/page.css", "/page.js", "/drawing.js", "/icon.svg", "/docs", "/openapi.json"):
        response = httpx.get(server.url + path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", response.text))
        assert addresses <= {"http://www.w3.org"}, path  # the name of SVG's vocabulary


def test_the_description_of_the_api_is_whole(server: Any) -> None:
    api = httpx.get(f"{server.url}/openapi.json").json()
    assert set(api["paths"]) == {"/v1/segment", "/v1/model", "/healthz", "/readyz", "/metrics"}
    segment = api["paths"]["/v1/segment"]["post"]
    assert "multipart/form-data" in segment["requestBody"]["content"]
    assert {"200", "413", "415", "503", "504"} <= set(segment["responses"])
    page = httpx.get(f"{server.url}/docs").text
    assert all(path in page for path in api["paths"])


# The command


def start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """`segdistill serve` as a process of its own, and its URL."""
    command = [PROGRAM, "serve", *map(str, arguments), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, json.loads(line)["url"]


def test_a_stopped_server_finishes_what_it_accepted(run: Path, encoded: Callable[..., bytes]) -> None:
    process, url = start(run)
    large = encoded(Image.new("RGB", (1024, 1024), (90, 30, 200)), "JPEG")
    with ThreadPoolExecutor(6) as clients:
        answers = [
            clients.submit(httpx.post, f"{url}/v1/segment", files={"image": large}, timeout=60)
            for _ in range(6)
        ]
        while "segdistill_requests_working 6.0" not in httpx.get(f"{url}/metrics").text:
            assert not any(answer.done() for answer in answers)
        process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 6
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert "is served at http://127.0.0.1:" in err
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_an_address_in_use_is_said_in_one_line(server: Any, run: Path, capsys: Any) -> None:
    assert cli.main(["serve", str(run), "--port", str(server.port), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"segdistill: error: cannot listen on 127.0.0.1:{server.port}: Address already in use\n"


@pytest.mark.parametrize("target", ["nets.py:make", "package.module:make"])
def test_code_is_not_served(tmp_path: Path, monkeypatch: Any, capsys: Any, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("raise SystemExit('this was run')")
    assert cli.main(["serve", target]) == 1
    assert f"{target} is code, which a server does not run" in capsys.readouterr().err


def test_code_that_a_run_names_is_not_served(tmp_path: Path, run: Path, capsys: Any) -> None:
    card = json.loads((run / "model.json").read_text()) | {"spec": "nets.py:make"}
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert cli.main(["serve", str(tmp_path)]) == 1
    assert "nets.py:make is code" in capsys.readouterr().err


def test_what_is_not_there_is_named(capsys: Any) -> None:
    assert cli.main(["serve", "nowhere.onnx"]) == 1
    assert "nowhere.onnx does not exist" in capsys.readouterr().err
    assert cli.main(["serve", "dsunet", "--port", "70000"]) == 1
    assert "port is 70000, but must be from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "token", "warns"), [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", "t", False)]
)
def test_an_open_address_without_a_token_is_warned_of(
    serve: Any, monkeypatch: Any, capsys: Any, host: str, token: str | None, warns: bool
) -> None:
    with serve(host=host, token=token) as running:
        monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
        listen(running.service, lambda url: None)
    assert ("Warning: everyone who reaches" in capsys.readouterr().err) == warns


def test_loopback_is_this_machine_alone() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "example.org")))


def test_impossible_settings_are_refused() -> None:
    for settings in ({"queue": 0}, {"timeout_s": 0}, {"token": ""}, {"max_wait_ms": -1}, {"port": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ServeConfig(**settings)  # type: ignore[arg-type]
