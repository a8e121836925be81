"""Micro-batching: pictures of one size that arrive together go through the network together.

N: images, C: channels, h, w: rows and columns that the network sees, K: classes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segdistill.inference.segment import run_network
from segdistill.models.trained import TrainedNetwork

logger = logging.getLogger("segdistill.serve")


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One picture that waits for its logits.

    Attributes:
        pixels: 3 x h x w uint8 RGB.
        logits: will be K x h x w float32 on the network's device.
        since: seconds of `time.monotonic` at which it came.
    """

    pixels: Tensor
    logits: Future[Tensor] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A thread that runs a network on batches; `submit` hands it pictures from any thread.

    The oldest picture decides the size of a batch, and when it is run: as soon as it is full, or when the
    oldest has waited `wait_s`.

    Args:
        network: on `device`, in eval mode.
        device: where it computes.
        max_batch: most pictures of a batch; 1 for networks that take no more.
        wait_s: seconds that a picture waits for others.
        observe: is told the size of each batch.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        device: torch.device,
        *,
        max_batch: int = 8,
        wait_s: float = 0.005,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.network, self.device, self.observe = network, device, observe
        self.max_batch, self.wait_s = max_batch, wait_s
        self.jobs: deque[Job] = deque()
        self.changed = threading.Condition()
        self.closing = False
        self.thread = threading.Thread(target=self._work, name="network", daemon=True)
        self.thread.start()

    def submit(self, pixels: Tensor) -> Future[Tensor]:
        """The K x h x w float32 logits that a 3 x h x w uint8 picture will get; cancelling saves the work."""
        job = Job(pixels=pixels)
        with self.changed:
            if self.closing:
                raise RuntimeError("the batcher is closed")
            self.jobs.append(job)
            self.changed.notify()
        return job.logits

    def __len__(self) -> int:
        """Pictures that wait."""
        return len(self.jobs)

    def close(self) -> None:
        """Run what was submitted, then end the thread."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            running = [job for job in batch if job.logits.set_running_or_notify_cancel()]
            if running:
                self._run(running)

    def _next_batch(self) -> list[Job]:
        """Wait for the next batch and take it; nothing once the batcher is closed and all is done."""
        with self.changed:
            while not self.jobs and not self.closing:
                self.changed.wait()
            if not self.jobs:
                return []
            oldest = self.jobs[0]
            while len(self._alike(oldest)) < self.max_batch and not self.closing:
                left = oldest.since + self.wait_s - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(left)
            batch = self._alike(oldest)
            for job in batch:
                self.jobs.remove(job)
            return batch

    def _alike(self, oldest: Job) -> list[Job]:
        """The jobs of the oldest one's size, as many as fit a batch."""
        alike = [job for job in self.jobs if job.pixels.shape == oldest.pixels.shape]
        return alike[: self.max_batch]

    def _run(self, jobs: list[Job]) -> None:
        try:
            images = torch.stack([job.pixels for job in jobs]).to(self.device)
            logits = run_network(self.network, images)
        except Exception as error:  # whatever a network does, the next batch must still be served
            logger.exception("the network failed on a batch of %s", [tuple(job.pixels.shape) for job in jobs])
            for job in jobs:
                job.logits.set_exception(error)
            return
        self.observe(len(jobs))
        for job, values in zip(jobs, logits, strict=True):
            job.logits.set_result(values)


def largest_batch(network: TrainedNetwork, device: torch.device, wanted: int) -> int:
    """`wanted`, or 1 where the network takes one image at a time (an exported file with a fixed batch)."""
    if wanted == 1:
        return 1
    try:
        with torch.inference_mode():
            two = network(torch.zeros(2, 3, 64, 64, device=device))
    except (ValueError, RuntimeError):
        return 1
    return wanted if len(two) == 2 else 1
