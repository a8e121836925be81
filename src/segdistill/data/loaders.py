"""Seeded loaders: samples become batches, and the same ones whatever the number of workers or processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segdistill.config import AugmentConfig, TrainConfig
from segdistill.data.datasets import Sample
from segdistill.data.transforms import apply_view, draw_view, normalise, recolour, resize_long_side


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

    def to(
        self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
    ) -> "Batch":
        """The batch on `device`; bytes travel, and become floats there."""
        image = normalise(self.image.to(device, non_blocking=True)).contiguous(memory_format=memory_format)
        mask = self.mask.to(device, non_blocking=True).long()
        return Batch(image, mask, self.inside.to(device, non_blocking=True), self.id)


class Views(Dataset[tuple[Tensor, Tensor, Tensor, str]]):
    """A data set seen through random views; item (epoch, index) depends on these and the seed alone."""

    def __init__(self, samples: Dataset[Sample], size: int, augment: AugmentConfig, seed: int) -> None:
        self.samples, self.size, self.augment, self.seed = samples, size, augment, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, str]:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.samples[index]
        view = draw_view(sample.image.shape[1], sample.image.shape[2], self.size, self.augment, rng)
        image, mask, inside = apply_view(sample.image, sample.mask, view, self.size)
        return recolour(image, self.augment, rng), mask, inside, sample.id


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
    samples: Dataset[Sample], config: TrainConfig, steps: range, *, rank: int = 0, world: int = 1
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
        Views(samples, config.size, config.augment, config.seed),  # type: ignore[arg-type]  # collated
        batch_sampler=sampler,
        num_workers=config.data.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # The loader draws a seed for its workers: from a generator of its own, not from the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )


def collate(views: list[tuple[Tensor, Tensor, Tensor, str]]) -> Batch:
    """N views of one size -> a uint8 `Batch`."""
    images, masks, insides, ids = zip(*views, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), torch.stack(insides), list(ids))


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
        generator=torch.Generator().manual_seed(0),
    )
