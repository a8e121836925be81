"""Mixing: every pixel comes from where it should, with all that is its own, and only the seed decides how."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config.train import AugmentConfig
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID
from segdistill.data.mixing import MIXUP_BETA, copy_paste, cutmix, draw_derangement, mix, mixup

pytestmark = pytest.mark.unit
SWAP = torch.tensor([1, 0])


def batch(count: int = 2, side: int = 6, classes: int = 4, seed: int = 0) -> Batch:
    """Images whose every pixel has a value of its own, so that it tells where it came from."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.arange(count * 3 * side * side, dtype=torch.float32).view(count, 3, side, side)
    mask = torch.randint(0, classes, (count, side, side), generator=generator)
    mask[:, 0] = VOID
    valid = torch.ones(count, side, side, dtype=torch.bool)
    valid[0, :, -1] = False
    teacher_logits = torch.randn(count, classes, side, side, generator=generator).half()
    teacher_features = torch.randn(count, 7, side, side, generator=generator).half()
    return Batch(
        image, mask, valid, [str(i) for i in range(count)], teacher_logits, teacher_features=teacher_features
    )


def assert_from(mixed: Batch, plain: Batch, index_b: torch.Tensor, pasted: torch.Tensor) -> None:
    """Whether all of a pixel is the other image's where `pasted`, and the image's own elsewhere."""
    for name in ("image", "mask", "valid", "teacher_logits", "teacher_features"):
        before, after = getattr(plain, name), getattr(mixed, name)
        for i, target_b in enumerate(index_b.tolist()):
            where = pasted[i].expand_as(after[i])
            assert torch.equal(after[i][where], before[target_b][where]), name
            assert torch.equal(after[i][~where], before[i][~where]), name
    assert mixed.target_b is None
    assert mixed.lam is None


