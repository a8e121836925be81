"""Seeded loaders: samples become batches, and the same ones whatever the number of workers or processes."""

import errno
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision.transforms.v2 import functional as F

from segdistill.config import AugmentConfig, TrainConfig
from segdistill.data.colour import blur, draw_colour, recolour
from segdistill.data.datasets import Sample, image_file, labelled_count
from segdistill.data.logits import LogitsCache, TeacherCache, cut_view, image_key
from segdistill.data.transforms import View, apply_view, draw_view, normalise, resize_long_side

Item = TypeVar("Item")
ViewKey = tuple[int, int, int]
"""Epoch, index of the sample, side of the crop in pixels: what a view is drawn by."""
LOADER_ENDED = (
    "a loader process was ended from outside, most often because memory ran out: "
    "try fewer data.workers, or smaller images"
)

NO_MEMORY = re.compile(r"can(?:'t|not) allocate memory|unable to allocate|MemoryError", re.IGNORECASE)
"""How PyTorch, NumPy and the system say it; from a loader process it comes as text alone."""


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
    """N x H x W int64, the mask of the image that was blended in (MixUp)."""
    share: Tensor | None = None
    """N float32, the weight of `mask` against `partner`, from 0 to 1."""
    features: Tensor | None = None
    """N x C x h x w, the teacher's features where they come from a cache."""
    colour: Tensor | None = None
    """N x 4, the colours that `to` gives the images."""

    def to(
        self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
    ) -> "Batch":
        """The batch on `device`; bytes travel, and become floats there, in their random colours."""
        image = F.to_dtype(self.image.to(device, non_blocking=True), torch.float32, scale=True)
        if self.colour is not None:
            image = recolour(image, self.colour.to(device, non_blocking=True))
        image = normalise(image).contiguous(memory_format=memory_format)
        mask = self.mask.to(device, non_blocking=True).long()
        inside = self.inside.to(device, non_blocking=True)
        knowledge, features = (
            None if cached is None else cached.to(device, non_blocking=True)
            for cached in (self.knowledge, self.features)
        )
        return replace(
            self, image=image, mask=mask, inside=inside, knowledge=knowledge, features=features, colour=None
        )


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
    features: Tensor | None
    """C x s x s float16 features of the teacher, where losses compare them and there is a cache."""
    colour: Tensor
    """4, the colours that the image is to get on the device."""


