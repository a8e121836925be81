"""DataLoaders for training and evaluation: the same batches whatever the number of workers or processes."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segdistill.config.train import AugmentConfig, TrainConfig
from segdistill.data.batch import Batch, TrainingSample, collate, share_memory
from segdistill.data.cache.grid_crop import GridCrop
from segdistill.data.cache.teacher import LogitsCache, TeacherCache, cut_logits, image_key
from segdistill.data.colour import blur, draw_colour
from segdistill.data.sampler import ALONE, CropKey, CropSampler, RankSlice, batch_pools, crop_size_at
from segdistill.data.samples import Sample, Samples
from segdistill.data.transforms import Crop, apply_crop, draw_crop, resize_long_side
from segdistill.data.worker import ignore_stop_signals, loader_processes


class CropDataset(Dataset[TrainingSample]):
    """Random crops of a data set; item (epoch, index, crop size) depends on these and the seed alone.

    Args:
        samples: what is cropped.
        size: crop size that `augment.scale` is meant for; for another one it is changed along.
        augment: how crops are drawn.
        seed: seeds them.
        cache: the teacher's outputs for the samples, which are cropped along.
    """

    def __init__(
        self,
        samples: Samples,
        size: int,
        augment: AugmentConfig,
        seed: int,
        cache: TeacherCache | None = None,
    ) -> None:
        self.samples, self.size, self.augment, self.seed = samples, size, augment, seed
        self.cache = cache

    def __getitem__(self, key: CropKey) -> TrainingSample:
        epoch, index, crop_size = key
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self.samples[index]
        low, high = (bound * crop_size / self.size for bound in self.augment.scale)
        height, width = sample.image.shape[1:]
        crop = draw_crop(height, width, crop_size, replace(self.augment, scale=(low, high)), rng)
        image, mask, valid = apply_crop(sample.image, sample.mask, crop)
        teacher_grid, teacher_features = None, None
        if self.cache is not None:
            cut = partial(self._cut, sample, index, crop)
            if self.cache.logits is not None:
                teacher_grid = cut(self.cache.logits, crop_size)
            if self.cache.features is not None:
                cells = -(-crop_size // self.cache.stride)
                teacher_features = cut(self.cache.features, cells).interpolate()
        colour = draw_colour(self.augment, rng)
        image = blur(image, self.augment, rng)
        return TrainingSample(image, mask, valid, sample.id, teacher_grid, teacher_features, colour)

    def _cut(self, sample: Sample, index: int, crop: Crop, cache: LogitsCache, cells: int) -> GridCrop:
        """The teacher's outputs for a crop, from a cache: K x cells x cells when interpolated."""
        files = self.samples.files(index)
        outputs = cache.read(image_key(files.id, files.image, files.bits), sample.native)
        if outputs is None:
            raise ValueError(
                f"the teacher's outputs for {sample.id} are not in {cache.folder}, or are damaged: "
                "start again, which fills the cache"
            )
        size = (sample.image.shape[1], sample.image.shape[2])
        return cut_logits(outputs, crop, size, sample.native, cache.form, cells)


def training_batches(
    samples: Samples,
    config: TrainConfig,
    steps: range,
    *,
    total: int | None = None,
    cache: TeacherCache | None = None,
    process: RankSlice = ALONE,
) -> DataLoader[Batch]:
    """The micro-batches of `steps` for this process, `optim.accumulate` to a step, as uint8 `Batch`es.

    `total` is the number of steps of the whole training, for `config.progressive`; the end of `steps` where
    absent.
    """
    sampler = CropSampler(
        batch_pools(samples, config),
        steps,
        config.seed,
        partial(crop_size_at, config, total=steps.stop if total is None else total),
        config.optim.accumulate,
        process,
    )
    return DataLoader[Batch](
        CropDataset(samples, config.size, config.augment, config.seed, cache),  # type: ignore[arg-type]  # collated
        batch_sampler=sampler,
        num_workers=loader_processes(config.data.workers),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_stop_signals,
        # The loader draws a seed for its workers: from a generator of its own, not from the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )


class _ResizedSamples(Dataset[tuple[Tensor, Sample]]):
    """Samples with the resized image that the network gets."""

    def __init__(self, samples: Dataset[Sample], indices: range, long_side: int | None) -> None:
        self.samples, self.indices, self.long_side = samples, indices, long_side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Sample]:
        sample = self.samples[self.indices[position]]
        image = resize_long_side(sample.image, self.long_side)
        share_memory(image, *sample)
        return image, sample


def evaluation_samples(
    samples: Dataset[Sample], long_side: int | None, workers: int, *, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Tensor, Sample]]:
    """Every `world`-th sample, one by one: the 3 x h x w uint8 image that the network gets, and itself."""
    indices = range(rank, len(samples), world)  # type: ignore[arg-type]  # data sets of torch need no length
    return DataLoader(
        _ResizedSamples(samples, indices, long_side),
        batch_size=None,
        num_workers=loader_processes(workers),
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator().manual_seed(0),
    )
