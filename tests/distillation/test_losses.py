"""The losses of logits against numbers worked out by hand, and the laws that they must keep."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.data.labels import VOID
from segdistill.distillation.losses import (
    channel_loss,
    decoupled_loss,
    dist_loss,
    hard_loss,
    jensen_shannon_loss,
    masked_mean,
    pseudo_label_loss,
    reverse_kl_loss,
    soft_loss,
)

pytestmark = pytest.mark.unit


def pixel(*logits: float) -> torch.Tensor:
    """The logits of an image of one pixel."""
    return torch.tensor(logits).view(1, -1, 1, 1)


EVERYWHERE = torch.ones(1, 1, 1, dtype=torch.bool)


def test_hard_loss_is_the_mean_over_labelled_pixels() -> None:
    # Probabilities (1/4, 3/4) and (1/2, 1/2); true classes 0 and 1; the third pixel is void.
    logits = torch.tensor([[[[0.0, 0.0, 9.0]], [[math.log(3), 0.0, -9.0]]]])
    mask = torch.tensor([[[0, 1, VOID]]])
    # (ln 4 + ln 2) / 2
    assert hard_loss(logits, mask).item() == pytest.approx(1.5 * math.log(2), abs=1e-6)


def test_hard_loss_of_a_void_batch_is_zero_with_a_zero_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = hard_loss(logits, torch.full((2, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_soft_loss_is_the_divergence_summed_over_classes() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_loss(pixel(0, 0), pixel(math.log(3), 0), EVERYWHERE, temperature=1.0).item() == pytest.approx(
        expected
    )


def test_soft_loss_divides_the_logits_by_the_temperature_and_multiplies_by_its_square() -> None:
    # At T = 2 logits (2 ln 3, 0) soften to (3/4, 1/4) again; the loss counts four times.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = soft_loss(pixel(0, 0), pixel(2 * math.log(3), 0), EVERYWHERE, temperature=2.0)
    assert loss.item() == pytest.approx(expected)


def test_soft_loss_is_from_teacher_to_student() -> None:
    # KL(teacher || student) and not the other way: teacher (3/4, 1/4), student (1/4, 3/4) would be symmetric,
    # student (1/2, 1/2) is not: 1/2 ln(2/3) + 1/2 ln(2) = 0.1438 is the wrong one, 0.1308 the right one.
    assert soft_loss(pixel(0, 0), pixel(math.log(3), 0), EVERYWHERE, temperature=1.0).item() == pytest.approx(
        0.1308, abs=1e-4
    )


def test_soft_loss_averages_over_the_pixels_that_take_part() -> None:
    student = torch.zeros(1, 2, 1, 3)
    teacher = torch.tensor([[[[math.log(3), 0.0, 50.0]], [[0.0, 0.0, 0.0]]]])
    valid = torch.tensor([[[True, True, False]]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert soft_loss(student, teacher, valid, temperature=1.0).item() == pytest.approx(expected)


def test_soft_loss_weighs_pixels_alike_and_not_images() -> None:
    # One image takes part with one pixel of loss 0, the other with three of loss L: 3 L / 4, not L / 2.
    student, teacher = torch.zeros(2, 2, 1, 3), torch.zeros(2, 2, 1, 3)
    teacher[1, 0] = math.log(3)
    valid = torch.tensor([[[True, False, False]], [[True, True, True]]])
    expected = 3 / 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_loss(student, teacher, valid, temperature=1.0).item() == pytest.approx(expected)


def test_hard_loss_weighs_pixels_alike_and_not_images() -> None:
    # Probabilities (1/2, 1/2) cost ln 2, in one pixel of the first image; the second is right and sure in
    # all three: ln 2 / 4, not ln 2 / 2.
    logits, mask = torch.zeros(2, 2, 1, 3), torch.tensor([[[0, VOID, VOID]], [[0, 0, 0]]])
    logits[1, 0] = 100
    assert hard_loss(logits, mask).item() == pytest.approx(math.log(2) / 4)


def test_soft_loss_of_equal_logits_is_zero_with_a_zero_gradient() -> None:
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = soft_loss(
        student, student.detach().clone(), torch.ones(2, 4, 4, dtype=torch.bool), temperature=2.0
    )
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-7, rtol=0)


def test_soft_loss_without_pixels_is_zero_with_a_zero_gradient() -> None:
    student = pixel(1.0, 0.0).requires_grad_()
    loss = soft_loss(student, pixel(0, 1), ~EVERYWHERE, temperature=2.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_gradient_of_the_soft_loss() -> None:
    # T^2 d KL / d z = T (q - p): 2 (1/2 - 3/4) for the teacher's likelier class, at T = 2.
    student = pixel(0.0, 0.0).requires_grad_()
    soft_loss(student, pixel(2 * math.log(3), 0), EVERYWHERE, temperature=2.0).backward()
    torch.testing.assert_close(student.grad, pixel(-0.5, 0.5))


def test_soft_loss_stays_finite_for_certain_networks() -> None:
    assert torch.isfinite(soft_loss(pixel(1e4, -1e4), pixel(-1e4, 1e4), EVERYWHERE, temperature=1.0))


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
@settings(max_examples=25, deadline=None)
def test_doubling_the_image_leaves_the_losses_unchanged(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 5, 3, 4, generator=generator)
    mask = torch.randint(0, 5, (2, 3, 4), generator=generator)
    valid = torch.rand(2, 3, 4, generator=generator) > 0.3

    def double(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

    torch.testing.assert_close(hard_loss(student, mask), hard_loss(double(student), double(mask)))
    torch.testing.assert_close(
        soft_loss(student, teacher, valid, temperature=temperature),
        soft_loss(double(student), double(teacher), double(valid), temperature=temperature),
    )


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
@settings(max_examples=25, deadline=None)
def test_soft_loss_is_zero_only_where_both_agree(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 1, 4, 2, 2, generator=generator)
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    assert soft_loss(student, teacher, valid, temperature=temperature) > 0
    # A constant added to all logits of a pixel changes no probability.
    assert soft_loss(student, student + 3, valid, temperature=temperature).item() == pytest.approx(
        0, abs=1e-5
    )


def test_masked_mean_ignores_what_is_not_finite_elsewhere() -> None:
    values = torch.tensor([1.0, 3.0, float("nan")])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 2


# KL of the distributions (3/4, 1/4) || (1/2, 1/2).
QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_smoothing_spreads_part_of_the_target_over_all_classes() -> None:
    # Probabilities (1/4, 3/4), class 1: a smoothing of 0.2 makes the target (0.1, 0.9).
    loss = hard_loss(pixel(0, math.log(3)), torch.ones(1, 1, 1, dtype=torch.long), smoothing=0.2)
    assert loss.item() == pytest.approx(0.1 * math.log(4) + 0.9 * math.log(4 / 3))


def test_class_weights_multiply_the_pixels_of_a_class() -> None:
    # Three labelled pixels at ln 2 each, of classes 0, 0 and 1: (1/2 + 1/2 + 2) / 3 of it. Void has none.
    mask = torch.tensor([[[0, 0, 1, VOID]]])
    loss = hard_loss(torch.zeros(1, 2, 1, 4), mask, weights=torch.tensor([0.5, 2.0]))
    assert loss.item() == pytest.approx(math.log(2))
    loss = hard_loss(torch.zeros(1, 2, 1, 4), mask, weights=torch.tensor([0.5, 5.0]))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_a_mixed_image_has_the_cross_entropy_of_both_masks() -> None:
    # Probabilities (1/4, 3/4); 3/4 of the image is of class 1, the rest of class 0.
    logits, lam = pixel(0, math.log(3)), torch.tensor([0.75])
    one, zero = torch.ones(1, 1, 1, dtype=torch.long), torch.zeros(1, 1, 1, dtype=torch.long)
    loss = hard_loss(logits, one, target_b=zero, lam=lam)
    assert loss.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    # A void target_b leaves the mean to the mask alone; two void masks have no loss.
    void = torch.full((1, 1, 1), VOID)
    assert hard_loss(logits, one, target_b=void, lam=lam).item() == pytest.approx(math.log(4 / 3))
    assert hard_loss(logits, void, target_b=void, lam=lam) == 0


def test_a_lam_of_one_is_no_mixture() -> None:
    logits, mask = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    mask[0, 0] = VOID
    mixed = hard_loss(logits, mask, target_b=mask.flip(0), lam=torch.ones(2), smoothing=0.1)
    torch.testing.assert_close(mixed, hard_loss(logits, mask, smoothing=0.1))


def test_reverse_kl_is_from_student_to_teacher() -> None:
    # Student (1/2, 1/2), teacher (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2, and four times that at T = 2.
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    loss = reverse_kl_loss(pixel(0, 0), pixel(math.log(3), 0), EVERYWHERE, temperature=1.0)
    assert loss.item() == pytest.approx(expected)
    loss = reverse_kl_loss(pixel(0, 0), pixel(2 * math.log(3), 0), EVERYWHERE, temperature=2.0)
    assert loss.item() == pytest.approx(4 * expected)


def test_pseudo_labels_are_the_teachers_decisions() -> None:
    # Teacher (3/4, 1/4) and (1/10, 9/10): classes 0 and 1. Student (1/2, 1/2) and (1/4, 3/4).
    teacher = torch.tensor([[[[math.log(3), 0.0]], [[0.0, math.log(9)]]]])
    student = torch.tensor([[[[0.0, 0.0]], [[0.0, math.log(3)]]]])
    both = torch.ones(1, 1, 2, dtype=torch.bool)
    loss = pseudo_label_loss(student, teacher, both)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert pseudo_label_loss(student, teacher, both, threshold=0.8).item() == pytest.approx(math.log(4 / 3))
    assert pseudo_label_loss(student, teacher, both, threshold=0.95).item() == 0


def test_jensen_shannon_is_the_mean_divergence_from_the_average() -> None:
    # (1/2, 1/2) and (3/4, 1/4) have the average (5/8, 3/8).
    student = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    teacher = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    loss = jensen_shannon_loss(pixel(0, 0), pixel(math.log(3), 0), EVERYWHERE, temperature=1.0)
    assert loss.item() == pytest.approx((student + teacher) / 2, abs=1e-6)


def test_jensen_shannon_has_a_bound() -> None:
    loss = jensen_shannon_loss(pixel(1e4, 0), pixel(0, 1e4), EVERYWHERE, temperature=2.0)
    assert loss.item() == pytest.approx(4 * math.log(2))


def test_channel_loss_compares_distributions_over_the_positions() -> None:
    # At T = 4 the teacher's class 0 is (3/4, 1/4) over the two positions, its class 1 is even; the student is
    # even in both. Mean over the classes: KL / 2, times 16. The third position takes no part.
    teacher = torch.tensor([[[[4 * math.log(3), 0.0, 90.0]], [[5.0, 5.0, -90.0]]]])
    valid = torch.tensor([[[True, True, False]]])
    loss = channel_loss(torch.zeros(1, 2, 1, 3), teacher, valid)
    assert loss.item() == pytest.approx(16 * QUARTERS / 2, rel=1e-5)
    # A second image without positions does not count; a second equal one changes no mean.
    nowhere, twice = torch.cat([valid, ~valid & False]), torch.cat([valid, valid])
    for both in (nowhere, twice):
        again = channel_loss(torch.zeros(2, 2, 1, 3), torch.cat([teacher, teacher]), both)
        torch.testing.assert_close(again, loss)


def test_dist_correlates_the_classes_of_a_pixel() -> None:
    # (.5, .3, .2) and (.5, .2, .3) minus 1/3 in thirtieths: (5, -1, -4) and (5, -4, -1): 33 / 42 = 11 / 14.
    student, teacher = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.5, 0.2, 0.3]).log()
    loss = dist_loss(student.view(1, 3, 1, 1), teacher.view(1, 3, 1, 1), EVERYWHERE, beta=2.0, gamma=0.0)
    assert loss.item() == pytest.approx(2 * 3 / 14, rel=1e-5)


def test_dist_correlates_the_pixels_of_a_class() -> None:
    # Class 0 over three pixels: (.2, .5, .8) and (.1, .1, .4), minus their means (-.3, 0, .3) and
    # (-.1, -.1, .2): .09 / sqrt(.18 * .06) = sqrt(3) / 2. Class 1 is one minus both. The fourth pixel is out.
    def logits(*first: float) -> torch.Tensor:
        p = torch.tensor(first)
        return torch.stack([p, 1 - p]).log().view(1, 2, 1, -1)

    valid = torch.tensor([[[True, True, True, False]]])
    student, teacher = logits(0.2, 0.5, 0.8, 0.9), logits(0.1, 0.1, 0.4, 0.01)
    loss = dist_loss(student, teacher, valid, beta=0.0, gamma=1.0)
    assert loss.item() == pytest.approx(1 - math.sqrt(3) / 2, rel=1e-5)


def test_dist_of_a_student_without_an_opinion_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = dist_loss(student, torch.randn(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(2)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_decoupled_loss_splits_the_true_class_from_the_others() -> None:
    # Teacher (1/2, 3/8, 1/8), student (1/3, 1/3, 1/3), true class 0. True against others: KL of (1/2, 1/2)
    # and (1/3, 2/3); among the others: KL of (3/4, 1/4) and (1/2, 1/2).
    teacher, mask = torch.tensor([1 / 2, 3 / 8, 1 / 8]).log().view(1, 3, 1, 1), torch.tensor([[[0]]])
    target = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    loss = decoupled_loss(pixel(0, 0, 0), teacher, EVERYWHERE, mask, alpha=2.0, beta=3.0)
    assert loss.item() == pytest.approx(2 * target + 3 * QUARTERS, rel=1e-5)
    # With the others weighed by the teacher's doubt, 1/2 here, it is the plain KL.
    loss = decoupled_loss(pixel(0, 0, 0), teacher, EVERYWHERE, mask, alpha=1.0, beta=0.5)
    assert loss.item() == pytest.approx(
        soft_loss(pixel(0, 0, 0), teacher, EVERYWHERE, temperature=1.0).item(), rel=1e-5
    )


def test_decoupled_loss_leaves_void_out() -> None:
    student, teacher = torch.randn(2, 1, 3, 1, 2)
    mask = torch.tensor([[[1, VOID]]])
    both = torch.ones(1, 1, 2, dtype=torch.bool)
    alone = decoupled_loss(student[..., :1], teacher[..., :1], EVERYWHERE, mask[..., :1])
    torch.testing.assert_close(decoupled_loss(student, teacher, both, mask), alone)
