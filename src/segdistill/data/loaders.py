"""DataLoaders for training and evaluation: the same batches whatever the number of workers or processes."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segdistill.config.train import AugmentConfig, TrainConfig
from segdistill.data.batch import Batch, TrainingSample, collate, share_memory
from segdistill.data.cache.teacher import LogitsCache, TeacherCache, crop_logits, image_key
from segdistill.data.colour import blur, draw_colour
from segdistill.data.sampler import CropKey, CropSampler, batch_pools, crop_size_at
from segdistill.data.samples import Sample, image_file
from segdistill.data.transforms import Crop, apply_crop, draw_crop, resize_long_side
from segdistill.data.worker import ignore_stop_signals


class CropDataset(Dataset[TrainingSample]):
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

    def __getitem__(self, key: CropKey) -> TrainingSample:
        epoch, index, side = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.samples[index]
        size = (sample.image.shape[1], sample.image.shape[2])
        low, high = (bound * side / self.size for bound in self.augment.scale)
        view = draw_crop(*size, side, replace(self.augment, scale=(low, high)), rng)
        image, mask, valid = apply_crop(sample.image, sample.mask, view, side)
        teacher_logits, features = None, None
        if self.cache is not None:
            seen = partial(self._taught, sample, index, view, side)
            teacher_logits = seen(self.cache.logits, side)
            if self.cache.features is not None:
                features = seen(self.cache.features, -(-side // self.stride))
        colour = draw_colour(self.augment, rng)
        image = blur(image, self.augment, rng)
        return TrainingSample(image, mask, valid, sample.id, teacher_logits, features, colour)

    def _taught(
        self, sample: Sample, index: int, view: Crop, side: int, cache: LogitsCache, cells: int
    ) -> Tensor:
        """What the teacher says of a view, from a cache: K x cells x cells."""
        said = cache.read(image_key(*image_file(self.samples, index)), sample.native)
        if said is None:
            raise ValueError(
                f"what the teacher says of {sample.id} is not in {cache.folder}, or is damaged: "
                "start again, which fills the cache"
            )
        size = (sample.image.shape[1], sample.image.shape[2])
        return crop_logits(said, view, size, sample.native, side, cache.form, cells)


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
    sampler = CropSampler(
        batch_pools(samples, config),
        steps,
        config.seed,
        partial(crop_size_at, config, total=steps.stop if total is None else total),
        parts=world * config.optim.accumulate,
        rank=rank,
        world=world,
    )
    return DataLoader[Batch](
        CropDataset(samples, config.size, config.augment, config.seed, cache, stride),  # type: ignore[arg-type]  # collated
        batch_sampler=sampler,
        num_workers=config.data.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_stop_signals,
        # The loader draws a seed for its workers: from a generator of its own, not from the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )


class _NativeSamples(Dataset[tuple[Tensor, Sample]]):
    """Samples with the resized image that the network sees."""

    def __init__(self, samples: Dataset[Sample], indices: range, long_side: int | None) -> None:
        self.samples, self.indices, self.long_side = samples, indices, long_side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Sample]:
        sample = self.samples[self.indices[position]]
        seen = resize_long_side(sample.image, self.long_side)
        share_memory(seen, *sample)
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
