"""The server's connections: how many there are, how long each may keep it waiting, and who makes room."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import ClassVar

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from segdistill.serving.limits import HEADERS, Metrics, error_response

REFUSED = 256
"""Connections beyond the limit that wait, at most, to be told so."""

ABORT = "hang_up"
"""Name in a request's state of what ends its connection at once, whatever is still to be sent."""


@dataclass
class Connections:
    """Which connections there are, and what is allowed them.

    Where all are taken, a new one takes the place of the one on which no request has been worked on for
    longest. Where requests are worked on on all of them, a request on the new one is answered 503; of those
    that wait for this, `REFUSED` at most, the oldest is hung up on.
    """

    most: int
    """Open at a time."""
    patience_s: float
    """Seconds in which a client must finish a request's header or a refused request's body, and take in an
    answer; it is hung up on otherwise."""
    metrics: Metrics
    """Are told of the requests that are refused."""
    inside: set["LimitedProtocol"] = field(default_factory=set)
    """Those whose requests are answered."""
    resting: dict["LimitedProtocol", None] = field(default_factory=dict)
    """Those of them whose clients are waited for, longest first."""
    outside: dict["LimitedProtocol", None] = field(default_factory=dict)
    """Those that wait to be told that the server is full, longest first."""

    def let_in(self, protocol: "LimitedProtocol") -> bool:
        """Make room for a new connection, here or outside; whether it is inside."""
        if len(self.inside) >= self.most and self.resting:
            next(iter(self.resting)).hang_up()
        if len(self.inside) < self.most:
            self.inside.add(protocol)
            return True
        if len(self.outside) >= REFUSED:
            next(iter(self.outside)).hang_up()
        self.outside[protocol] = None
        return False

    def forget(self, protocol: "LimitedProtocol") -> None:
        """A connection has ended."""
        self.inside.discard(protocol)
        self.resting.pop(protocol, None)
        self.outside.pop(protocol, None)

    def __contains__(self, protocol: "LimitedProtocol") -> bool:
        return protocol in self.inside or protocol in self.outside

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What answers the requests of those outside."""
        started = time.perf_counter()
        headers = {"Retry-After": "1", "Connection": "close"} | HEADERS
        await error_response(503, "too many connections; try again in a moment", headers)(
            scope, receive, send
        )
        self.metrics.answered(scope["path"], 503, time.perf_counter() - started)


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 on one connection, among `all_connections` and with their limits."""

    all_connections: ClassVar[Connections]
    owing: asyncio.TimerHandle | None = None
    taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if not self.all_connections.let_in(self):
            self.app = self.all_connections.refuse
        self._watch()

    def handle_events(self) -> None:
        """Bytes have come."""
        super().handle_events()
        if self.scope is not None:
            self.scope["state"][ABORT] = self.hang_up
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of every other error."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # or it would go on to send an answer of its own
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.hang_up()
            return
        error = json.dumps({"error": "the request is no HTTP/1.1, or its header is too large"}).encode()
        headers = {"Content-Type": "application/json", "Connection": "close"} | HEADERS
        answer = h11.Response(status_code=400, reason=b"Bad Request", headers=list(headers.items()))
        for event in (answer, h11.Data(data=error), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def on_response_complete(self) -> None:
        """An answer is written."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client takes nothing in at present."""
        super().pause_writing()
        self.taking = self.loop.call_later(self.all_connections.patience_s, self.hang_up)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        _cancel(self.taking)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._forget()
        super().connection_lost(exc)

    def hang_up(self) -> None:
        """End the connection at once."""
        self._forget()
        self.transport.abort()

    def _watch(self) -> None:
        """Be impatient for as long as no request is worked on, from the moment that this began."""
        every = self.all_connections
        if self not in every:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self.owing)
            self.owing = None
            every.resting.pop(self, None)
        elif self.owing is None:
            self.owing = self.loop.call_later(every.patience_s, self.hang_up)
            if self in every.inside:
                every.resting[self] = None

    def _forget(self) -> None:
        self.all_connections.forget(self)
        _cancel(self.owing)
        _cancel(self.taking)


def make_protocol(connections: int, patience_s: float, metrics: Metrics) -> type[H11Protocol]:
    """Uvicorn's HTTP/1.1 with limits of its own on connections.

    Args: as the fields of `Connections`.
    """
    every = Connections(most=connections, patience_s=patience_s, metrics=metrics)
    return type("Protocol", (LimitedProtocol,), {"all_connections": every})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
