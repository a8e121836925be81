"""The losses against numbers worked out by hand, and the laws that they must keep."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.data.labels import VOID
from segdistill.distillation.losses import cosine_loss, hard_loss, masked_mean, soft_loss

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
    assert soft_loss(pixel(0, 0), pixel(math.log(3), 0), 1.0, EVERYWHERE).item() == pytest.approx(expected)


def test_soft_loss_divides_the_logits_by_the_temperature_and_multiplies_by_its_square() -> None:
    # At T = 2 logits (2 ln 3, 0) soften to (3/4, 1/4) again; the loss counts four times.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = soft_loss(pixel(0, 0), pixel(2 * math.log(3), 0), 2.0, EVERYWHERE)
    assert loss.item() == pytest.approx(expected)


def test_soft_loss_is_from_teacher_to_student() -> None:
    # KL(teacher || student) and not the other way: teacher (3/4, 1/4), student (1/4, 3/4) would be symmetric,
    # student (1/2, 1/2) is not: 1/2 ln(2/3) + 1/2 ln(2) = 0.1438 is the wrong one, 0.1308 the right one.
    assert soft_loss(pixel(0, 0), pixel(math.log(3), 0), 1.0, EVERYWHERE).item() == pytest.approx(
        0.1308, abs=1e-4
    )


def test_soft_loss_averages_over_the_pixels_that_take_part() -> None:
    student = torch.zeros(1, 2, 1, 3)
    teacher = torch.tensor([[[[math.log(3), 0.0, 50.0]], [[0.0, 0.0, 0.0]]]])
    where = torch.tensor([[[True, True, False]]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert soft_loss(student, teacher, 1.0, where).item() == pytest.approx(expected)


def test_soft_loss_weighs_pixels_alike_and_not_images() -> None:
    # One image takes part with one pixel of loss 0, the other with three of loss L: 3 L / 4, not L / 2.
    student, teacher = torch.zeros(2, 2, 1, 3), torch.zeros(2, 2, 1, 3)
    teacher[1, 0] = math.log(3)
    where = torch.tensor([[[True, False, False]], [[True, True, True]]])
    expected = 3 / 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_loss(student, teacher, 1.0, where).item() == pytest.approx(expected)


def test_hard_loss_weighs_pixels_alike_and_not_images() -> None:
    # Probabilities (1/2, 1/2) cost ln 2, in one pixel of the first image; the second is right and sure in
    # all three: ln 2 / 4, not ln 2 / 2.
    logits, mask = torch.zeros(2, 2, 1, 3), torch.tensor([[[0, VOID, VOID]], [[0, 0, 0]]])
    logits[1, 0] = 100
    assert hard_loss(logits, mask).item() == pytest.approx(math.log(2) / 4)


def test_soft_loss_of_equal_logits_is_zero_with_a_zero_gradient() -> None:
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = soft_loss(student, student.detach().clone(), 2.0, torch.ones(2, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-7, rtol=0)


def test_soft_loss_without_pixels_is_zero_with_a_zero_gradient() -> None:
    student = pixel(1.0, 0.0).requires_grad_()
    loss = soft_loss(student, pixel(0, 1), 2.0, ~EVERYWHERE)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_gradient_of_the_soft_loss() -> None:
    # T^2 d KL / d z = T (q - p): 2 (1/2 - 3/4) for the teacher's likelier class, at T = 2.
    student = pixel(0.0, 0.0).requires_grad_()
    soft_loss(student, pixel(2 * math.log(3), 0), 2.0, EVERYWHERE).backward()
    torch.testing.assert_close(student.grad, pixel(-0.5, 0.5))


def test_soft_loss_stays_finite_for_certain_networks() -> None:
    assert torch.isfinite(soft_loss(pixel(1e4, -1e4), pixel(-1e4, 1e4), 1.0, EVERYWHERE))


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
@settings(max_examples=25, deadline=None)
def test_doubling_the_image_leaves_the_losses_unchanged(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 5, 3, 4, generator=generator)
    mask = torch.randint(0, 5, (2, 3, 4), generator=generator)
    where = torch.rand(2, 3, 4, generator=generator) > 0.3

    def double(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

    torch.testing.assert_close(hard_loss(student, mask), hard_loss(double(student), double(mask)))
    torch.testing.assert_close(
        soft_loss(student, teacher, temperature, where),
        soft_loss(double(student), double(teacher), temperature, double(where)),
    )


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
@settings(max_examples=25, deadline=None)
def test_soft_loss_is_zero_only_where_both_agree(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 1, 4, 2, 2, generator=generator)
    where = torch.ones(1, 2, 2, dtype=torch.bool)
    assert soft_loss(student, teacher, temperature, where) > 0
    # A constant added to all logits of a pixel changes no probability.
    assert soft_loss(student, student + 3, temperature, where).item() == pytest.approx(0, abs=1e-5)


def test_losses_of_bfloat16_are_computed_in_float32() -> None:
    student, teacher = torch.randn(2, 1, 3, 4, 4).bfloat16()
    where, mask = torch.ones(1, 4, 4, dtype=torch.bool), torch.randint(0, 3, (1, 4, 4))
    for loss, exact in (
        (hard_loss(student, mask), hard_loss(student.float(), mask)),
        (soft_loss(student, teacher, 2.0, where), soft_loss(student.float(), teacher.float(), 2.0, where)),
        (cosine_loss(student, teacher, where), cosine_loss(student.float(), teacher.float(), where)),
    ):
        assert loss.dtype == torch.float32
        assert torch.equal(loss, exact)


def test_losses_stay_in_float32_under_autocast() -> None:
    student, teacher = torch.randn(2, 1, 3, 4, 4)
    where = torch.ones(1, 4, 4, dtype=torch.bool)
    exact = soft_loss(student, teacher, 2.0, where), cosine_loss(student, teacher, where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (soft_loss(student, teacher, 2.0, where), cosine_loss(student, teacher, where)) == exact


def test_cosine_loss_measures_the_angle() -> None:
    student = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])  # directions 0 and 45 degrees
    teacher = torch.tensor([[[[5.0, 0.0]], [[0.0, 2.0]]]])  # directions 0 and 90 degrees
    where = torch.ones(1, 1, 2, dtype=torch.bool)
    # (1 - cos 0 + 1 - cos 45) / 2
    assert cosine_loss(student, teacher, where).item() == pytest.approx((1 - math.sqrt(0.5)) / 2, abs=1e-6)


def test_cosine_loss_resizes_the_teacher_and_the_places() -> None:
    student, teacher = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2)
    student[:, :, :, 2:] = -1
    where = torch.zeros(1, 8, 8, dtype=torch.bool)
    where[:, :, :4] = True
    assert cosine_loss(student, teacher, where).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(student, teacher, ~where).item() == pytest.approx(2, abs=1e-6)


def test_cosine_loss_without_positions_is_zero() -> None:
    features = torch.randn(1, 3, 2, 2)
    assert cosine_loss(features, -features, torch.zeros(1, 2, 2, dtype=torch.bool)).item() == 0


def test_masked_mean_ignores_what_is_not_finite_elsewhere() -> None:
    values = torch.tensor([1.0, 3.0, float("nan")])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 2
