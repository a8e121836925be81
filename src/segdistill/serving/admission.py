"""The places of a server: how many requests it holds at a time, and which gives way when all are taken."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segdistill.engine.runtime import release_freed_memory
from segdistill.serving.connections import ABORT
from segdistill.serving.limits import error_response

GRACE_S = 0.25
"""Seconds that a client may keep the server waiting before its request may have to give way."""

REST_S = 5.0
"""Seconds without a request after which memory goes back to the system."""


class Ticket:
    """A request that is held, from its first byte until its client has taken in the answer.

    Attributes:
        moved: bytes that came from the client or were taken in by it.
        waited: seconds in which the server waited for the client, up to `since`.
        since: when it began to wait, while it does.
    """

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.moved, self.waited = 0, 0.0
        self.since: float | None = None
        self.answered, self.gives_way = False, False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, it is the client that is waited for."""
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - self.since
            self.since = None

    def pace(self, now: float) -> float | None:
        """Bytes per second of a client that is waited for and has had its grace, else None."""
        seconds = self.waited + now - (self.since or now)
        return None if self.since is None or seconds < GRACE_S else self.moved / seconds

    def give_way(self) -> None:
        """End the request where it waits."""
        self.gives_way = True
        assert self.task is not None
        self.task.cancel()


class Admission:
    """As many requests as a server holds; one more takes the place of the slowest client's, or is refused.

    Slow clients so keep a place only as long as nobody else wants it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: set[Ticket] = set()
        self.rest: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Requests that are held."""
        return len(self.taken)

    def around(self, app: ASGIApp, path: str) -> ASGIApp:
        """`app`, of whose requests those for `path` take a place."""

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != path or scope["method"] != "POST":
                await app(scope, receive, send)
            elif self.room():
                await self._hold(app, scope, receive, send)
            else:
                full = "too many requests wait; try again in a moment"
                await error_response(503, full, {"Retry-After": "1"})(scope, receive, send)

        return held

    def room(self) -> bool:
        """Whether there is a place for one more request; made where it can be."""
        if len(self.taken) >= self.most and (place := self.slowest()) is not None:
            place.give_way()
            self.taken.discard(place)
        return len(self.taken) < self.most

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self.taken) >= self.most and self.slowest() is None

    def slowest(self) -> Ticket | None:
        """The request whose client is slowest, if there is one that may have to give way."""
        now = time.monotonic()
        slow = [(pace, place) for place in self.taken if (pace := place.pace(now)) is not None]
        return min(slow, key=lambda found: found[0])[1] if slow else None

    async def _hold(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        place = Ticket()

        async def receive_slowly() -> Message:
            with place.waiting():
                message = await receive()
            place.moved += len(message.get("body", b""))
            return message

        async def send_slowly(message: Message) -> None:
            place.answered = True
            if message["type"] != "http.response.body":
                await send(message)
                return
            with place.waiting():  # uvicorn sends the second part once the client has taken in the first
                await send({**message, "more_body": True})
                if not message.get("more_body"):
                    await send({"type": "http.response.body", "body": b""})
            place.moved += len(message.get("body", b""))

        self.taken.add(place)
        if self.rest is not None:
            self.rest.cancel()
        try:
            await app(scope, receive_slowly, send_slowly)
        except asyncio.CancelledError:
            if not place.gives_way or place.task is None:
                raise
            place.task.uncancel()
            if place.answered:
                scope["state"][ABORT]()
            else:
                late = "the body came too slowly while others waited"
                await error_response(408, late)(scope, receive, send)
        finally:
            self.taken.discard(place)
            if not self.taken:
                self.rest = asyncio.get_running_loop().call_later(REST_S, release_freed_memory)
