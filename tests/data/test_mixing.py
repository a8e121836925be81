"""Mixing: every pixel comes from where it should, with all that is its own, and only the seed decides how."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.config import AugmentConfig
from segdistill.data.labels import VOID
from segdistill.data.loaders import Batch
from segdistill.data.mixing import MIXUP_BETA, copy_paste, cutmix, draw_partners, mix, mixup

pytestmark = pytest.mark.unit
SWAP = torch.tensor([1, 0])


def batch(count: int = 2, side: int = 6, classes: int = 4, seed: int = 0) -> Batch:
    """Images whose every pixel has a value of its own, so that it tells where it came from."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.arange(count * 3 * side * side, dtype=torch.float32).view(count, 3, side, side)
    mask = torch.randint(0, classes, (count, side, side), generator=generator)
    mask[:, 0] = VOID
    inside = torch.ones(count, side, side, dtype=torch.bool)
    inside[0, :, -1] = False
    knowledge = torch.randn(count, classes, side, side, generator=generator).half()
    features = torch.randn(count, 7, side, side, generator=generator).half()
    return Batch(image, mask, inside, [str(i) for i in range(count)], knowledge, features=features)


def assert_from(mixed: Batch, plain: Batch, partners: torch.Tensor, pasted: torch.Tensor) -> None:
    """Whether all that belongs to a pixel is the partner's where `pasted`, and the image's own elsewhere."""
    for name in ("image", "mask", "inside", "knowledge", "features"):
        before, after = getattr(plain, name), getattr(mixed, name)
        for i, partner in enumerate(partners.tolist()):
            where = pasted[i].expand_as(after[i])
            assert torch.equal(after[i][where], before[partner][where]), name
            assert torch.equal(after[i][~where], before[i][~where]), name
    assert mixed.partner is None
    assert mixed.share is None


@given(count=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_partners_are_an_order_in_which_none_keeps_its_place(count: int, seed: int) -> None:
    partners = draw_partners(count, np.random.default_rng(seed))
    assert sorted(partners.tolist()) == list(range(count))
    assert all(partner != i for i, partner in enumerate(partners.tolist()))


@given(count=st.integers(2, 4), side=st.integers(1, 9), seed=st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_cutmix_takes_every_pixel_from_exactly_one_of_two_images(count: int, side: int, seed: int) -> None:
    plain, rng = batch(count, side), np.random.default_rng(seed)
    partners = draw_partners(count, rng)
    mixed = cutmix(plain, partners, rng)
    pasted = (mixed.image != plain.image)[:, 0]
    assert_from(mixed, plain, partners, pasted)
    for box in pasted:  # it is a box: rows times columns
        assert torch.equal(box, box.any(dim=1)[:, None] & box.any(dim=0))


def test_cutmix_boxes_have_any_size() -> None:
    plain = batch(512, 16)
    rng = np.random.default_rng(0)
    mixed = cutmix(plain, draw_partners(512, rng), rng)
    shares = (mixed.image != plain.image)[:, 0].float().mean(dim=(1, 2))
    # A box of share u has sides of e = sqrt(u), of which e - e^2 / 4 stays inside, averaged over the centres:
    # E[(e - e^2 / 4)^2] = E[u] - E[u^1.5] / 2 + E[u^2] / 16 = 1 / 2 - 1 / 5 + 1 / 48
    assert shares.mean() == pytest.approx(0.3208, abs=0.03)
    assert shares.min() < 0.05
    assert shares.max() > 0.6


def test_mixup_blends_images_and_keeps_both_masks() -> None:
    plain, rng = batch(), np.random.default_rng(5)
    mixed = mixup(plain, SWAP, rng)
    share = np.random.default_rng(5).beta(MIXUP_BETA, MIXUP_BETA, 2)
    assert mixed.share is not None
    assert mixed.partner is not None
    assert mixed.share.dtype == torch.float32
    assert mixed.share.tolist() == pytest.approx(share.tolist(), rel=1e-6)
    for i, other in ((0, 1), (1, 0)):
        expected = share[i] * plain.image[i] + (1 - share[i]) * plain.image[other]
        torch.testing.assert_close(mixed.image[i], expected.float())
        assert torch.equal(mixed.partner[i], plain.mask[other])
    assert torch.equal(mixed.mask, plain.mask)
    assert not mixed.inside[:, :, -1].any()  # one of the two has nothing there
    assert mixed.inside[:, :, :-1].all()


def test_mixup_blends_the_teachers_probabilities() -> None:
    plain = batch()
    mixed = mixup(plain, SWAP, np.random.default_rng(5))
    assert mixed.knowledge is not None
    assert plain.knowledge is not None
    assert mixed.share is not None
    assert mixed.knowledge.dtype == torch.float16
    known, weight = F.softmax(plain.knowledge.float(), dim=1), mixed.share[:, None, None, None]
    torch.testing.assert_close(
        F.softmax(mixed.knowledge.float(), dim=1), weight * known + (1 - weight) * known[SWAP],
        atol=2e-3, rtol=2e-3,
    )  # fmt: skip


def test_a_share_of_nothing_leaves_the_knowledge_finite() -> None:
    class Certain(np.random.Generator):
        """Draws the ends of the range."""

        def beta(self, a: object, b: object, size: object = None) -> np.ndarray:
            return np.array([0.0, 1.0])

    plain = batch()
    mixed = mixup(plain, SWAP, Certain(np.random.PCG64(0)))
    assert mixed.knowledge is not None
    assert plain.knowledge is not None
    expected = F.log_softmax(plain.knowledge[[1, 1]].float(), dim=1)
    torch.testing.assert_close(mixed.knowledge.float(), expected, atol=2e-3, rtol=2e-3)


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
    knowledge = torch.zeros(2, 4, 6, 6)
    knowledge[0, 3, :, 4:] = 1  # class 3 on the two last columns, of which the last is padding
    void = torch.full((6, 6), VOID)
    plain = replace(plain, knowledge=knowledge, mask=torch.stack([void, columns(0, 0, 0, 0, 0, 0)]))
    mixed = copy_paste(plain, SWAP, np.random.default_rng(0))
    expected = torch.zeros(2, 6, 6, dtype=torch.bool)
    expected[1, :, 4] = True
    assert_from(mixed, plain, SWAP, expected)
    assert (mixed.mask[1, :, 4] == VOID).all()  # no label is made up
    unknown = replace(plain, knowledge=None)
    assert torch.equal(copy_paste(unknown, SWAP, np.random.default_rng(0)).image, plain.image)


def test_each_way_comes_as_often_as_asked_and_never_two_at_once() -> None:
    plain, rng = batch(), np.random.default_rng(0)
    augment = AugmentConfig(mixup=0.2, cutmix=0.3, copy_paste=0.1)
    mixed = [mix(plain, augment, rng) for _ in range(2000)]
    blended = sum(seen.share is not None for seen in mixed)
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
