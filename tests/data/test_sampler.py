"""The stream of crop keys: one shuffled pass after the other, shared by processes, and resumable."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config.train import TrainConfig
from segdistill.data.sampler import CropSampler, Pool, RankSlice, crop_size_at

pytestmark = pytest.mark.unit


def sampler(
    length: int, batch: int, steps: range, seed: int, accumulate: int = 1, rank: int = 0, world: int = 1
) -> CropSampler:
    return CropSampler(
        [Pool(range(length), batch)], steps, seed, lambda step: 24, accumulate, RankSlice(rank, world)
    )


def test_each_epoch_shows_each_sample_once() -> None:
    pairs = [(epoch, index) for batch in sampler(10, 4, range(5), seed=0) for epoch, index, _ in batch]
    for epoch in (0, 1):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(10))
    orders = [[index for e, index in pairs if e == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_a_resumed_order_is_the_rest_of_the_whole_one() -> None:
    whole = list(sampler(10, 4, range(12), seed=3))
    assert list(sampler(10, 4, range(7, 12), seed=3)) == whole[7:]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_processes_and_passes_share_a_batch(world: int, accumulate: int) -> None:
    whole = list(sampler(10, 8, range(6), seed=3))
    slices = [
        list(sampler(10, 8, range(6), seed=3, accumulate=accumulate, rank=rank, world=world))
        for rank in range(world)
    ]
    assert [len(own) for own in slices] == [6 * accumulate] * world
    for step, batch in enumerate(whole):
        shared = [p for own in slices for micro in own[step * accumulate :][:accumulate] for p in micro]
        assert sorted(shared) == sorted(batch)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is 10, but must be a multiple of 4"):
        sampler(10, 10, range(1), seed=0, accumulate=2, world=2)


@given(
    length=st.integers(1, 12), world=st.integers(1, 4), micro=st.integers(1, 5), first=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_stream_is_one_shuffled_pass_after_the_other(
    length: int, world: int, micro: int, first: int, seed: int
) -> None:
    batch, steps = world * micro, range(0, 12)
    whole = list(sampler(length, batch, steps, seed))
    stream = [pair for step in whole for pair in step]
    for start in range(0, len(stream) - length + 1, length):
        assert sorted(stream[start : start + length]) == [(start // length, i, 24) for i in range(length)]
    assert list(sampler(length, batch, steps[first:], seed)) == whole[first:]
    ranks = [list(sampler(length, batch, steps, seed, rank=r, world=world)) for r in range(world)]
    assert [[p for rank in ranks for p in rank[step]] for step in steps] == whole


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Labelled and unlabelled images in all, of each in a batch, and processes that both are for."""
    count, micro = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    unlabelled = draw(st.integers(count, count * micro - count))
    return draw(st.integers(1, 9)), draw(st.integers(1, 9)), count * micro - unlabelled, unlabelled, count


@given(shares=shares(), first=st.integers(0, 9), seed=st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_each_pool_is_one_shuffled_pass_after_the_other(
    shares: tuple[int, int, int, int, int], first: int, seed: int
) -> None:
    labelled, unlabelled, few, many, world = shares
    mixed = [Pool(range(labelled), few), Pool(range(labelled, labelled + unlabelled), many)]
    steps = range(10)

    def drawn(steps: range, *split: int) -> list[list[tuple[int, int, int]]]:
        return list(CropSampler(mixed, steps, seed, lambda step: 8, process=RankSlice(*split)))

    whole = drawn(steps)
    assert drawn(steps[first:]) == whole[first:]
    for pool in mixed:
        stream = [key for step in whole for key in step if key[1] in pool.indices]
        assert len(stream) == pool.drawn * len(steps)
        length = len(pool.indices)
        for start in range(0, len(stream) - length + 1, length):
            assert sorted(stream[start : start + length]) == [(start // length, i, 8) for i in pool.indices]
    ranks = [drawn(steps, rank, world) for rank in range(world)]
    for step, batch in enumerate(whole):
        micros = [rank[step] for rank in ranks]
        assert sorted(key for micro in micros for key in micro) == sorted(batch)
        assert {len(micro) for micro in micros} == {(few + many) // world}
        assert all({key[1] < labelled for key in micro} == {True, False} for micro in micros)


def test_a_share_too_small_for_every_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batches of 7 \+ 1 images, but each of the 2 micro-batches"):
        CropSampler([Pool(range(9), 7), Pool(range(9, 12), 1)], range(1), 0, lambda step: 8, accumulate=2)


def test_the_crop_size_is_a_function_of_the_step() -> None:
    rising = TrainConfig(size=64, progressive=[(0.25, 24), (0.5, 40)])
    assert [crop_size_at(rising, step, 8) for step in range(8)] == [24, 24, 40, 40, 64, 64, 64, 64]
    assert {crop_size_at(TrainConfig(size=64), step, 8) for step in range(8)} == {64}
