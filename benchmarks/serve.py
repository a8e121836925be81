"""A server under load: good and bad requests over many connections, from another process than the server's.

    python benchmarks/serve.py runs/mine --seconds 30 --connections 64

Starts `segdistill serve` on a free port of this machine, posts pictures of three sizes and, every fifth time,
something that must be refused. Prints requests per second, latency, responses by status, and the server's
memory. Exit code 1 where a good request got anything but 200 or 503, a bad one anything but its own 4xx or
503, or where memory still grew by more than `--growth` between the end of the first third and the end.

    python benchmarks/serve.py runs/mine --before path/to/another/checkout --clients 1 4 16 --runtime auto

compares two checkouts: both serve at a time, and get photographs of 320x240 pixels in turns, from so many
connections. Prints requests per second and latency, the medians of `--turns`.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from checkouts import HERE
from PIL import Image
from rich.console import Console
from rich.table import Table

MIB = 2**20


@dataclass(frozen=True)
class Request:
    """What is posted, and the status that it should get unless the server is full."""

    name: str
    body: bytes
    status: int


@dataclass
class Load:
    """Seconds of each mask, responses by request and status, wrong ones, and the server's memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    responses: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    """An image with some structure."""
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def flat(width: int, height: int) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def requests() -> list[Request]:
    """One round: sixteen good requests and four bad ones."""
    good = [
        Request("96x96", picture(96, 96), 200),
        Request("128x128", picture(128, 128), 200),
        Request("320x240", picture(320, 240), 200),
        Request("128x128 png", picture(128, 128, "PNG"), 200),
    ]
    bad = [
        Request("text", b"no picture", 415),
        Request("truncated", picture(128, 128)[:-1000], 422),
        Request("too many bytes", bytes(2 * MIB), 413),
        Request("too many pixels", flat(2400, 2400), 413),
    ]
    return [request for wrong in bad for request in (*good, wrong)]


async def client(
    session: httpx.AsyncClient, url: str, todo: Iterable[Request], until: float, load: Load
) -> None:
    """One connection that sends its next request as soon as it has a response."""
    for request in todo:
        started = time.perf_counter()
        if started > until:
            return
        try:
            response = await session.post(f"{url}/v1/segment?format=json", files={"image": request.body})
            status = str(response.status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        load.responses[request.name, status] += 1
        if status == "200":
            load.seconds.append(time.perf_counter() - started)
        if status == "503":
            await asyncio.sleep(0.05)
        elif status != str(request.status):
            load.wrong[f"{request.name}: {status}"] += 1


async def watch(session: httpx.AsyncClient, url: str, until: float, load: Load) -> None:
    """The server's memory in MiB, every second."""
    while time.perf_counter() < until:
        lines = (await session.get(f"{url}/metrics")).text.splitlines()
        found = [line for line in lines if line.startswith("process_resident_memory_bytes")]
        load.memory.append(float(found[0].split()[1]) / MIB)
        await asyncio.sleep(1)


async def run(url: str, connections: int, seconds: float, round_: list[Request]) -> Load:
    """Load the server at `url`, each connection with one request of a round after the other."""
    load = Load()
    limits = httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections + 1)
    async with httpx.AsyncClient(limits=limits, timeout=60) as session:
        until = time.perf_counter() + seconds
        clients = []
        for number in range(connections):
            todo = itertools.islice(itertools.cycle(round_), number % len(round_), None)
            clients.append(client(session, url, todo, until, load))
        await asyncio.gather(watch(session, url, until + 1, load), *clients)
    return load