@given(count=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_partners_are_an_order_in_which_none_keeps_its_place(count: int, seed: int) -> None:
    index_b = draw_derangement(count, np.random.default_rng(seed))
    assert sorted(index_b.tolist()) == list(range(count))
    assert all(target_b != i for i, target_b in enumerate(index_b.tolist()))


@given(count=st.integers(2, 4), side=st.integers(1, 9), seed=st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_cutmix_takes_every_pixel_from_exactly_one_of_two_images(count: int, side: int, seed: int) -> None:
    plain, rng = batch(count, side), np.random.default_rng(seed)
    index_b = draw_derangement(count, rng)
    mixed = cutmix(plain, index_b, rng)
    pasted = (mixed.image != plain.image)[:, 0]
    assert_from(mixed, plain, index_b, pasted)
    for box in pasted:  # it is a box: rows times columns
        assert torch.equal(box, box.any(dim=1)[:, None] & box.any(dim=0))


def test_cutmix_boxes_have_any_size() -> None:
    plain = batch(512, 16)
    rng = np.random.default_rng(0)
    mixed = cutmix(plain, draw_derangement(512, rng), rng)
    shares = (mixed.image != plain.image)[:, 0].float().mean(dim=(1, 2))
    # A box of lam u has sides of e = sqrt(u), of which e - e^2 / 4 stays inside, averaged over the centres:
    # E[(e - e^2 / 4)^2] = E[u] - E[u^1.5] / 2 + E[u^2] / 16 = 1 / 2 - 1 / 5 + 1 / 48
    assert shares.mean() == pytest.approx(0.3208, abs=0.03)
    assert shares.min() < 0.05
    assert shares.max() > 0.6


def test_mixup_blends_images_and_keeps_both_masks() -> None:
    plain, rng = batch(), np.random.default_rng(5)
    mixed = mixup(plain, SWAP, rng)
    lam = np.random.default_rng(5).beta(MIXUP_BETA, MIXUP_BETA, 2)
    assert mixed.lam is not None
    assert mixed.target_b is not None
    assert mixed.lam.dtype == torch.float32
    assert mixed.lam.tolist() == pytest.approx(lam.tolist(), rel=1e-6)
    for i, other in ((0, 1), (1, 0)):
        expected = lam[i] * plain.image[i] + (1 - lam[i]) * plain.image[other]
        torch.testing.assert_close(mixed.image[i], expected.float())
        assert torch.equal(mixed.target_b[i], plain.mask[other])
    assert torch.equal(mixed.mask, plain.mask)
    assert not mixed.valid[:, :, -1].any()  # one of the two has nothing there
    assert mixed.valid[:, :, :-1].all()


def test_mixup_blends_the_teachers_probabilities() -> None:
    plain = batch()
    mixed = mixup(plain, SWAP, np.random.default_rng(5))
    assert mixed.teacher_logits is not None
    assert plain.teacher_logits is not None
    assert mixed.lam is not None
    assert mixed.teacher_logits.dtype == torch.float16
    known, weight = F.softmax(plain.teacher_logits.float(), dim=1), mixed.lam[:, None, None, None]
    torch.testing.assert_close(
        F.softmax(mixed.teacher_logits.float(), dim=1), weight * known + (1 - weight) * known[SWAP],
        atol=2e-3, rtol=2e-3,
    )  # fmt: skip


def test_a_share_of_nothing_leaves_the_knowledge_finite() -> None:
    class Certain(np.random.Generator):
        """Draws the ends of the range."""

        def beta(self, a: object, b: object, size: object = None) -> np.ndarray:
            return np.array([0.0, 1.0])

    plain = batch()
    mixed = mixup(plain, SWAP, Certain(np.random.PCG64(0)))
    assert mixed.teacher_logits is not None
    assert plain.teacher_logits is not None
    expected = F.log_softmax(plain.teacher_logits[[1, 1]].float(), dim=1)
    torch.testing.assert_close(mixed.teacher_logits.float(), expected, atol=2e-3, rtol=2e-3)


def columns(*labels: int) -> torch.Tensor:
    """A mask with one column per label."""
    return torch.tensor(labels).expand(6, len(labels)).clone()


def test_copy_paste_takes_half_of_the_partners_classes_with_their_pixels() -> None:
    plain = replace(
        batch(classes=8), mask=torch.stack([columns(0, 0, 1, 0, 0, 0), columns(0, 2, 3, 5, 7, VOID)])
    )
    pairs = set()
    for seed in range(40):
        mixed = copy_paste(plain, SWAP, np.random.default_rng(seed))
        pasted = (mixed.image != plain.image)[:, 0]
        assert_from(mixed, plain, SWAP, pasted)
        assert pasted[1].sum() == 6  # the one class of the first image, class 0 never
        assert pasted[1, :, 2].all()
        chosen = plain.mask[1][pasted[0]].unique().tolist()
        assert len(chosen) == 2
        assert torch.equal(pasted[0], torch.isin(plain.mask[1], torch.tensor(chosen)))
        pairs.add(tuple(chosen))
    assert pairs == {(2, 3), (2, 5), (2, 7), (3, 5), (3, 7), (5, 7)}


def test_half_of_three_classes_are_two() -> None:
    plain = replace(batch(), mask=torch.stack([columns(0, 0, 0, 0, 0, 0), columns(0, 1, 2, 3, 3, VOID)]))
    mixed = copy_paste(plain, SWAP, np.random.default_rng(0))
    assert len(plain.mask[1][(mixed.image != plain.image)[0, 0]].unique()) == 2


def test_images_of_background_and_void_paste_nothing() -> None:
    plain = replace(batch(), mask=torch.stack([columns(0, 0, 0, VOID, 0, 0)] * 2))
    mixed = copy_paste(plain, SWAP, np.random.default_rng(0))
    assert_from(mixed, plain, SWAP, torch.zeros(2, 6, 6, dtype=torch.bool))


def test_an_unlabelled_partner_pastes_what_the_cached_teacher_sees() -> None:
    plain = batch()
    teacher_logits = torch.zeros(2, 4, 6, 6)
    teacher_logits[0, 3, :, 4:] = 1  # class 3 on the two last columns, of which the last is padding
    void = torch.full((6, 6), VOID)
    plain = replace(plain, teacher_logits=teacher_logits, mask=torch.stack([void, columns(0, 0, 0, 0, 0, 0)]))
    mixed = copy_paste(plain, SWAP, np.random.default_rng(0))
    expected = torch.zeros(2, 6, 6, dtype=torch.bool)
    expected[1, :, 4] = True
    assert_from(mixed, plain, SWAP, expected)
    assert (mixed.mask[1, :, 4] == VOID).all()  # no label is made up
    unknown = replace(plain, teacher_logits=None)
    assert torch.equal(copy_paste(unknown, SWAP, np.random.default_rng(0)).image, plain.image)


def test_each_way_comes_as_often_as_asked_and_never_two_at_once() -> None:
    plain, rng = batch(), np.random.default_rng(0)
    augment = AugmentConfig(mixup=0.2, cutmix=0.3, copy_paste=0.1)
    mixed = [mix(plain, augment, rng) for _ in range(2000)]
    blended = sum(seen.lam is not None for seen in mixed)
    untouched = sum(seen is plain for seen in mixed)
    assert 330 < blended < 470
    assert 720 < untouched < 880


def test_nothing_is_mixed_unless_asked_or_where_an_image_is_alone() -> None:
    rng = np.random.default_rng(0)
    plain, alone = batch(), batch(count=1)
    assert mix(plain, AugmentConfig(), rng) is plain
    assert all(
        mix(alone, AugmentConfig(**{way: 1.0}), rng) is alone for way in ("mixup", "cutmix", "copy_paste")
    )


@pytest.mark.parametrize("way", ["mixup", "cutmix", "copy_paste"])
def test_the_seed_is_all_that_decides(way: str) -> None:
    augment = AugmentConfig(**{way: 1.0})  # type: ignore[arg-type]
    plain = batch(4, 8)
    plain = replace(plain, image=plain.image.contiguous(memory_format=torch.channels_last))
    first, again, other = (mix(plain, augment, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert first.image.is_contiguous(memory_format=torch.channels_last)
    assert (first.image.dtype, first.mask.dtype, first.id) == (torch.float32, torch.int64, plain.id)
