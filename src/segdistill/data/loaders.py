"""Seeded loaders: samples become batches, and the same ones whatever the number of workers or processes."""

import errno
import os
import re
import signal
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segdistill.config import AugmentConfig, TrainConfig
from segdistill.data.datasets import Sample, image_file
from segdistill.data.logits import LogitsCache, cut_view, image_key
from segdistill.data.transforms import apply_view, draw_view, normalise, recolour, resize_long_side

Item = TypeVar("Item")
LOADER_ENDED = (
    "a loader process was ended from outside, most often because memory ran out: "
    "try fewer data.workers, or smaller images"
)


@dataclass(frozen=True)
class Batch:
    """N views, as the training loop sees them."""

    image: Tensor
    """N x 3 x H x W float32, ImageNet-normalised (uint8 RGB until `to` has moved it to the device)."""
    mask: Tensor
    """N x H x W int64, class index or 255 = void."""
    inside: Tensor
    """N x H x W bool, False where augmentation padded."""
    id: list[str]
    """The sample ids."""
    knowledge: Tensor | None = None
    """N x K x H x W, the teacher's logits where they come from a cache."""
    partner: Tensor | None = None
    """N x H x W int64, the mask of the other image where two are mixed."""
    share: Tensor | None = None
    """N, the weight of `mask`; the partner's is 1 - share."""

    def to(
        self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
    ) -> "Batch":
        """The batch on `device`; bytes travel, and become floats there."""
        image = normalise(self.image.to(device, non_blocking=True)).contiguous(memory_format=memory_format)
        mask = self.mask.to(device, non_blocking=True).long()
        inside = self.inside.to(device, non_blocking=True)
        knowledge = None if self.knowledge is None else self.knowledge.to(device, non_blocking=True)
        return Batch(image, mask, inside, self.id, knowledge)


class SeenSample(NamedTuple):
    """A view of one sample."""

    image: Tensor
    """3 x S x S uint8."""
    mask: Tensor
    """S x S uint8."""
    inside: Tensor
    """S x S bool."""
    id: str
    knowledge: Tensor | None
    """K x S x S float16 logits of the teacher, where there is a cache."""


class Views(Dataset[SeenSample]):
    """A data set seen through random views; item (epoch, index) depends on these and the seed alone."""

    def __init__(
        self,
        samples: Dataset[Sample],
        size: int,
        augment: AugmentConfig,
        seed: int,
        cache: LogitsCache | None = None,
    ) -> None:
        self.samples, self.size, self.augment, self.seed, self.cache = samples, size, augment, seed, cache

    def __getitem__(self, key: tuple[int, int]) -> SeenSample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.samples[index]
        size = (sample.image.shape[1], sample.image.shape[2])
        view = draw_view(*size, self.size, self.augment, rng)
        image, mask, inside = apply_view(sample.image, sample.mask, view, self.size)
        knowledge = None
        if self.cache is not None:
            logits = self.cache.read(image_key(*image_file(self.samples, index)), size)
            if logits is None:
                raise ValueError(
                    f"the teacher's logits of {sample.id} are not in {self.cache.folder}, or are damaged: "
                    "start again, which fills the cache"
                )
            knowledge = cut_view(logits, view, size, self.size, self.cache.form)
        return SeenSample(recolour(image, self.augment, rng), mask, inside, sample.id, knowledge)


