"""Loaders: the same batches whatever the number of workers or processes, and after a resume."""

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tar_shards import write_shards
from torchvision.transforms.v2 import functional as F

from segdistill.config.train import AugmentConfig, DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.data.batch import Batch
from segdistill.data.cache.teacher import LogitsCache, LogitsFormat, TeacherCache, cut_logits, image_key
from segdistill.data.colour import recolour
from segdistill.data.datasets import open_dataset, open_training, open_unlabelled
from segdistill.data.images import list_images
from segdistill.data.labels import VOC
from segdistill.data.loaders import CropDataset, evaluation_samples, training_batches
from segdistill.data.sampler import Pool, RankSlice, batch_pools
from segdistill.data.samples import DownscaledSamples, Samples
from segdistill.data.transforms import apply_crop, draw_crop, normalise

pytestmark = pytest.mark.unit


def config(workers: int = 0, **changes: object) -> TrainConfig:
    settings = {"augment": AugmentConfig(blur=0.5), "size": 24, "batch": 4, "steps": 9} | changes
    return TrainConfig(data=DataConfig(workers=workers), **settings)  # type: ignore[arg-type]


def drawn(shapes: Path, settings: TrainConfig, steps: range) -> list[Batch]:
    return list(training_batches(open_dataset(shapes, "train"), settings, steps))


def key_of(samples: Samples, index: int) -> int:
    files = samples.files(index)
    return image_key(files.id, files.image)


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.id == b.id
        assert all(torch.equal(x, y) for x, y in ((a.image, b.image), (a.mask, b.mask), (a.valid, b.valid)))


