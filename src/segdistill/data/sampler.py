"""Which sample and crop each micro-batch of a step holds: a function of seed, step and process."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from segdistill.config.train import TrainConfig
from segdistill.data.samples import Samples

CropKey = tuple[int, int, int]
"""Epoch, index of the sample, crop size in pixels: what a crop is drawn by."""


class Pool(NamedTuple):
    """Samples of which each batch holds a fixed number."""

    indices: range
    """Which samples of the data set."""
    drawn: int
    """How many of them each batch holds."""


class RankSlice(NamedTuple):
    """Which of the processes of a training this is."""

    rank: int = 0
    world: int = 1
    """How many processes there are."""


ALONE = RankSlice()
"""A training of one process."""


class CropSampler(Sampler[list[CropKey]]):
    """This process's slice of an endless stream of crop keys, cut into micro-batches.

    The stream of a pool is one shuffled pass after the other and has no last, smaller batch, so that step n
    holds the same samples whether training started at step 0 or resumed at step n. The micro-batches of a
    step share its samples of each pool as evenly as can be.

    Args:
        pools: what a batch is drawn from, over all processes and gradient accumulation steps.
        steps: first step and the step after the last.
        seed: seeds the shuffling.
        crop_size: of a step, in pixels.
        accumulate: gradient accumulation steps, the micro-batches of each process per step.
        process: whose micro-batches these are.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        steps: range,
        seed: int,
        crop_size: Callable[[int], int],
        accumulate: int = 1,
        process: RankSlice = ALONE,
    ) -> None:
        batch, count = sum(pool.drawn for pool in pools), process.world * accumulate
        if batch % count:
            raise ValueError(
                f"batch is {batch}, but must be a multiple of {count} (processes times optim.accumulate)"
            )
        scarce = min(pool.drawn for pool in pools)
        if len(pools) > 1 and scarce < count:
            raise ValueError(
                f"data.unlabelled_share makes batches of {' + '.join(str(pool.drawn) for pool in pools)} "
                f"images, but each of the {count} micro-batches of a batch (processes times "
                "optim.accumulate) must have labelled and unlabelled ones: change the share, or enlarge batch"
            )
        self.pools, self.batch, self.steps, self.seed = pools, batch, steps, seed
        self.crop_size, self.micro_batches, self.process = crop_size, count, process

    def __len__(self) -> int:
        return len(self.steps) * self.micro_batches // self.process.world

    def __iter__(self) -> Iterator[list[CropKey]]:
        streams = [_Stream(pool.indices, self.seed, number) for number, pool in enumerate(self.pools)]
        for step in self.steps:
            size = self.crop_size(step)
            for micro in range(self.process.rank, self.micro_batches, self.process.world):
                keys: list[CropKey] = []
                for stream, pool, within in zip(streams, self.pools, self._within(micro), strict=True):
                    start = step * pool.drawn
                    keys += [(*stream[start + position], size) for position in within]
                yield keys

    def _within(self, micro: int) -> list[range]:
        """Which of a step's samples of each pool a micro-batch holds; all micro-batches are of one length."""
        bounds = (micro, micro + 1)
        ends = np.outer(bounds, [pool.drawn for pool in self.pools]) // self.micro_batches
        # The first pool fills up what the others leave.
        ends[:, 0] = np.array(bounds) * (self.batch // self.micro_batches) - ends[:, 1:].sum(axis=1)
        return [range(int(first), int(end)) for first, end in ends.T]


class _Stream:
    """Item n is the (epoch, index) at position n of endless shuffled passes over `indices`."""

    def __init__(self, indices: range, seed: int, number: int) -> None:
        self.indices, self.seed, self.number = indices, seed, number
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, within = divmod(position, len(self.indices))
        if epoch != self.epoch:
            seeds = (self.seed, epoch, 0, self.number) if self.number else (self.seed, epoch)
            self.epoch, self.order = epoch, np.random.default_rng(seeds).permutation(len(self.indices))
        return epoch, self.indices[self.order[within]]


def batch_pools(samples: Samples, config: TrainConfig) -> list[Pool]:
    """What a batch of `config` is drawn from: all samples alike, or the labelled and the unlabelled ones."""
    if config.data.unlabelled_share is None:
        return [Pool(range(len(samples)), config.batch)]
    unlabelled = round(config.batch * config.data.unlabelled_share)
    return [
        Pool(range(samples.labelled), config.batch - unlabelled),
        Pool(range(samples.labelled, len(samples)), unlabelled),
    ]


def crop_size_at(config: TrainConfig, step: int, total: int) -> int:
    """Size of the crops of a step (from 0) of `total`, in pixels."""
    return next((size for fraction, size in config.progressive if step < fraction * total), config.size)
