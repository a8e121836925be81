"""What stands between a client and the server's application: limits, the token, headers and metrics."""

import hmac
import logging
import time
from collections.abc import AsyncGenerator, Mapping

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("segdistill.serve")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer: a page of this server loads nothing from elsewhere, and none of elsewhere embeds it."""


class Metrics:
    """What /metrics shows, in Prometheus's terms.

    Args:
        paths: the server's own; a request for any other counts as `other`.
    """

    def __init__(self, paths: frozenset[str]) -> None:
        self.paths, self.registry = paths, CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "segdistill_requests", "Answers by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "segdistill_request_seconds", "Seconds from a request for a mask to its answer", ["status"],
            registry=self.registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.batches = Histogram(
            "segdistill_batch_size", "Pictures that went through the network together",
            registry=self.registry, buckets=(1, 2, 4, 8, 16, 32),
        )  # fmt: skip
        self.working = Gauge(
            "segdistill_requests_working", "Requests that are worked on or wait", registry=self.registry
        )
        self.queue = Gauge(
            "segdistill_queue_length", "Pictures that wait for the network", registry=self.registry
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one answer."""
        known = path if path in self.paths else "other"
        self.requests.labels(known, str(status)).inc()
        if known == "/v1/segment":
            self.seconds.labels(str(status)).observe(seconds)


class Middleware:
    """The application behind its token and its limit on headers; every answer gets `HEADERS` and is counted.

    Args:
        app: the application.
        metrics: are told of every answer.
        max_header_bytes: of a request, name and value of each header added up.
        token: that clients must send; None for no such demand.
        open_paths: that need no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        max_header_bytes: int,
        token: str | None,
        open_paths: frozenset[str],
    ) -> None:
        self.app, self.metrics, self.max_header_bytes = app, metrics, max_header_bytes
        self.token, self.open_paths = token.encode() if token else None, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        status, started = 0, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            await (self.refusal(scope) or self.app)(scope, receive, answer)
        except ClientDisconnect:
            status = 499  # as nginx counts a client that has gone
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await error_response(500, "internal error; the server's log says more")(
                    scope, receive, answer
                )
        finally:
            self.metrics.answered(scope["path"], status, time.perf_counter() - started)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that gets no further, or None."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self.max_header_bytes:
            return error_response(431, f"the header is above {self.max_header_bytes:,} bytes")
        if self.token is None or scope["path"] in self.open_paths:
            return None
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode("latin-1"), self.token):
            return None
        return error_response(
            401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


def error_response(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as one line of JSON."""
    return JSONResponse({"error": error}, status, headers)


class MemoryParser(MultiPartParser):
    """Starlette's parser of multipart forms, which never moves a file from memory to disk."""

    spool_max_size = 2**62


async def read_upload(request: Request, name: str, max_bytes: int) -> bytes:
    """The content of the file field `name` of a multipart request; the name of the file is not looked at.

    Raises:
        HTTPException: 413 once more than `max_bytes` have come or are announced, 415 for another type of
            body, 400 for a broken form, 422 where the field is missing.
    """
    too_large = HTTPException(413, f"the body is above {max_bytes:,} bytes, the most taken here")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, f"send multipart/form-data with the image in its field `{name}`")

    async def counted() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise too_large
            yield chunk

    try:
        form = await MemoryParser(request.headers, counted(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    try:
        field = form.get(name)
        if not isinstance(field, UploadFile):
            raise HTTPException(422, f"the form has no file in a field `{name}`")
        content = await field.read()
    finally:
        await form.close()
    if not content:
        raise HTTPException(422, "the file is empty")
    return content
