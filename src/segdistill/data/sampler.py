"""Which sample and crop each micro-batch of a step holds: a function of seed, step and process."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from segdistill.config.train import TrainConfig
from segdistill.data.samples import Sample, labelled_count

CropKey = tuple[int, int, int]
"""Epoch, index of the sample, side of the crop in pixels: what a view is drawn by."""


class Pool(NamedTuple):
    """Samples that a part of each batch is drawn from."""

    indices: range
    """Which samples of the data set."""
    drawn: int
    """How many of them each batch holds."""


class CropSampler(Sampler[list[CropKey]]):
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

    def __iter__(self) -> Iterator[list[CropKey]]:
        streams = [_Stream(pool.indices, self.seed, number) for number, pool in enumerate(self.pools)]
        for step in self.steps:
            side = self.side(step)
            for part in range(self.rank, self.parts, self.world):
                keys: list[CropKey] = []
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


def batch_pools(samples: Dataset[Sample], config: TrainConfig) -> list[Pool]:
    """What a batch of `config` is drawn from: all samples alike, or the labelled and the unlabelled ones."""
    length = len(samples)  # type: ignore[arg-type]
    if config.data.unlabelled_share is None:
        return [Pool(range(length), config.batch)]
    labelled, unlabelled = labelled_count(samples), round(config.batch * config.data.unlabelled_share)
    return [
        Pool(range(labelled), config.batch - unlabelled),
        Pool(range(labelled, length), unlabelled),
    ]


def crop_size_at(config: TrainConfig, step: int, total: int) -> int:
    """Side of the crops of a step (from 0) of `total`, in pixels."""
    return next((side for share, side in config.progressive if step < share * total), config.size)