class ViewSampler(Sampler[list[tuple[int, int]]]):
    """This process's part of an endless stream of (epoch, index) pairs, cut into micro-batches.

    The stream is one shuffled pass after the other and has no last, smaller batch, so that step n holds the
    same samples whether training started at step 0 or resumed at step n.

    Args:
        length: number of samples in the data set.
        batch: samples per optimiser step, over all processes and accumulated passes.
        steps: first step and the step after the last.
        seed: seeds the shuffling.
        parts: number of micro-batches per step, over all processes.
        rank: which of the `world` processes this is.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        steps: range,
        seed: int,
        *,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % parts:
            raise ValueError(
                f"batch is {batch}, but must be a multiple of {parts} (processes times optim.accumulate)"
            )
        self.length, self.batch, self.steps, self.seed = length, batch, steps, seed
        self.parts, self.rank, self.world = parts, rank, world

    def __len__(self) -> int:
        return len(self.steps) * self.parts // self.world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        micro = self.batch // self.parts
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            for part in range(self.rank, self.parts, self.world):
                pairs = []
                start = step * self.batch + part * micro
                for position in range(start, start + micro):
                    if position // self.length != epoch:
                        epoch = position // self.length
                        order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                    pairs.append((epoch, int(order[position % self.length])))
                yield pairs


def training_batches(
    samples: Dataset[Sample],
    config: TrainConfig,
    steps: range,
    *,
    cache: LogitsCache | None = None,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """The micro-batches of `steps` for this process, `optim.accumulate` to a step, as uint8 `Batch`es."""
    sampler = ViewSampler(
        len(samples),  # type: ignore[arg-type]
        config.batch,
        steps,
        config.seed,
        parts=world * config.optim.accumulate,
        rank=rank,
        world=world,
    )
    return DataLoader[Batch](
        Views(samples, config.size, config.augment, config.seed, cache),  # type: ignore[arg-type]  # collated
        batch_sampler=sampler,
        num_workers=config.data.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_stop_signals,
        # The loader draws a seed for its workers: from a generator of its own, not from the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )


def collate(views: list[SeenSample]) -> Batch:
    """N views of one size -> a uint8 `Batch`."""
    known = [view.knowledge for view in views if view.knowledge is not None]
    return Batch(
        torch.stack([view.image for view in views]),
        torch.stack([view.mask for view in views]),
        torch.stack([view.inside for view in views]),
        [view.id for view in views],
        torch.stack(known) if known else None,
    )


class _NativeSamples(Dataset[tuple[Tensor, Sample]]):
    """Samples with the resized image that the network sees."""

    def __init__(self, samples: Dataset[Sample], indices: range, long_side: int | None) -> None:
        self.samples, self.indices, self.long_side = samples, indices, long_side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Sample]:
        sample = self.samples[self.indices[position]]
        return resize_long_side(sample.image, self.long_side), sample


def evaluation_samples(
    samples: Dataset[Sample], long_side: int | None, workers: int, *, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Tensor, Sample]]:
    """Every `world`-th sample, one by one: the 3 x h x w uint8 image that the network sees, and itself."""
    indices = range(rank, len(samples), world)  # type: ignore[arg-type]
    return DataLoader(
        _NativeSamples(samples, indices, long_side),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator().manual_seed(0),
    )


def plainly(loader: Iterable[Item]) -> Iterator[Item]:
    """The items of a loader; an error in a loader process reads as if it had happened here.

    Raises:
        FileNotFoundError, ValueError: what reading a sample raised, without that process's traceback.
        ChildProcessError: the system ended a loader process.
    """
    clean: Exception
    try:
        yield from loader
    except (ValueError, OSError, EOFError) as error:
        text = str(error).strip()
        if "Original Traceback" in text:
            clean = type(error)(text.splitlines()[-1].partition(": ")[2])
        elif isinstance(loader, DataLoader) and loader.num_workers and not isinstance(error, ValueError):
            clean = ChildProcessError(LOADER_ENDED)  # before it could hand over what it had announced
        else:
            raise
        # The frames hold the loader, which would keep its processes until the program ends.
        traceback.clear_frames(error.__traceback__)
    else:
        return
    raise clean


@contextmanager
def plain_failures() -> Iterator[None]:
    """Within it, a loader process that was ended, and memory that is not there, are errors of one line.

    Raises:
        ChildProcessError: the system ended a loader process.
        OSError: (ENOMEM) there is not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if re.search("DataLoader worker .*(exited unexpectedly|killed by signal)", text):
            problem: OSError = ChildProcessError(LOADER_ENDED)
        elif isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
            problem = OSError(
                errno.ENOMEM, "not enough memory: try a smaller batch or size, fewer data.workers"
            )
        else:
            raise
        # The frames hold the loader, which would keep its processes until the program ends.
        traceback.clear_frames(error.__traceback__)
    else:
        return
    raise problem


def ignore_stop_signals(worker: int) -> None:
    """Leave signals to the training process: sent to all, they would end its loaders before it has saved.

    Only that process itself may end a loader with SIGTERM, as it does when it exits.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_when_parent_asks, daemon=True).start()


def _exit_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
