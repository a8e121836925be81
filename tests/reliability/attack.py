"""What careless or malicious clients do to a server's sockets: python attack.py KIND HOST PORT COUNT SECONDS.

Prints how often each thing happened as one line of JSON. It is a program of its own, which needs nothing but
Python, so that it takes no time from the well-behaved client beside it.
"""

import asyncio
import json
import random
import resource
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

POST = (
    b"POST /v1/segment?format=overlay HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\n\r\n"
LARGE = 200_000
RATE = 2000
"""New connections per second at most, over all clients."""
Kind = Callable[["Client"], Awaitable[None]]


class Client:
    """One of `count` clients, each of which opens one connection to the server after the other."""

    def __init__(
        self, number: int, count: int, address: tuple[str, int], until: float, seen: Counter[str]
    ) -> None:
        self.address, self.until, self.seen = address, until, seen
        self.rest = max(0.05, count / RATE)
        self.draw = random.Random(number)
        self.source = f"127.0.0.{2 + number // 20_000}"  # a loopback address has 28,000 ports

    async def work(self, kind: Kind) -> None:
        """Attack over and over."""
        await asyncio.sleep(self.draw.random() * self.rest)
        while time.monotonic() < self.until:
            self.socket = socket.socket()
            self.socket.setblocking(False)
            self.socket.bind((self.source, 0))
            try:
                await self.within(asyncio.get_running_loop().sock_connect(self.socket, self.address))
                self.seen["connected"] += 1
                await kind(self)
            except TimeoutError:
                self.seen["held"] += 1
            except (OSError, EOFError) as error:
                self.seen["closed" if isinstance(error, EOFError) else type(error).__name__] += 1
            finally:
                self.socket.close()
            await asyncio.sleep(min(self.rest, max(0, self.until - time.monotonic())))

    async def within(self, work: Awaitable[bytes | int | None]) -> bytes | int | None:
        """What `work` gives before the attack is over."""
        return await asyncio.wait_for(work, max(0.001, self.until - time.monotonic()))

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self.within(asyncio.get_running_loop().sock_sendall(self.socket, data))

    async def receive(self) -> bytes:
        """The next bytes."""
        data = await self.within(asyncio.get_running_loop().sock_recv(self.socket, 65536))
        if not data:
            raise EOFError
        assert isinstance(data, bytes)
        if data.startswith(b"HTTP/1.1 "):
            self.seen[data[9:12].decode()] += 1
        return data

    async def trickle(self, data: bytes) -> None:
        """Send it byte by byte until the server responds or closes the connection."""
        while time.monotonic() < self.until:
            await self.send(data[:1])
            data = data[1:] + data[:1]
            try:
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 1), 0.2)
                raise EOFError
            except TimeoutError:
                continue


async def idle(client: Client) -> None:
    """Send nothing."""
    await client.receive()


async def slow_header(client: Client) -> None:
    """A header that never ends."""
    await client.trickle(GET[:-4] + b"X")


async def slow_body(client: Client) -> None:
    """A body that hardly comes."""
    await client.send(POST % 1_000_000 + PART)
    await client.trickle(b"x")


async def large_header(client: Client) -> None:
    """A header above every limit."""
    await client.send(GET[:-2] + b"X-Filler: " + b"x" * LARGE + b"\r\n\r\n")
    await client.receive()


async def pipelined(client: Client) -> None:
    """Fifty requests at once, and all their responses read."""
    await client.send(GET * 50)
    left = 50
    while left:
        left -= (await client.receive()).count(b"HTTP/1.1 ")


async def never_reading(client: Client) -> None:
    """Requests without end whose responses are never read."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while time.monotonic() < client.until:
        await client.send(GET * 50)


async def aborted(client: Client) -> None:
    """A request aborted at any byte, by a reset or by closing the connection."""
    request = POST % 5000 + PART + bytes(4000)
    await client.send(request[: client.draw.randrange(len(request))])
    if client.draw.random() < 0.5:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def wrong_token(client: Client) -> None:
    """A wrong token, with a body that the server must not wait for."""
    await client.send((POST % 1_000_000).replace(b"sesame", b"%x" % client.draw.getrandbits(64)))
    await client.receive()


async def garbage(client: Client) -> None:
    """What is nearly HTTP."""
    lines = [
        client.draw.randbytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%ff%00/../..//etc/passwd?format=%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        GET.replace(b"Host", b"Content-Length: " + b"9" * 5000 + b"\r\nHost"),
        GET.replace(b"Host", b"Content-Length: 5\r\nContent-Length: 6\r\nHost"),
        POST % 5 + b"\0" * 5,
        (POST % 5).replace(b"Host", b"Transfer-Encoding: chunked\r\nHost") + b"ffffffffffffffff\r\n",
        GET.replace(b"Host", b"Upgrade: websocket\r\nConnection: upgrade\r\nHost"),
        GET.replace(b"Host", b"Expect: 100-continue\r\nHost"),
        GET.replace(b"Bearer sesame", b"Bearer \xff\xfe"),
    ]
    await client.send(client.draw.choice(lines))
    await client.receive()


async def attack(kind: Kind, address: tuple[str, int], count: int, seconds: float) -> Counter[str]:
    """`count` clients at once."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    clients = [Client(number, count, address, until, seen) for number in range(count)]
    await asyncio.gather(*(client.work(kind) for client in clients))
    return seen


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (idle, slow_header, slow_body, large_header, pipelined, never_reading, aborted, wrong_token,
                 garbage)
}  # fmt: skip

if __name__ == "__main__":
    name, host, port, count, seconds = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(attack(KINDS[name], (host, int(port)), int(count), float(seconds)))))
