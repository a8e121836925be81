"""Admission: how many requests are in progress at a time, and which is evicted for a new one."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segdistill.engine.runtime import release_freed_memory
from segdistill.serving.connections import ABORT
from segdistill.serving.middleware import error_response
from segdistill.serving.paths import SEGMENT_PATH

GRACE_S = 0.25
"""Seconds that a request may wait for its client before it may be evicted."""

IDLE_S = 5.0
"""Seconds without a request after which freed memory goes back to the system."""


class Ticket:
    """An admitted request, from its first byte until its client has read the response.

    Attributes:
        task: that handles it.
        transferred: bytes of its body that were received, and of its response that the client has read.
        client_s: seconds that it has waited for its client, up to `waiting_since`.
        waiting_since: when it began to wait for its client (monotonic clock); None while it does not.
        response_started: whether part of the response has been sent.
        evicted: whether it was ended for another request.
    """

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.transferred, self.client_s = 0, 0.0
        self.waiting_since: float | None = None
        self.response_started, self.evicted = False, False

    @contextmanager
    def waiting_for_client(self) -> Iterator[None]:
        """Count the time within as spent waiting for the client."""
        self.waiting_since = time.monotonic()
        try:
            yield
        finally:
            self.client_s += time.monotonic() - self.waiting_since
            self.waiting_since = None

    def rate(self, now: float) -> float | None:
        """Bytes per second of the client; None while it is not waited for, and for the first `GRACE_S`."""
        if self.waiting_since is None:
            return None
        seconds = self.client_s + now - self.waiting_since
        return None if seconds < GRACE_S else self.transferred / seconds

    def evict(self) -> None:
        """End the request where it waits."""
        self.evicted = True
        assert self.task is not None
        self.task.cancel()


class Admission:
    """At most `limit` requests at a time; one more evicts that of the slowest client, or is refused.

    A slow client keeps its request only until another client sends one.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tickets: set[Ticket] = set()
        self.idle_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Admitted requests."""
        return len(self.tickets)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self.tickets) >= self.limit and self.slowest() is None

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """`app` with its requests for a mask limited; all others pass."""

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != SEGMENT_PATH or scope["method"] != "POST":
                await app(scope, receive, send)
            elif self.admit():
                await self._run(app, scope, receive, send)
            else:
                full = "too many requests wait; try again in a moment"
                await error_response(503, full, {"Retry-After": "1"})(scope, receive, send)

        return limited

    def admit(self) -> bool:
        """Whether one more request is admitted; the slowest client's is evicted where that is necessary."""
        if len(self.tickets) >= self.limit and (ticket := self.slowest()) is not None:
            ticket.evict()
            self.tickets.discard(ticket)
        return len(self.tickets) < self.limit

    def slowest(self) -> Ticket | None:
        """The request with the slowest client among those that may be evicted."""
        now = time.monotonic()
        slow = [(rate, ticket) for ticket in self.tickets if (rate := ticket.rate(now)) is not None]
        return min(slow, key=lambda found: found[0])[1] if slow else None

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        ticket = Ticket()

        async def timed_receive() -> Message:
            with ticket.waiting_for_client():
                message = await receive()
            ticket.transferred += len(message.get("body", b""))
            return message

        async def timed_send(message: Message) -> None:
            ticket.response_started = True
            if message["type"] != "http.response.body":
                await send(message)
                return
            with ticket.waiting_for_client():  # uvicorn sends the empty rest once the body has been read
                await send({**message, "more_body": True})
                if not message.get("more_body"):
                    await send({"type": "http.response.body", "body": b""})
            ticket.transferred += len(message.get("body", b""))

        self.tickets.add(ticket)
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        try:
            await app(scope, timed_receive, timed_send)
        except asyncio.CancelledError:
            if not ticket.evicted or ticket.task is None:
                raise
            ticket.task.uncancel()
            if ticket.response_started:
                scope["state"][ABORT]()
            else:
                slow = "the body came too slowly while others waited"
                await error_response(408, slow)(scope, receive, send)
        finally:
            self.tickets.discard(ticket)
            if not self.tickets:
                self.idle_timer = asyncio.get_running_loop().call_later(IDLE_S, release_freed_memory)
