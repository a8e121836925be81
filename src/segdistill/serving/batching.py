"""Batching: images of one size that arrive together go through the network together.

N: images, h, w: rows and columns of the network's input, K: classes.
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
    """One image that waits for its logits.

    Attributes:
        image: 3 x h x w uint8 RGB.
        logits: will be K x h x w float32 on the network's device.
        since: when it was submitted, on the monotonic clock.
    """

    image: Tensor
    logits: Future[Tensor] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A thread that runs a network on batches; `submit` takes images from any thread.

    A batch holds images of the oldest one's size. It is run as soon as it is full, or when the oldest has
    waited `wait_s`.

    Args:
        network: on `device`, in eval mode.
        device: where it computes.
        max_batch: most images of a batch; 1 for networks that take no more.
        wait_s: seconds that an image waits for others.
        observe: called with the size of each batch.
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

    def submit(self, image: Tensor) -> Future[Tensor]:
        """The future K x h x w float32 logits of a 3 x h x w uint8 image; cancelling saves the computation.

        Raises:
            RuntimeError: the batcher is closed.
        """
        job = Job(image=image)
        with self.changed:
            if self.closing:
                raise RuntimeError("the batcher is closed")
            self.jobs.append(job)
            self.changed.notify()
        return job.logits

    def __len__(self) -> int:
        """Images that wait."""
        return len(self.jobs)

    def close(self) -> None:
        """Run what has been submitted, then end the thread."""
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
        """Wait for the next batch and take it; empty once the batcher is closed and no job is left."""
        with self.changed:
            while not self.jobs and not self.closing:
                self.changed.wait()
            if not self.jobs:
                return []
            oldest = self.jobs[0]
            while len(self._batch_of(oldest)) < self.max_batch and not self.closing:
                left = oldest.since + self.wait_s - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(left)
            batch = self._batch_of(oldest)
            for job in batch:
                self.jobs.remove(job)
            return batch

    def _batch_of(self, oldest: Job) -> list[Job]:
        """The jobs with an image of the oldest one's size, as many as fit a batch."""
        same_size = [job for job in self.jobs if job.image.shape == oldest.image.shape]
        return same_size[: self.max_batch]

    def _run(self, jobs: list[Job]) -> None:
        try:
            logits = run_network(self.network, torch.stack([job.image for job in jobs]).to(self.device))
        except Exception as error:  # whatever a network raises, the next batch must still be run
            logger.exception("the network failed on a batch of %s", [tuple(job.image.shape) for job in jobs])
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
        two = run_network(network, torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device=device))
    except (ValueError, RuntimeError):
        return 1
    return wanted if len(two) == 2 else 1
