"""Loaders: the same batches whatever the number of workers or processes, and after a resume."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from segdistill.data.datasets import open_dataset, open_unlabelled
from segdistill.data.labels import VOC
from segdistill.data.loaders import Batch, Views, ViewSampler, evaluation_samples, training_batches

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


@given(
    length=st.integers(1, 12), parts=st.integers(1, 4), micro=st.integers(1, 5), first=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_stream_is_one_shuffled_pass_after_the_other(
    length: int, parts: int, micro: int, first: int, seed: int
) -> None:
    batch, steps = parts * micro, range(0, 12)
    whole = list(ViewSampler(length, batch, steps, seed))
    stream = [pair for step in whole for pair in step]
    for start in range(0, len(stream) - length + 1, length):
        assert sorted(stream[start : start + length]) == [(start // length, i) for i in range(length)]
    assert list(ViewSampler(length, batch, steps[first:], seed)) == whole[first:]
    ranks = [
        list(ViewSampler(length, batch, steps, seed, parts=parts, rank=r, world=parts)) for r in range(parts)
    ]
    assert [[p for rank in ranks for p in rank[step]] for step in steps] == whole


def test_a_view_depends_on_epoch_and_index_and_on_nothing_before_it(shapes: Path) -> None:
    views = Views(open_dataset(shapes, "train"), 24, AugmentConfig(blur=0.5), seed=1)
    first = views[1, 5]
    np.random.seed(9)
    torch.manual_seed(9)
    for key in ((0, 5), (1, 4), (1, 5)):
        last = views[key]
        assert torch.equal(last.image, first.image) == (key == (1, 5))
    assert torch.equal(last.mask, first.mask)
    assert torch.equal(last.inside, first.inside)


def test_views_of_two_neighbouring_seeds_do_not_coincide(shapes: Path) -> None:
    samples, augment = open_dataset(shapes, "train"), AugmentConfig()
    (a, b), (c, d) = (
        [Views(samples, 24, augment, seed=seed)[epoch, 0].image for epoch in (0, 1)] for seed in (0, 1)
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
        training_batches(open_dataset(shapes, "train"), settings_, range(1), world=3)


def test_a_batch_larger_than_the_data_set_is_filled_from_the_next_pass(shapes: Path) -> None:
    (batch,) = drawn(shapes, config(batch=18), range(1))
    counts = Counter(batch.id)
    assert len(counts) == 12
    assert sorted(counts.values()) == [1] * 6 + [2] * 6


def test_images_are_normalised_on_the_way_to_the_device() -> None:
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    mask = torch.full((1, 1, 1), 255, dtype=torch.uint8)
    batch = Batch(image, mask, mask > 0, ["a"]).to(torch.device("cpu"))
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(batch.image.flatten(), torch.tensor(expected))
    assert (batch.mask.item(), batch.id) == (255, ["a"])


def test_unlabelled_views_are_void_but_inside(shapes: Path) -> None:
    photos = open_unlabelled(shapes / "VOCdevkit" / "VOC2012" / "JPEGImages", VOC)
    view = Views(photos, 24, AugmentConfig(scale=(1, 1)), seed=0)[0, 0]
    assert view.mask.unique().tolist() == [255]
    assert view.inside.all()


def test_evaluation_hands_out_the_sample_at_its_own_size(shapes: Path) -> None:
    val = open_dataset(shapes, "val")
    for (seen, sample), original in zip(evaluation_samples(val, None, 2), val, strict=True):
        assert sample.id == original.id
        assert torch.equal(seen, original.image)
        assert torch.equal(sample.mask, original.mask)
