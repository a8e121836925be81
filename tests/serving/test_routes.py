"""The routes: masks in their formats, the model card, health, the page, errors and openapi.json."""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image

from segdistill.serving.middleware import HEADERS
from segdistill.serving.paths import DOCS_PATH, OPENAPI_PATH, PAGE_FILES, PATHS
from segdistill.serving.routes import make_app, negotiate

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def limited(serve: Any) -> Iterator[Any]:
    """A server with small limits."""
    with serve(max_bytes=100_000, max_pixels=10_000) as running:
        yield running


# Masks


def test_json_has_the_pixels_of_each_class(server: Any, encoded: Callable[..., bytes]) -> None:
    found = server.post(encoded(), "/v1/segment?format=json").json()
    assert (found["width"], found["height"]) == (64, 32)
    assert [(each["name"], each["share"]) for each in found["classes"]] == [("red", 0.5), ("green", 0.5)]
    red, green = found["classes"]
    assert red["runs"] == [value for row in range(32) for value in (64 * row, 32)]
    assert green["runs"] == [value for row in range(32) for value in (64 * row + 32, 32)]
    assert (red["colour"], red["pixels"], red["index"]) == ([200, 0, 0], 1024, 1)
    assert set(found["seconds"]) == {"decode", "network"}


def test_a_mask_has_the_image_size(server: Any, encoded: Callable[..., bytes]) -> None:
    response = server.post(encoded())
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as mask:
        assert np.asarray(mask).tolist() == [[1] * 32 + [2] * 32] * 32


def test_an_overlay_has_a_legend(server: Any, encoded: Callable[..., bytes]) -> None:
    response = server.post(encoded(), "/v1/segment?format=overlay")
    with Image.open(io.BytesIO(response.content)) as overlay:
        assert overlay.width == 64
        assert overlay.height > 32
        assert overlay.getpixel((60, 5)) == (0, 115, 110)  # 0.45 * (0, 255, 0) + 0.55 * (0, 0, 200)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "mask"),
        ("*/*", "mask"),
        ("application/json", "json"),
        ("text/html, application/json;q=0.9, image/png;q=0.5", "json"),
        ("application/json;q=0.9, image/png", "mask"),
        ("application/json;q=0, */*;q=0.1", "mask"),
        ("image/avif,image/*;q=0.8", "mask"),
        ("image/png; variant=overlay", "overlay"),
        ('image/png; Variant="overlay"; q=0.9, application/json;q=0.5', "overlay"),
        ("image/png; variant=mask, image/png; variant=overlay", "mask"),
        ("application/json;q=much", None),
        ("image/png;variant=picture", None),
        ("text/html", None),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, form: str | None) -> None:
    if form is not None:
        assert negotiate(accept) == form
        return
    with pytest.raises(HTTPException) as refused:
        negotiate(accept)
    assert refused.value.status_code == 406


def test_the_accept_header_is_read_unless_the_query_names_a_format(
    server: Any, encoded: Callable[..., bytes], error_of: Any
) -> None:
    overlay = server.post(encoded(), "/v1/segment?format=overlay").content
    mask = server.post(encoded(), "/v1/segment?format=mask").content
    accept = {"Accept": "image/png; variant=overlay"}
    assert server.post(encoded(), headers=accept).content == overlay != mask
    assert server.post(encoded(), "/v1/segment?format=mask", headers=accept).content == mask
    assert "responses are image/png" in error_of(server.post(encoded(), headers={"Accept": "text/html"}), 406)


# Errors


def test_large_uploads_are_refused(limited: Any, encoded: Callable[..., bytes], error_of: Any) -> None:
    assert "above 100,000 bytes" in error_of(limited.post(bytes(100_001)), 413)
    flat = encoded(Image.new("RGB", (2000, 2000)), optimize=True)  # 12 kB
    assert "has 2000x2000, but 10,000 pixels" in error_of(limited.post(flat), 413)