class Views(Dataset[SeenSample]):
    """A data set seen through random views; item (epoch, index, side) depends on these and the seed alone.

    Args:
        samples: what is seen.
        size: side of the crop that `augment.scale` is meant for; for another side it is changed along.
        augment: how views are drawn.
        seed: seeds them.
        cache: the teacher's logits and features of the samples, whose views come along.
        stride: pixels of the crop per feature of the student.
    """

    def __init__(
        self,
        samples: Dataset[Sample],
        size: int,
        augment: AugmentConfig,
        seed: int,
        cache: TeacherCache | None = None,
        stride: int = 1,
    ) -> None:
        self.samples, self.size, self.augment, self.seed = samples, size, augment, seed
        self.cache, self.stride = cache, stride

    def __getitem__(self, key: ViewKey) -> SeenSample:
        epoch, index, side = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.samples[index]
        size = (sample.image.shape[1], sample.image.shape[2])
        low, high = (bound * side / self.size for bound in self.augment.scale)
        view = draw_view(*size, side, replace(self.augment, scale=(low, high)), rng)
        image, mask, inside = apply_view(sample.image, sample.mask, view, side)
        knowledge, features = None, None
        if self.cache is not None:
            seen = partial(self._taught, sample, index, view, side)
            knowledge = seen(self.cache.logits, side)
            if self.cache.features is not None:
                features = seen(self.cache.features, -(-side // self.stride))
        colour = draw_colour(self.augment, rng)
        image = blur(image, self.augment, rng)
        return SeenSample(image, mask, inside, sample.id, knowledge, features, colour)

    def _taught(
        self, sample: Sample, index: int, view: View, side: int, cache: LogitsCache, cells: int
    ) -> Tensor:
        """What the teacher says of a view, from a cache: K x cells x cells."""
        said = cache.read(image_key(*image_file(self.samples, index)), sample.native)
        if said is None:
            raise ValueError(
                f"what the teacher says of {sample.id} is not in {cache.folder}, or is damaged: "
                "start again, which fills the cache"
            )
        size = (sample.image.shape[1], sample.image.shape[2])
        return cut_view(said, view, size, sample.native, side, cache.form, cells)


class Pool(NamedTuple):
    """Samples that a part of each batch is drawn from."""

    indices: range
    """Which samples of the data set."""
    drawn: int
    """How many of them each batch holds."""


class ViewSampler(Sampler[list[ViewKey]]):
    """This process's part of an endless stream of view keys, cut into micro-batches.

    The stream of a pool is one shuffled pass after the other and has no last, smaller batch, so that step n
    holds the same samples whether training started at step 0 or resumed at step n. The passes and processes
    share a step's samples of each pool as evenly as can be.

    Args:
        pools: what a batch is drawn from, over all processes and accumulated passes.
        steps: first step and the step after the last.
        seed: seeds the shuffling.
        side: side of the crops of a step, in pixels.
        parts: number of micro-batches per step, over all processes.
        rank: which of the `world` processes this is.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        steps: range,
        seed: int,
        side: Callable[[int], int],
        *,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        batch = sum(pool.drawn for pool in pools)
        if batch % parts:
            raise ValueError(
                f"batch is {batch}, but must be a multiple of {parts} (processes times optim.accumulate)"
            )
        scarce = min(pool.drawn for pool in pools)
        if len(pools) > 1 and scarce < parts:
            raise ValueError(
                f"data.unlabelled_share makes batches of {' + '.join(str(pool.drawn) for pool in pools)} "
                f"images, but each of the {parts} parts of a batch (processes times optim.accumulate) must "
                "have labelled and unlabelled ones: change the share, or enlarge batch"
            )
        self.pools, self.batch, self.steps, self.seed, self.side = pools, batch, steps, seed, side
        self.parts, self.rank, self.world = parts, rank, world

    def __len__(self) -> int:
        return len(self.steps) * self.parts // self.world

    def __iter__(self) -> Iterator[list[ViewKey]]:
        streams = [_Stream(pool.indices, self.seed, number) for number, pool in enumerate(self.pools)]
        for step in self.steps:
            side = self.side(step)
            for part in range(self.rank, self.parts, self.world):
                keys: list[ViewKey] = []
                for stream, pool, within in zip(streams, self.pools, self._within(part), strict=True):
                    start = step * pool.drawn
                    keys += [(*stream[start + position], side) for position in within]
                yield keys

    def _within(self, part: int) -> list[range]:
        """Which of a step's samples of each pool a micro-batch holds; all micro-batches are of one length."""
        ends = np.outer((part, part + 1), [pool.drawn for pool in self.pools]) // self.parts
        # The first pool fills up what the others leave.
        ends[:, 0] = np.array((part, part + 1)) * (self.batch // self.parts) - ends[:, 1:].sum(axis=1)
        return [range(int(first), int(end)) for first, end in ends.T]


class _Stream:
    """Item n is the (epoch, index) at place n of endless shuffled passes over `indices`."""

    def __init__(self, indices: range, seed: int, number: int) -> None:
        self.indices, self.seed, self.number = indices, seed, number
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, place: int) -> tuple[int, int]:
        epoch, position = divmod(place, len(self.indices))
        if epoch != self.epoch:
            seeds = (self.seed, epoch, 0, self.number) if self.number else (self.seed, epoch)
            self.epoch, self.order = epoch, np.random.default_rng(seeds).permutation(len(self.indices))
        return epoch, self.indices[self.order[position]]


def pools(samples: Dataset[Sample], config: TrainConfig) -> list[Pool]:
    """What a batch of `config` is drawn from: all samples alike, or the labelled and the unlabelled ones."""
    length = len(samples)  # type: ignore[arg-type]
    if config.data.unlabelled_share is None:
        return [Pool(range(length), config.batch)]
    labelled, unlabelled = labelled_count(samples), round(config.batch * config.data.unlabelled_share)
    return [
        Pool(range(labelled), config.batch - unlabelled),
        Pool(range(labelled, length), unlabelled),
    ]


def crop_side(config: TrainConfig, step: int, total: int) -> int:
    """Side of the crops of a step (from 0) of `total`, in pixels."""
    return next((side for share, side in config.progressive if step < share * total), config.size)


def training_batches(
    samples: Dataset[Sample],
    config: TrainConfig,
    steps: range,
    *,
    total: int | None = None,
    cache: TeacherCache | None = None,
    stride: int = 1,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """The micro-batches of `steps` for this process, `optim.accumulate` to a step, as uint8 `Batch`es.

    `total` is the number of steps of the whole training, for `config.progressive`; the end of `steps` where
    absent. `stride` is the pixels of the crop per feature of the student, for features from `cache`.
    """
    sampler = ViewSampler(
        pools(samples, config),
        steps,
        config.seed,
        partial(crop_side, config, total=steps.stop if total is None else total),
        parts=world * config.optim.accumulate,
        rank=rank,
        world=world,
    )
    return DataLoader[Batch](
        Views(samples, config.size, config.augment, config.seed, cache, stride),  # type: ignore[arg-type]  # collated
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
    features = [view.features for view in views if view.features is not None]
    batch = Batch(
        torch.stack([view.image for view in views]),
        torch.stack([view.mask for view in views]),
        torch.stack([view.inside for view in views]),
        [view.id for view in views],
        torch.stack(known) if known else None,
        features=torch.stack(features) if features else None,
        colour=torch.stack([view.colour for view in views]),
    )
    share(*vars(batch).values())
    return batch


def share(*parts: object) -> None:
    """In a loader process, move the tensors among `parts` to shared memory, where they go anyway.

    Left to the queue between the processes, this happens in a thread of its own, in which an error (there is
    no memory left) is lost together with the batch: training would wait for it forever.
    """
    if get_worker_info() is not None:
        for part in parts:
            if isinstance(part, Tensor):
                part.share_memory_()  # type: ignore[no-untyped-call]


class _NativeSamples(Dataset[tuple[Tensor, Sample]]):
    """Samples with the resized image that the network sees."""

    def __init__(self, samples: Dataset[Sample], indices: range, long_side: int | None) -> None:
        self.samples, self.indices, self.long_side = samples, indices, long_side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Sample]:
        sample = self.samples[self.indices[position]]
        seen = resize_long_side(sample.image, self.long_side)
        share(seen, *sample)
        return seen, sample


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
        ChildProcessError: the system ended a loader process, or another process of the training has ended.
        OSError: (ENOMEM) there is not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if re.search("DataLoader worker .*(exited unexpectedly|killed by signal)", text):
            problem: OSError = ChildProcessError(LOADER_ENDED)
        elif re.search("gloo|NCCL", text) and re.search("[Cc]onnection (reset|closed|refused)", text):
            problem = ChildProcessError(
                "another process of this training has ended; --resume goes on from the last checkpoint"
            )
        elif isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY.search(text):
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
