"""ASGI middleware between the sockets and the application: the token, the header limit, metrics."""

import hmac
import logging
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segdistill.serving.metrics import ServerMetrics
from segdistill.serving.paths import OPEN_PATHS

logger = logging.getLogger("segdistill.serve")

CLIENT_CLOSED = 499
"""Status that a request is counted with whose client closed the connection, as nginx does."""

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
"""Of every response: the page loads nothing from another origin, and no other origin embeds it."""


class Middleware:
    """Checks the token and the header's size, adds `HEADERS` to every response and counts it.

    Args:
        app: the application behind it.
        metrics: count every response.
        max_header_bytes: of a request, summed over the names and values of its headers.
        token: that clients must send; None for none.
    """

    def __init__(
        self, app: ASGIApp, metrics: ServerMetrics, *, max_header_bytes: int, token: str | None
    ) -> None:
        self.app, self.metrics, self.max_header_bytes = app, metrics, max_header_bytes
        self.token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        status, started = 0, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            await (self.refusal(scope) or self.app)(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await internal_error()(scope, receive, send_with_headers)
        finally:
            self.metrics.count(scope["path"], status, time.perf_counter() - started)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """The response to a request that does not reach the application, or None where it does."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self.max_header_bytes:
            return error_response(431, f"the header is above {self.max_header_bytes:,} bytes")
        if self.token is None or scope["path"] in OPEN_PATHS:
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


def internal_error() -> JSONResponse:
    """The response to a request that failed through no fault of the client."""
    return error_response(500, "internal error; the server's log has the details")
