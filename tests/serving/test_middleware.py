"""The middleware: token, header limit, headers of every response, and failures behind it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from segdistill.serving.metrics import ServerMetrics
from segdistill.serving.middleware import HEADERS, Middleware, error_response
from segdistill.serving.paths import OPEN_PATHS, PATHS

pytestmark = pytest.mark.unit


async def application(scope: Any, receive: Any, send: Any) -> None:
    """404 with one line; some paths fail in their own way."""
    if scope["path"] == "/fails":
        raise RuntimeError("secret detail")
    if scope["path"] == "/leaves":
        raise ClientDisconnect
    await error_response(404, "Not Found")(scope, receive, send)


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def client(metrics: ServerMetrics) -> Iterator[Callable[..., TestClient]]:
    """Makes clients of `application` behind the middleware."""

    def make(token: str | None = None) -> TestClient:
        return TestClient(Middleware(application, metrics, max_header_bytes=2000, token=token))

    return make


def counted(metrics: ServerMetrics, path: str, status: int) -> bool:
    line = f'segdistill_requests_total{{path="{path}",status="{status}"}} 1.0'
    return line in generate_latest(metrics.registry).decode()


def test_every_response_has_the_headers(client: Any) -> None:
    response = client().get("/")
    assert response.status_code == 404
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_token_is_required_except_for_open_paths(client: Any, metrics: ServerMetrics) -> None:
    guarded = client("sésame")
    assert {path for path in PATHS if guarded.get(path).status_code == 404} == OPEN_PATHS
    for given in ("Bearer sesame", "Bearer", "Basic sésame", "sésame"):
        refused = guarded.get("/v1/model", headers={"Authorization": given.encode()})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in refused.json()["error"]
    accepted = guarded.get("/v1/model", headers={"Authorization": "bearer sésame".encode()})
    assert accepted.status_code == 404
    assert counted(metrics, "/v1/model", 404)


def test_large_headers_are_refused(client: Any) -> None:
    assert client().get("/", headers={"X-Filler": "x" * 1500}).status_code == 404
    refused = client().get("/", headers={"X-Filler": "x" * 2000})
    assert refused.status_code == 431
    assert "above 2,000 bytes" in refused.json()["error"]


def test_a_failure_shows_no_detail(
    client: Any, metrics: ServerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    response = client().get("/fails")
    assert response.status_code == 500
    assert response.json() == {"error": "internal error; the server's log has the details"}
    assert counted(metrics, "other", 500)
    assert "secret detail" in caplog.text


def test_a_client_that_left_counts_as_499(client: Any, metrics: ServerMetrics) -> None:
    with pytest.raises(AssertionError):  # the test client expects a response
        client().get("/leaves")
    assert counted(metrics, "other", 499)
