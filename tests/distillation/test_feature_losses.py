"""The losses of features against numbers worked out by hand; their common laws are in test_laws.py."""

import math

import pytest
import torch

from segdistill.data.labels import VOID
from segdistill.distillation.feature_losses import (
    attention_loss,
    cosine_loss,
    fitnet_loss,
    ifvd_loss,
    mgd_loss,
    pairwise_loss,
    standardise,
)

pytestmark = pytest.mark.unit
BOTH = torch.ones(1, 1, 2, dtype=torch.bool)


def vectors(*each: tuple[float, ...]) -> torch.Tensor:
    """The features of an image of one row, a vector for each position."""
    return torch.tensor(each).T[None, :, None]


def test_cosine_loss_measures_the_angle() -> None:
    student = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])  # directions 0 and 45 degrees
    teacher = torch.tensor([[[[5.0, 0.0]], [[0.0, 2.0]]]])  # directions 0 and 90 degrees
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    # (1 - cos 0 + 1 - cos 45) / 2
    assert cosine_loss(student, teacher, valid).item() == pytest.approx((1 - math.sqrt(0.5)) / 2, abs=1e-6)


def test_cosine_loss_resizes_the_teacher_and_the_valid_positions() -> None:
    student, teacher = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2)
    student[:, :, :, 2:] = -1
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[:, :, :4] = True
    assert cosine_loss(student, teacher, valid).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(student, teacher, ~valid).item() == pytest.approx(2, abs=1e-6)


def test_cosine_loss_without_positions_is_zero() -> None:
    features = torch.randn(1, 3, 2, 2)
    assert cosine_loss(features, -features, torch.zeros(1, 2, 2, dtype=torch.bool)).item() == 0


def test_fitnet_loss_is_the_mean_square_over_channels_and_positions() -> None:
    # Differences (1, 2) and (0, 3): (1 + 4 + 0 + 9) / 4. Of the first position alone 5 / 2.
    student, teacher = vectors((1.0, 1.0), (0.0, 0.0)), vectors((2.0, 3.0), (0.0, 3.0))
    assert fitnet_loss(student, teacher, BOTH).item() == pytest.approx(3.5)
    assert fitnet_loss(student, teacher, torch.tensor([[[True, False]]])).item() == pytest.approx(2.5)


def test_standardised_channels_have_mean_0_and_deviation_1_where_it_counts() -> None:
    # Of (1, 3) the mean is 2 and the deviation 1; of (5, 5) nothing is left; the third position is padding.
    features = vectors((1.0, 5.0), (3.0, 5.0), (100.0, 7.0))
    valid = torch.tensor([[[True, True, False]]])
    found = standardise(features, valid)[..., :2]
    torch.testing.assert_close(found, vectors((-1.0, 0.0), (1.0, 0.0)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("deviation", [1e-12, 1e-4, 1e-3, 1.0, 1e6])
def test_standardised_channels_have_deviation_1_at_any_scale(deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = deviation * (3 + torch.randn(2, 4, 6, 6, generator=generator))
    found = standardise(features, torch.ones(2, 6, 6, dtype=torch.bool))
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_small_deviation_around_a_large_mean_becomes_1() -> None:
    found = standardise(vectors((1 - 1e-4,), (1 + 1e-4,)), BOTH)
    torch.testing.assert_close(found, vectors((-1.0,), (1.0,)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -7e-9, 3e7])
def test_a_standardised_constant_is_0(value: float) -> None:
    valid = torch.rand(3, 33, 65, generator=torch.Generator().manual_seed(0)) > 0.3
    found = standardise(torch.full((3, 2, 33, 65), value), valid)
    assert torch.equal(found, torch.zeros_like(found))


def test_the_direction_of_standardised_features_forgets_what_all_share() -> None:
    # Both of the teacher's vectors are close to (10, 10); standardised, they are (-1, -1) and (1, 1).
    student, teacher = vectors((1.0, 1.0), (1.0, 1.0)), vectors((9.0, 9.0), (11.0, 11.0))
    assert cosine_loss(student, teacher, BOTH).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(student, teacher, BOTH, standardised=True).item() == pytest.approx(1, abs=1e-5)
    # Squares of (1 - -1) and (1 - 1), twice each: (4 + 4 + 0 + 0) / 4.
    assert fitnet_loss(student, teacher, BOTH, standardised=True).item() == pytest.approx(2, abs=1e-5)


def test_attention_loss_is_the_distance_of_the_maps_of_strength() -> None:
    # Squares (9, 16), of length sqrt(337), and (1, 0): |a - b|^2 = 2 - 2 a b = 2 - 2 * 9 / sqrt(337).
    student, teacher = vectors((3.0,), (-4.0,)), vectors((0.6, 0.8), (0.0, 0.0))
    expected = 2 - 18 / math.sqrt(337)
    assert attention_loss(student, teacher, BOTH).item() == pytest.approx(expected, abs=1e-5)
    # To the first power the student has (3, 4) / 5.
    first = attention_loss(vectors((3.0,), (-4.0,)), vectors((1.0,), (0.0,)), BOTH, power=1.0)
    assert first.item() == pytest.approx(2 - 6 / 5, abs=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1e2, 1e4, 1e6])
def test_attention_loss_has_no_scale(power: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 4, 6, generator=generator)
    valid = torch.rand(2, 4, 6, generator=generator) > 0.2

    def loss_and_gradient(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = (scale * student).requires_grad_()
        loss = attention_loss(scaled, scale * teacher, valid, power=power)
        loss.backward()
        return loss.detach(), scale * scaled.grad  # the gradient by the features of scale 1

    expected, expected_gradient = loss_and_gradient(1.0)
    loss, gradient = loss_and_gradient(scale)
    assert expected > 0.05
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 8.0])
def test_the_gradient_of_the_attention_loss_is_that_of_its_formula(power: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 2, 3, generator=generator, dtype=torch.float64)
    everywhere = torch.ones(2, 2, 3, dtype=torch.bool)
    student.requires_grad_()

    def unit(features: torch.Tensor) -> torch.Tensor:
        sums = features.abs().pow(power).sum(dim=1).flatten(1)
        return sums / sums.norm(dim=1, keepdim=True)

    formula = (unit(student) - unit(teacher)).square().sum(dim=1).mean()
    (expected,) = torch.autograd.grad(formula, student)
    (found,) = torch.autograd.grad(attention_loss(student, teacher, everywhere, power=power), student)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 8.0])
