"""Streams: passes of one network that are computed at the same time, each with an equal part of the cores.

One pass that has all cores ends sooner, for its threads share each layer. But they wait for each other at the
end of every layer, and for what is not shared: where many images wait, a pass per core computes more of them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch

MAX_STREAMS = 8
"""Most streams that are chosen by default: each holds the network's maps of an image in memory."""

_SHARING: ContextVar[int] = ContextVar("sharing", default=1)


def sharing() -> int:
    """How many streams share the cores, the calling thread's among them; 1 where it has all of them."""
    return _SHARING.get()


def share_cores(streams: int, threads: int) -> None:
    """From here on the calling thread computes one of `streams` passes at a time.

    PyTorch's operators take `threads` / `streams` threads in it, and so do files in their runtimes.

    Args:
        streams: 1 gives it all cores.
        threads: that all streams have together.
    """
    _SHARING.set(streams)
    torch.set_num_threads(max(1, threads // streams))


@contextmanager
def stream_threads(streams: int) -> Iterator[ThreadPoolExecutor]:
    """As many threads as streams, which share the cores; at the end what has begun is finished."""
    threads = torch.get_num_threads()  # asked in this thread, which keeps this number from then on
    pool = ThreadPoolExecutor(streams, "stream", share_cores, (streams, threads))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # also what threads that are started later begin with


def choose_streams(asked: int, device: torch.device, *, concurrent: bool) -> int:
    """How many passes to compute at a time.

    Args:
        asked: by the settings; 0 takes one per thread of PyTorch's, at most `MAX_STREAMS`.
        device: an accelerator computes one at a time.
        concurrent: whether the network takes several calls at a time.
    """
    if device.type != "cpu" or not concurrent:
        return 1
    return asked or min(MAX_STREAMS, torch.get_num_threads())