def show(load: Load, seconds: float, console: Console) -> float:
    """Print the figures; returns the growth of memory after the first third."""
    cuts = statistics.quantiles(load.seconds, n=100) if len(load.seconds) > 1 else [float("nan")] * 99
    total = sum(load.responses.values())
    table = Table("request", "status", "responses")
    for (name, status), count in sorted(load.responses.items()):
        table.add_row(name, status, str(count))
    console.print(table)
    console.print(f"{total / seconds:.1f} requests/s, of them {len(load.seconds) / seconds:.1f}/s masks")
    console.print(f"latency of a mask: p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms")
    third = load.memory[len(load.memory) // 3]
    growth = load.memory[-1] / third - 1
    console.print(
        f"server memory: {load.memory[0]:.0f} MiB at the start, {third:.0f} after a third, "
        f"{load.memory[-1]:.0f} at the end ({growth:+.1%} since), {max(load.memory):.0f} at most"
    )
    console.print(f"wrong responses: {dict(load.wrong) or 'none'}")
    return growth


def start(options: argparse.Namespace, root: Path) -> tuple[subprocess.Popen[str], str]:
    """A server with the package of a checkout, and its URL."""
    server = subprocess.Popen(
        [
            sys.executable, "-m", "segdistill.cli", "serve", options.target, "--port", "0",
            "--queue", str(options.queue), "--max_bytes", str(MIB), "--max_pixels", "4000000",
            "--runtime", options.runtime,
        ],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str((root / "src").resolve())},
    )  # fmt: skip
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit(f"the server of {root} ended with {server.wait()}")
    return server, json.loads(line)["url"]


def compare(options: argparse.Namespace) -> int:
    """Load two checkouts in turns, and print one table."""
    table = Table(title=f"{options.target}, --runtime {options.runtime}, {options.seconds:g} s each")
    for column in ("clients", "", "requests/s", "p50, ms", "p99, ms", "times as many"):
        table.add_column(column, justify="right")
    photo = [Request("320x240", picture(320, 240), 200)]
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = defaultdict(list)
    wrong: Counter[str] = Counter()
    with ExitStack() as stack:
        urls = {}
        for name, root in (("before", options.before), ("after", HERE)):
            server, urls[name] = start(options, root)
            stack.callback(server.wait, 60)
            stack.callback(server.terminate)
            asyncio.run(run(urls[name], 2, 2, photo))
        for clients, _, (name, url) in itertools.product(options.clients, range(options.turns), urls.items()):
            load = asyncio.run(run(url, clients, options.seconds, photo))
            cuts = statistics.quantiles(load.seconds, n=100)
            found[clients, name].append(
                (len(load.seconds) / options.seconds, 1000 * cuts[49], 1000 * cuts[98])
            )
            wrong += load.wrong
    for (clients, name), turns in found.items():
        rate, p50, p99 = (statistics.median(values) for values in zip(*turns, strict=True))
        ratio = rate / statistics.median(turn[0] for turn in found[clients, "before"])
        table.add_row(str(clients), name, f"{rate:.1f}", f"{p50:.0f}", f"{p99:.0f}", f"{ratio:.2f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"wrong responses: {dict(wrong) or 'none'}")
    return int(bool(wrong))


def main() -> int:
    """Start a server, load it, stop it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="run folder or exported file")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--queue", type=int, default=64, help="of the server; below --connections it gets full"
    )
    parser.add_argument("--growth", type=float, default=0.1, help="of memory that is allowed, as a fraction")
    parser.add_argument("--runtime", default="pytorch", help="of the server")
    parser.add_argument("--before", type=Path, help="a checkout to compare this one with")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="of a comparison")
    parser.add_argument("--turns", type=int, default=3, help="of a comparison")
    options = parser.parse_args()
    if options.before:
        return compare(options)
    server, url = start(options, HERE)
    console = Console(width=110)
    try:
        load = asyncio.run(run(url, options.connections, options.seconds, requests()))
    finally:
        server.terminate()
        code = server.wait(60)
    growth = show(load, options.seconds, console)
    console.print(f"the server ended with {code}")
    return int(bool(load.wrong) or growth > options.growth or code != 0)


if __name__ == "__main__":
    sys.exit(main())