def test_bodies_without_a_length_are_refused_while_they_arrive(limited: Any) -> None:
    with limited.connect() as client:
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'.ljust(10_000)
        for _ in range(11):  # and no end
            client.sendall(b"2710\r\n" + part + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_bad_requests_are_refused_in_one_line(
    limited: Any, encoded: Callable[..., bytes], error_of: Any
) -> None:
    assert "not a JPEG" in error_of(limited.post(b"#!/bin/sh"), 415)
    assert "not a JPEG" in error_of(limited.post(encoded(kind="GIF"), name="photo.jpg"), 415)
    assert "cannot be decoded" in error_of(limited.post(encoded()[:-40]), 422)
    assert "send multipart/form-data" in error_of(
        limited.client.post("/v1/segment", json={"image": "x"}), 415
    )
    assert "'mask', 'json' or 'overlay'" in error_of(limited.post(encoded(), "/v1/segment?format=gif"), 422)


def test_other_paths_and_methods_are_refused(server: Any, error_of: Any) -> None:
    assert error_of(server.get("/page/../../etc/passwd"), 404) == "Not Found"
    assert error_of(server.get("/v1/segment"), 405) == "Method Not Allowed"
    lines = server.get("/metrics").text
    assert 'path="other",status="404"' in lines
    assert "passwd" not in lines


# The other paths


def test_the_table_of_paths_is_that_of_the_routes(server: Any) -> None:
    assert {route.path for route in make_app(server.service).routes} == PATHS  # type: ignore[attr-defined]


def test_the_model_card(server: Any) -> None:
    assert server.get("/v1/model").json() == {
        "name": "colours",
        "classes": [
            {"index": 0, "name": "background", "colour": [0, 0, 0]},
            {"index": 1, "name": "red", "colour": [200, 0, 0]},
            {"index": 2, "name": "green", "colour": [0, 0, 200]},
        ],
        "parameters": None,
        "architecture": None,
        "metrics": {},
        "size": None,
        "device": "cpu",
        "limits": {"max_bytes": 16 * 2**20, "max_pixels": 32_000_000, "timeout_s": 30.0},
    }


def test_health_and_readiness(server: Any) -> None:
    for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
        response = server.get(path)
        assert (response.status_code, response.json()) == (200, {"status": status})


@pytest.mark.parametrize("path", [*PAGE_FILES, DOCS_PATH, OPENAPI_PATH])
def test_pages_load_nothing_from_other_hosts(server: Any, path: str) -> None:
    response = server.get(path)
    assert response.status_code == 200
    assert response.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", response.text))
    assert addresses <= {"http://www.w3.org"}  # the name of SVG's vocabulary


def test_openapi_describes_every_response(server: Any) -> None:
    api = server.get("/openapi.json").json()
    assert set(api["paths"]) == {"/v1/segment", "/v1/model", "/healthz", "/readyz", "/metrics"}
    segment = api["paths"]["/v1/segment"]["post"]
    form = segment["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image"]
    assert form["properties"]["image"]["format"] == "binary"
    expected = "200 400 401 406 408 413 415 422 431 500 503 504".split()
    assert sorted(segment["responses"]) == expected
    assert set(segment["responses"]["200"]["content"]) == {"image/png", "application/json"}
    for path, operations in api["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                schema = response["content"].get("application/json", {}).get("schema", {})
                if status not in {"200", "503"}:
                    assert schema == {"$ref": "#/components/schemas/Error"}, (path, status)
    assert set(api["components"]["schemas"]) == {
        "Error", "Limits", "Mask", "MaskClass", "Model", "ModelClass", "State",
    }  # fmt: skip


def test_the_docs_page_has_every_path(server: Any) -> None:
    page = server.get("/docs").text
    assert all(path in page for path in server.get("/openapi.json").json()["paths"])


def test_the_token_comes_from_the_settings_or_the_environment(
    serve: Any, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes], error_of: Any
) -> None:
    monkeypatch.setenv("SEGDISTILL_TOKEN", "sésame")
    for token, right in ((None, "sésame"), ("other", "other")):
        with serve(token=token) as running:
            assert "Authorization: Bearer" in error_of(running.post(encoded()), 401)
            assert running.network.batches == []
            header = httpx.Headers({b"Authorization": f"Bearer {right}".encode()})
            assert running.post(encoded(), headers=header).status_code == 200
