"""The server's connections: how many are open, how long a client may stall each, and which are aborted.

`LimitedProtocol` overrides methods of uvicorn's `H11Protocol`, which are not part of uvicorn's public API:
`pyproject.toml` bounds its version, and `tests/serving/test_connections.py` checks what is used here.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import ClassVar

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from segdistill.serving.metrics import ServerMetrics
from segdistill.serving.middleware import HEADERS, error_response

MAX_REFUSED = 256
"""Connections above the limit that are kept open until they have been answered 503."""

ABORT = "abort"
"""Key in a request's state of the function that ends its connection at once, sending nothing more."""


@dataclass
class Connections:
    """The open connections and their limits.

    When all are in use, a new connection replaces the one that has been idle for longest. When none is idle,
    requests on the new one are answered 503; of the connections that wait for this answer there are
    `MAX_REFUSED` at most, and the oldest is aborted for a new one.
    """

    limit: int
    """Connections that are admitted at a time."""
    timeout_s: float
    """Seconds in which a client must finish a request's header, or a refused request's body, and read a
    response; then its connection is aborted."""
    metrics: ServerMetrics
    """Count the refused requests."""
    admitted: set["LimitedProtocol"] = field(default_factory=set)
    """Connections whose requests reach the application."""
    idle: dict["LimitedProtocol", None] = field(default_factory=dict)
    """The admitted ones without a request in progress, longest idle first."""
    refused: dict["LimitedProtocol", None] = field(default_factory=dict)
    """Connections whose requests are answered 503, oldest first."""

    def admit(self, protocol: "LimitedProtocol") -> bool:
        """Add a new connection, aborting another one if necessary; returns whether it is admitted."""
        if len(self.admitted) >= self.limit and self.idle:
            next(iter(self.idle)).abort()
        if len(self.admitted) < self.limit:
            self.admitted.add(protocol)
            return True
        if len(self.refused) >= MAX_REFUSED:
            next(iter(self.refused)).abort()
        self.refused[protocol] = None
        return False

    def discard(self, protocol: "LimitedProtocol") -> None:
        """Remove a connection that has ended."""
        self.admitted.discard(protocol)
        self.idle.pop(protocol, None)
        self.refused.pop(protocol, None)

    def __contains__(self, protocol: "LimitedProtocol") -> bool:
        return protocol in self.admitted or protocol in self.refused

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI application for the requests of refused connections."""
        started = time.perf_counter()
        headers = {"Retry-After": "1", "Connection": "close"} | HEADERS
        await error_response(503, "too many connections; try again in a moment", headers)(
            scope, receive, send
        )
        self.metrics.count(scope["path"], 503, time.perf_counter() - started)


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol of one connection, with the limits of `all_connections`."""

    all_connections: ClassVar[Connections]
    idle_timer: asyncio.TimerHandle | None = None
    write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit or refuse a new connection."""
        super().connection_made(transport)
        if not self.all_connections.admit(self):
            self.app = self.all_connections.refuse
        self._update_idle()

    def handle_events(self) -> None:
        """Handle received bytes."""
        super().handle_events()
        if self.scope is not None:
            self.scope["state"][ABORT] = self.abort
        self._update_idle()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as JSON like every other error."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # or it would go on to send a response of its own
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.abort()
            return
        error = json.dumps({"error": "the request is no HTTP/1.1, or its header is too large"}).encode()
        headers = {"Content-Type": "application/json", "Connection": "close"} | HEADERS
        response = h11.Response(status_code=400, reason=b"Bad Request", headers=list(headers.items()))
        for event in (response, h11.Data(data=error), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def on_response_complete(self) -> None:
        """The response has been written: the connection may be idle now."""
        super().on_response_complete()
        self._update_idle()

    def pause_writing(self) -> None:
        """The client does not read; abort unless it reads on in time."""
        super().pause_writing()
        self.write_timer = self.loop.call_later(self.all_connections.timeout_s, self.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        _cancel(self.write_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._discard()
        super().connection_lost(exc)

    def abort(self) -> None:
        """End the connection at once."""
        self._discard()
        self.transport.abort()

    def _update_idle(self) -> None:
        """Start the idle timer where no request is in progress, from the first such moment; else stop it."""
        connections = self.all_connections
        if self not in connections:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self.idle_timer)
            self.idle_timer = None
            connections.idle.pop(self, None)
        elif self.idle_timer is None:
            self.idle_timer = self.loop.call_later(connections.timeout_s, self.abort)
            if self in connections.admitted:
                connections.idle[self] = None

    def _discard(self) -> None:
        self.all_connections.discard(self)
        _cancel(self.idle_timer)
        _cancel(self.write_timer)


def make_protocol(limit: int, timeout_s: float, metrics: ServerMetrics) -> type[LimitedProtocol]:
    """The protocol class of one server.

    Args: as the fields of `Connections`.
    """
    connections = Connections(limit=limit, timeout_s=timeout_s, metrics=metrics)
    return type("ServerProtocol", (LimitedProtocol,), {"all_connections": connections})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
