"""Loaders: the same batches whatever the number of workers or processes, and after a resume."""

from pathlib import Path

import pytest
import torch

from segdistill.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from segdistill.data.datasets import open_dataset
from segdistill.data.loaders import Batch, ViewSampler, evaluation_samples, training_batches

pytestmark = pytest.mark.unit


def config(workers: int = 0, **changes: object) -> TrainConfig:
    settings = {"augment": AugmentConfig(blur=0.5), "size": 24, "batch": 4, "steps": 9} | changes
    return TrainConfig(data=DataConfig(workers=workers), **settings)  # type: ignore[arg-type]


def drawn(shapes: Path, settings: TrainConfig, steps: range) -> list[Batch]:
    return list(training_batches(open_dataset(shapes, "train"), settings, steps))


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.id == b.id
        assert all(torch.equal(x, y) for x, y in ((a.image, b.image), (a.mask, b.mask), (a.inside, b.inside)))


def test_each_epoch_shows_each_sample_once() -> None:
    pairs = [pair for batch in ViewSampler(10, 4, range(5), seed=0) for pair in batch]
    for epoch in (0, 1):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(10))
    orders = [[index for e, index in pairs if e == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_a_resumed_order_is_the_rest_of_the_whole_one() -> None:
    whole = list(ViewSampler(10, 4, range(12), seed=3))
    assert list(ViewSampler(10, 4, range(7, 12), seed=3)) == whole[7:]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_processes_and_passes_share_a_batch(world: int, accumulate: int) -> None:
    whole = list(ViewSampler(10, 8, range(6), seed=3))
    parts = [
        list(ViewSampler(10, 8, range(6), seed=3, parts=world * accumulate, rank=rank, world=world))
        for rank in range(world)
    ]
    assert [len(part) for part in parts] == [6 * accumulate] * world
    for step, batch in enumerate(whole):
        shared = [p for part in parts for micro in part[step * accumulate :][:accumulate] for p in micro]
        assert sorted(shared) == sorted(batch)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is 10, but must be a multiple of 4"):
        ViewSampler(10, 10, range(1), seed=0, parts=4, world=2)


def test_workers_change_nothing(shapes: Path) -> None:
    assert_equal(drawn(shapes, config(), range(4)), drawn(shapes, config(workers=2), range(4)))


def test_a_resume_changes_nothing(shapes: Path) -> None:
    assert_equal(drawn(shapes, config(), range(7))[4:], drawn(shapes, config(), range(4, 7)))


def test_the_seed_changes_the_views(shapes: Path) -> None:
    first, second = (drawn(shapes, config(seed=seed), range(1))[0] for seed in (0, 1))
    assert not torch.equal(first.image, second.image)


def test_a_batch_keeps_its_contract_on_the_device(shapes: Path) -> None:
    micro = config(optim=OptimConfig(accumulate=2))
    batch = drawn(shapes, micro, range(1))[0].to(torch.device("cpu"), torch.channels_last)
    assert (batch.image.shape, batch.image.dtype) == ((2, 3, 24, 24), torch.float32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.mask.dtype, batch.inside.dtype, len(batch.id)) == (torch.int64, torch.bool, 2)


def test_evaluation_sees_each_sample_once_over_all_processes(shapes: Path) -> None:
    val = open_dataset(shapes, "val")
    seen = [
        sample.id for rank in (0, 1, 2) for _, sample in evaluation_samples(val, 20, 0, rank=rank, world=3)
    ]
    assert sorted(seen) == sorted(val.ids)
    image, sample = next(iter(evaluation_samples(val, 20, 0)))
    assert (image.shape, sample.mask.shape) == ((3, 20, 20), (48, 48))
