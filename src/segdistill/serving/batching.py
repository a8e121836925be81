"""Batching: images that arrive together go through the network together, in batches or several at a time.

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
from segdistill.models.streams import share_cores
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
    """Threads that run a network on batches; `submit` takes images from any thread.

    A batch holds images of the oldest one's size. It is run as soon as it is full, or when the oldest has
    waited `wait_s`. A batch that finds no other has all cores; those that come meanwhile share them.

    Args:
        network: on `device`, in eval mode.
        device: where it computes.
        max_batch: most images of a batch; 1 for networks that take no more.
        streams: batches that are run at a time, see `choose_streams`.
        wait_s: seconds that an image waits for others.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        device: torch.device,
        *,
        max_batch: int = 8,
        streams: int = 1,
        wait_s: float = 0.005,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.network, self.device, self.observe = network, device, observe
        self.max_batch, self.streams, self.wait_s = max_batch, streams, wait_s
        self.cores = torch.get_num_threads()
        self.jobs: deque[Job] = deque()
        self.running = 0
        self.changed = threading.Condition()
        self.closing = False
        self.threads = [
            threading.Thread(target=self._work, name=f"network-{number}", daemon=True)
            for number in range(streams)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all its threads work."""
        return all(thread.is_alive() for thread in self.threads)

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
            self.changed.notify_all()  # a thread that waits for more of a size may not want this one
        return job.logits

    def __len__(self) -> int:
        """Images that wait."""
        return len(self.jobs)

    def close(self) -> None:
        """Run what has been submitted, then end the threads."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        torch.set_num_threads(self.cores)  # what threads that are started later begin with

    def _work(self) -> None:
        while batch := self._next_batch():
            jobs, sharing = batch
            share_cores(sharing, self.cores)
            try:
                running = [job for job in jobs if job.logits.set_running_or_notify_cancel()]
                if running:
                    self._run(running)
            finally:
                with self.changed:
                    self.running -= 1

    def _next_batch(self) -> tuple[list[Job], int] | None:
        """Wait for the next batch and take it; None once the batcher is closed and no job is left.

        Returns:
            The jobs, and how many batches share the cores.
        """
        with self.changed:
            while self.jobs or not self.closing:
                left = None
                if self.jobs:
                    oldest = self.jobs[0]
                    batch = self._batch_of(oldest)
                    left = oldest.since + self.wait_s - time.monotonic()
                    if len(batch) == self.max_batch or self.closing or left <= 0:
                        for job in batch:
                            self.jobs.remove(job)
                        self.running += 1
                        alone = self.running == 1 and not self.jobs
                        return batch, 1 if alone else self.streams
                self.changed.wait(left)
            return None

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
