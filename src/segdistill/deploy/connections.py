"""The server's connections: how many there are, how long each may keep it waiting, and who makes room."""

import asyncio
import json
import time

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from segdistill.deploy.limits import HEADERS, Metrics, error_response

REFUSED = 256
"""Connections beyond the limit that wait, at most, to be told so."""
HANG_UP = "hang_up"
"""Name in a request's state of what ends its connection at once, whatever is still to be sent."""


def make_protocol(connections: int, patience_s: float, metrics: Metrics) -> type[H11Protocol]:
    """Uvicorn's HTTP/1.1 with limits of its own on connections.

    Where all are taken, a new one takes the place of the one on which no request has been worked on for
    longest. Where requests are worked on on all of them, a request on the new one is answered 503; of those
    that wait for this, `REFUSED` at most, the oldest is hung up on.

    Args:
        connections: open at a time.
        patience_s: seconds in which a client must finish a request's header or a refused request's body, and
            take in an answer; it is hung up on otherwise.
        metrics: are told of the requests that are refused.
    """
    inside: set[H11Protocol] = set()
    resting: dict[H11Protocol, None] = {}  # of those inside, whose clients are waited for; longest first
    outside: dict[H11Protocol, None] = {}

    def hang_up(protocol: H11Protocol) -> None:
        assert isinstance(protocol, Protocol)
        protocol.hang_up()

    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {"Retry-After": "1", "Connection": "close"} | HEADERS
        await error_response(503, "too many connections; try again in a moment", headers)(
            scope, receive, send
        )
        metrics.answered(scope["path"], 503, time.perf_counter() - started)

    class Protocol(H11Protocol):
        owing: asyncio.TimerHandle | None = None
        taking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(inside) >= connections and resting:
                hang_up(next(iter(resting)))
            if len(inside) < connections:
                inside.add(self)
            else:
                if len(outside) >= REFUSED:
                    hang_up(next(iter(outside)))
                outside[self] = None
                self.app = full
            self._watch()

        def handle_events(self) -> None:
            super().handle_events()
            if self.scope is not None:
                self.scope["state"][HANG_UP] = self.hang_up
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
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.taking = self.loop.call_later(patience_s, self.hang_up)

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self.taking)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Be impatient for as long as no request is worked on, from the moment that this began."""
            if self not in inside and self not in outside:
                return
            if self.cycle is not None and not self.cycle.response_complete:
                _cancel(self.owing)
                self.owing = None
                resting.pop(self, None)
            elif self.owing is None:
                self.owing = self.loop.call_later(patience_s, self.hang_up)
                if self in inside:
                    resting[self] = None

        def hang_up(self) -> None:
            self._forget()
            self.transport.abort()

        def _forget(self) -> None:
            inside.discard(self)
            resting.pop(self, None)
            outside.pop(self, None)
            _cancel(self.owing)
            _cancel(self.taking)

    return Protocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