def test_workers_change_nothing(shapes: Path) -> None:
    assert_equal(drawn(shapes, config(), range(4)), drawn(shapes, config(workers=2), range(4)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux limits a process to some cores")
def test_on_one_core_there_is_one_worker(shapes: Path) -> None:
    """PyTorch would warn of more."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert_equal(drawn(shapes, config(), range(4)), drawn(shapes, config(workers=2), range(4)))
    finally:
        os.sched_setaffinity(0, cores)


def test_spawned_workers_change_nothing(shapes: Path, tmp_path: Path) -> None:
    """As on Windows and macOS, where everything that a worker needs travels to it."""
    samples = open_dataset(shapes, "train")
    form = LogitsFormat(classes=2, square=None, scale=1.0, stride=8, grid="stretched", topk=0, teacher="a")
    with LogitsCache(tmp_path, form).writer(0) as writer:
        for index in range(len(samples)):
            writer.write(key_of(samples, index), (48, 48), torch.randn(2, 2, 6, 6))
    cache = TeacherCache(LogitsCache(tmp_path, form))
    assert cache.logits.read(key_of(samples, 0), (48, 48)) is not None  # its files are mapped now
    loader = training_batches(samples, config(workers=1), range(2), cache=cache)
    loader.multiprocessing_context = "spawn"
    plain = list(training_batches(samples, config(), range(2), cache=cache))
    for one, two in zip(loader, plain, strict=True):
        assert torch.equal(one.image, two.image)
        assert one.teacher_grid is not None
        assert two.teacher_grid is not None
        assert all(map(torch.equal, one.teacher_grid, two.teacher_grid))
    val = evaluation_samples(samples, 20, 1)
    travels = pickle.loads(pickle.dumps((val.dataset, val.collate_fn, val.worker_init_fn)))
    assert [sample.id for _, sample in map(travels[0].__getitem__, range(len(samples)))] == list(samples.ids)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_tar_files_as_the_process_itself_does(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("segdistill.data.formats.tar.user_cache_path", lambda name: tmp_path / name)
    photos = {path.stem: path.read_bytes() for path in list_images(shapes)}
    samples = open_unlabelled(write_shards(tmp_path / "shards", photos, each=5), VOC)
    loader = training_batches(samples, config(workers=2), range(3, 7))
    loader.multiprocessing_context = method
    assert_equal(list(loader), list(training_batches(samples, config(), range(7)))[3:])


def test_a_resume_changes_nothing(shapes: Path) -> None:
    assert_equal(drawn(shapes, config(), range(7))[4:], drawn(shapes, config(), range(4, 7)))


def test_the_seed_changes_the_crops(shapes: Path) -> None:
    first, second = (drawn(shapes, config(seed=seed), range(1))[0] for seed in (0, 1))
    assert not torch.equal(first.image, second.image)


def test_a_batch_keeps_its_contract_on_the_device(shapes: Path) -> None:
    micro = config(optim=OptimConfig(accumulate=2))
    batch = drawn(shapes, micro, range(1))[0].to(torch.device("cpu")).normalized(torch.channels_last)
    assert (batch.image.shape, batch.image.dtype) == ((2, 3, 24, 24), torch.float32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.mask.dtype, batch.valid.dtype, len(batch.id)) == (torch.int64, torch.bool, 2)


def test_evaluation_sees_each_sample_once_over_all_processes(shapes: Path) -> None:
    val = open_dataset(shapes, "val")
    seen = [
        sample.id for rank in (0, 1, 2) for _, sample in evaluation_samples(val, 20, 0, rank=rank, world=3)
    ]
    assert sorted(seen) == sorted(val.ids)
    image, sample = next(iter(evaluation_samples(val, 20, 0)))
    assert (image.shape, sample.mask.shape) == ((3, 20, 20), (48, 48))


def test_a_crop_depends_on_epoch_and_index_and_on_nothing_before_it(shapes: Path) -> None:
    crops = CropDataset(open_dataset(shapes, "train"), 24, AugmentConfig(blur=0.5), seed=1)
    first = crops[1, 5, 24]
    np.random.seed(9)
    torch.manual_seed(9)
    for key in ((0, 5), (1, 4), (1, 5)):
        last = crops[*key, 24]
        assert torch.equal(last.image, first.image) == (key == (1, 5))
    assert torch.equal(last.mask, first.mask)
    assert torch.equal(last.valid, first.valid)


def test_crops_of_two_neighbouring_seeds_do_not_coincide(shapes: Path) -> None:
    samples, augment = open_dataset(shapes, "train"), AugmentConfig()
    (a, b), (c, d) = (
        [CropDataset(samples, 24, augment, seed=seed)[epoch, 0, 24].image for epoch in (0, 1)]
        for seed in (0, 1)
    )
    assert not any(torch.equal(x, y) for x, y in ((a, b), (a, c), (b, c), (b, d), (c, d)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_random_states_alone(shapes: Path, workers: int) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    drawn(shapes, config(workers=workers), range(2))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_passes_and_processes_that_do_not_divide_the_batch_are_refused(shapes: Path) -> None:
    settings_ = config(optim=OptimConfig(accumulate=2))
    with pytest.raises(ValueError, match="batch is 4, but must be a multiple of 6"):
        training_batches(open_dataset(shapes, "train"), settings_, range(1), process=RankSlice(0, 3))


def test_a_batch_larger_than_the_data_set_is_filled_from_the_next_pass(shapes: Path) -> None:
    (batch,) = drawn(shapes, config(batch=18), range(1))
    counts = Counter(batch.id)
    assert len(counts) == 12
    assert sorted(counts.values()) == [1] * 6 + [2] * 6


def test_unlabelled_crops_are_void_but_valid(shapes: Path) -> None:
    photos = open_unlabelled(shapes / "VOCdevkit" / "VOC2012" / "JPEGImages", VOC)
    crop = CropDataset(photos, 24, AugmentConfig(scale=(1, 1)), seed=0)[0, 0, 24]
    assert crop.mask.unique().tolist() == [255]
    assert crop.valid.all()


def test_evaluation_hands_out_the_sample_at_its_own_size(shapes: Path) -> None:
    val = open_dataset(shapes, "val")
    for (seen, sample), original in zip(evaluation_samples(val, None, 2), val, strict=True):
        assert sample.id == original.id
        assert torch.equal(seen, original.image)
        assert torch.equal(sample.mask, original.mask)


def test_every_batch_holds_its_share_of_unlabelled_images(shapes: Path) -> None:
    photos = shapes / "VOCdevkit" / "VOC2012" / "JPEGImages"  # all 16, without masks
    data = DataConfig(root=str(shapes), unlabelled=[str(photos)], unlabelled_share=0.25, workers=0)
    teacher, optim = TeacherConfig(spec="any"), OptimConfig(accumulate=2)
    mixed = TrainConfig(data=data, teacher=teacher, size=24, batch=8, optim=optim)
    samples = open_training(data)
    assert batch_pools(samples, mixed) == [Pool(range(12), 6), Pool(range(12, 28), 2)]
    for batch in training_batches(samples, mixed, range(4)):
        assert [(mask == 255).all().item() for mask in batch.mask] == [False, False, False, True]


def test_the_defaults_draw_what_they_always_drew(shapes: Path) -> None:
    """The first two batches, computed in the plainest way."""
    plain = TrainConfig(data=DataConfig(workers=0), size=32, batch=8)
    samples = open_dataset(shapes, "train")
    stream = [(e, i) for e in (0, 1) for i in np.random.default_rng((0, e)).permutation(12)]
    for step, batch in enumerate(training_batches(samples, plain, range(2))):
        for place, (epoch, index) in enumerate(stream[8 * step : 8 * step + 8]):
            rng = np.random.default_rng((0, epoch, index))
            sample = samples[index]
            crop = draw_crop(48, 48, 32, AugmentConfig(scale=(0.5, 2.0), flip=0.5), rng)
            image, mask, valid = apply_crop(sample.image, sample.mask, crop)
            colour = [*np.float32([rng.uniform(0.7, 1.3) for _ in range(3)]), 0]
            assert batch.id[place] == sample.id
            assert torch.equal(batch.image[place], image)
            assert batch.colour[place].tolist() == colour
            moved = batch.to(torch.device("cpu")).normalized().image[place]
            seen = recolour(image[None] / 255, torch.tensor([colour]))
            torch.testing.assert_close(moved, normalise(seen)[0])
            assert torch.equal(batch.mask[place], mask)
            assert torch.equal(batch.valid[place], valid)
        assert batch.teacher_logits is batch.target_b is batch.lam is None


def test_crops_grow_and_a_resume_changes_nothing(shapes: Path) -> None:
    rising = config(size=24, progressive=[(0.5, 12)])
    samples = open_dataset(shapes, "train")
    whole = list(training_batches(samples, rising, range(6), total=8))
    assert [batch.image.shape[-1] for batch in whole] == [12, 12, 12, 12, 24, 24]
    assert_equal(whole[3:], list(training_batches(samples, rising, range(3, 6), total=8)))


def test_a_small_crop_shows_as_much_of_the_image(shapes: Path) -> None:
    samples, augment = open_dataset(shapes, "train"), AugmentConfig(scale=(0.5, 0.5), flip=0, jitter=0)
    large, small = (CropDataset(samples, 24, augment, seed=0)[0, 0, side].image for side in (24, 12))
    again = F.resize(samples[0].image, [12, 12], antialias=True)
    assert (small.float() - again.float()).abs().mean() < 2  # the whole image, at a quarter of its side
    assert (F.resize(large, [12, 12], antialias=True).float() - small.float()).abs().mean() < 2


@pytest.mark.parametrize("stretch", [False, True])
def test_logits_are_looked_up_by_the_size_of_the_file(shapes: Path, tmp_path: Path, stretch: bool) -> None:
    samples, augment = open_dataset(shapes, "train"), AugmentConfig(stretch=stretch)
    square = 24 if stretch else None
    form = LogitsFormat(classes=9, square=square, scale=2.0, stride=4, grid="stretched", topk=0, teacher="a")
    key, logits = key_of(samples, 3), torch.randn(2, 9, *form.grid_size((48, 48)))
    with LogitsCache(tmp_path, form).writer(0) as writer:
        writer.write(key, (48, 48), logits)
    cache = TeacherCache(LogitsCache(tmp_path, form))
    seen = CropDataset(DownscaledSamples(samples, 30), 16, augment, seed=0, cache=cache)[2, 3, 16]
    crop = draw_crop(30, 30, 16, augment, np.random.default_rng((0, 2, 3)))
    assert seen.teacher_grid is not None
    expected = cut_logits(logits.half().float(), crop, (30, 30), (48, 48), form).interpolate()
    assert torch.equal(seen.teacher_grid.interpolate(), expected)


def test_the_square_of_stretched_images_does_not_follow_the_crop(shapes: Path, tmp_path: Path) -> None:
    samples = open_dataset(shapes, "train")
    augment = AugmentConfig(stretch=True, flip=0, jitter=0)
    form = LogitsFormat(classes=9, square=24, scale=1.0, stride=24, grid="stretched", topk=0, teacher="a")
    with LogitsCache(tmp_path, form).writer(0) as writer:
        writer.write(key_of(samples, 0), (48, 48), torch.arange(18.0).view(2, 9, 1, 1))
    crops = CropDataset(samples, 24, augment, seed=0, cache=TeacherCache(LogitsCache(tmp_path, form)))
    for side in (12, 24):
        teacher_grid = crops[0, 0, side].teacher_grid
        assert teacher_grid is not None
        teacher_logits = teacher_grid.interpolate()
        assert torch.equal(teacher_logits, torch.arange(9.0).half().view(9, 1, 1).expand(9, side, side))