def test_attention_to_nothing_is_0_and_has_no_gradient(power: float) -> None:
    zeros = torch.zeros(1, 3, 1, 2, requires_grad=True)
    loss = attention_loss(zeros, torch.zeros(1, 2, 1, 2), BOTH, power=power)
    assert loss.item() == 0
    # Against a map of length 1 the distance is 1, and no direction leads away from zero.
    loss = loss + attention_loss(zeros, torch.ones(1, 2, 1, 2), BOTH, power=power)
    assert loss.item() == pytest.approx(1)
    loss.backward()
    assert torch.equal(zeros.grad, torch.zeros_like(zeros))


def test_pairwise_loss_compares_the_similarities_of_patches() -> None:
    # The student's vectors are at right angles, the teacher's are parallel: two of four pairs differ by 1.
    student, teacher = vectors((1.0, 0.0), (0.0, 2.0)), vectors((1.0, 1.0, 1.0), (3.0, 3.0, 3.0))
    assert pairwise_loss(student, teacher, BOTH, patches=2).item() == pytest.approx(0.5)
    # As one patch there is one pair, of the patch and itself; and so it is with one position alone.
    assert pairwise_loss(student, teacher, BOTH, patches=1).item() == pytest.approx(0, abs=1e-6)
    one = torch.tensor([[[True, False]]])
    assert pairwise_loss(student, teacher, one, patches=2).item() == pytest.approx(0, abs=1e-6)


def test_ifvd_loss_compares_how_near_pixels_are_to_the_middle_of_their_class() -> None:
    # Both positions are of one class. The student's are 45 degrees from their mean, the teacher's are on it.
    student, teacher = vectors((1.0, 0.0), (0.0, 1.0)), vectors((1.0,), (5.0,))
    same, other = torch.tensor([[[3, 3]]]), torch.tensor([[[3, 4]]])
    assert ifvd_loss(student, teacher, BOTH, same).item() == pytest.approx(
        (1 - math.sqrt(0.5)) ** 2, abs=1e-6
    )
    # Of two classes each position is its own prototype. A void position is in no prototype, and has no loss.
    assert ifvd_loss(student, teacher, BOTH, other).item() == pytest.approx(0, abs=1e-6)
    void = torch.tensor([[[3, VOID]]])
    assert ifvd_loss(student, teacher, BOTH, void).item() == pytest.approx(0, abs=1e-6)


def test_ifvd_prototypes_are_of_one_image() -> None:
    student = torch.cat([vectors((1.0, 0.0)), vectors((0.0, 1.0))])
    mask, valid = torch.zeros(2, 1, 1, dtype=torch.long), torch.ones(2, 1, 1, dtype=torch.bool)
    assert ifvd_loss(student, student.abs() + 1, valid, mask).item() == pytest.approx(0, abs=1e-6)


def test_mgd_loss_rebuilds_the_teacher_from_what_is_left() -> None:
    student, teacher = vectors((1.0, 1.0), (0.0, 0.0)), vectors((2.0, 3.0), (0.0, 3.0))
    # All hidden: (4 + 9 + 0 + 9) / 4; nothing hidden: as fitnet above. The generator adds nothing here.
    assert mgd_loss(student, teacher, BOTH, torch.nn.Identity(), masked=1.0).item() == pytest.approx(5.5)
    assert mgd_loss(student, teacher, BOTH, torch.nn.Identity(), masked=0.0).item() == pytest.approx(3.5)


def test_mgd_hides_whole_positions_drawn_from_the_global_generator() -> None:
    shown = []

    def generate(features: torch.Tensor) -> torch.Tensor:
        shown.append(features)
        return features

    features, valid = torch.ones(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.bool)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        mgd_loss(features, features, valid, generate, masked=0.75)
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])
    assert torch.equal(shown[0][:, 0], shown[0][:, 2])
    assert shown[0].mean().item() == pytest.approx(0.25, abs=0.06)  # 512 positions: three standard deviations
