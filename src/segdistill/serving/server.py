"""The HTTP server around a service: uvicorn, its socket, the limit on open files, and how it stops."""

import ipaddress
import logging
import math
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from segdistill.config.deploy import ServeConfig
from segdistill.config.naming import setting
from segdistill.console import log, warn
from segdistill.engine.runtime import stop_signal
from segdistill.serving.connections import MAX_REFUSED, make_protocol
from segdistill.serving.middleware import Middleware
from segdistill.serving.routes import make_app
from segdistill.serving.service import Service

TOKEN = "SEGDISTILL_TOKEN"
"""Environment variable with the token that clients must send."""

KEEP_ALIVE_S = 5
"""Seconds that a connection may be idle between two requests."""

BACKLOG = 2048
"""Connections that the system holds until the server accepts them."""

OTHER_FILES = 128
"""Files that the process has open beside its connections."""


class Server(uvicorn.Server):
    """Uvicorn's server with a listen backlog of `BACKLOG`, however many connections it accepts at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


def make_server(service: Service) -> uvicorn.Server:
    """The HTTP server of a service."""
    config = service.config
    # Its warnings are about what clients send: they could fill the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    app: ASGIApp = Middleware(
        service.admission.middleware(make_app(service)),
        service.metrics,
        max_header_bytes=config.max_header_bytes,
        token=client_token(config),
    )
    return Server(
        uvicorn.Config(
            cast(Any, app),
            http=make_protocol(config.connections, config.timeout_s, service.metrics),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            backlog=accepted_at_once(config),
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=config.max_header_bytes,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(config.timeout_s) + KEEP_ALIVE_S,
        )
    )


def listen(service: Service, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then finish the requests that were admitted.

    Args:
        service: a network with its queue.
        ready: called with the URL once connections are accepted.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: the system does not allow the process so many connections.
    """
    config = service.config
    allow_files(config.connections + accepted_at_once(config) + MAX_REFUSED + OTHER_FILES)
    listener, url = listening_socket(config)
    server = make_server(service)
    if not is_loopback(config.host) and client_token(config) is None:
        warn(
            f"everyone who reaches {config.host} can use this server; {setting('token')} or {TOKEN} closes it"
        )
    with stop_signal():  # uvicorn stops on the signal, and then hands it on
        log(f"{service.card.name} is served at {url} on {service.card.device}; Ctrl-C stops")
        ready(url)
        server.run(sockets=[listener])


def client_token(config: ServeConfig) -> str | None:
    """The token that clients must send, from the settings or the environment; None for none."""
    return config.token or os.environ.get(TOKEN) or None


def accepted_at_once(config: ServeConfig) -> int:
    """Connections that asyncio accepts in one turn of its loop (it takes the backlog's length for this)."""
    return max(1, min(config.connections // 4, BACKLOG))


def allow_files(count: int) -> None:
    """Raise this process's own limit on open files, connections among them, where it is below `count`.

    Raises:
        ValueError: the system's limit is below it.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ValueError(
            f"so many connections take up to {count:,} open files, but the system allows {hard:,}: "
            f"choose fewer with {setting('connections')}, or raise its limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def listening_socket(config: ServeConfig) -> tuple[socket.socket, str]:
    """A socket that accepts connections, and its URL.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"cannot listen on {config.host}:{config.port}: {reason}") from None
    host = f"[{config.host}]" if ":" in config.host else config.host
    return listener, f"http://{host}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
