"""What every loss of the table must keep: scale, precision, void, finite gradients, zero for equals."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segdistill.data.labels import VOID
from segdistill.distillation.table import FEATURE_LOSSES, LOSSES

pytestmark = pytest.mark.unit
OPTIONS: dict[str, dict[str, Any]] = {"pairwise": {"patches": 2}, "mgd": {"masked": 0.0}}
every_loss = pytest.mark.parametrize("name", list(LOSSES))


def inputs(seed: int = 0) -> dict[str, Any]:
    """Random tensors: 2 images of 4 x 6 pixels, 5 classes, 7 channels; some void, some padded."""
    generator = torch.Generator().manual_seed(seed)

    def normal(channels: int) -> Tensor:
        return torch.randn(2, channels, 4, 6, generator=generator)

    mask = torch.randint(0, 4, (2, 4, 6), generator=generator)
    mask[0, :2, :2] = VOID
    valid = torch.rand(2, 4, 6, generator=generator) > 0.2
    features = {key: normal(7) for key in ("student_features", "teacher_features")}
    features["adapted_features"] = features["student_features"]
    return {
        "student_logits": normal(5),
        "teacher_logits": normal(5),
        "mask": mask,
        "soft_valid": valid,
        "valid": valid,
        "generator": nn.Identity(),
        **features,
    }


def compute(name: str, given: dict[str, Any]) -> Tensor:
    loss = LOSSES[name]
    return loss.function(*(given[key] for key in loss.inputs), **OPTIONS.get(name, {}))


def learner(name: str) -> str:
    """Which input is the student's."""
    names = ("student_logits", "adapted_features", "student_features")
    return next(key for key in names if key in LOSSES[name].inputs)


def gradient(name: str, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by the student's logits or features."""
    student = given[learner(name)].clone().requires_grad_()
    loss = compute(name, given | {learner(name): student})
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


def test_the_losses_of_features_are_those_that_the_settings_name() -> None:
    assert {"cosine", "fitnet", "attention", "pairwise", "ifvd", "mgd"} == FEATURE_LOSSES


@every_loss
def test_the_arguments_have_one_order(name: str) -> None:
    parameters = inspect.signature(LOSSES[name].function).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    aliases = {"soft_valid": "valid", "adapted_features": "student_features"}
    assert names == [aliases.get(key, key) for key in LOSSES[name].inputs]
    order = ["student_logits", "student_features", "teacher_logits", "teacher_features", "valid", "mask"]
    assert names == sorted(names, key=[*order, "generator"].index)


@every_loss
@pytest.mark.parametrize("seed", range(5))
def test_doubling_the_image_leaves_a_loss_unchanged(name: str, seed: int) -> None:
    given = inputs(seed)
    doubled = {
        key: x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) if isinstance(x, Tensor) else x
        for key, x in given.items()
    }
    assert compute(name, given) > 0
    torch.testing.assert_close(compute(name, doubled), compute(name, given))


@every_loss
def test_repeating_the_batch_leaves_a_loss_unchanged(name: str) -> None:
    given = inputs()
    twice = {key: torch.cat([x, x]) if isinstance(x, Tensor) else x for key, x in given.items()}
    torch.testing.assert_close(compute(name, twice), compute(name, given))


@every_loss
def test_a_loss_is_computed_in_float32(name: str) -> None:
    given = inputs()
    halved = {
        key: x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x
        for key, x in given.items()
    }
    exact = {
        key: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in halved.items()
    }
    assert compute(name, halved).dtype == torch.float32
    assert torch.equal(compute(name, halved), compute(name, exact))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = compute(name, exact)
    assert torch.equal(under, compute(name, exact))


@every_loss
def test_no_valid_pixel_is_zero_with_a_zero_gradient(name: str) -> None:
    nowhere = torch.zeros(2, 4, 6, dtype=torch.bool)
    given = inputs() | {"mask": torch.full((2, 4, 6), VOID), "soft_valid": nowhere, "valid": nowhere}
    loss, slope = gradient(name, given)
    assert loss == 0
    assert torch.equal(slope, torch.zeros_like(slope))


@every_loss
def test_padding_and_void_have_no_gradient(name: str) -> None:
    given = inputs()
    given["mask"][~given["valid"]] = VOID
    _, slope = gradient(name, given)
    outside = slope.movedim(1, -1)[~given["valid"]]
    assert torch.equal(outside, torch.zeros_like(outside))
    assert (slope != 0).any()


@every_loss
@pytest.mark.parametrize("size", [0.0, 1e-4, 1e4])
def test_the_gradient_is_finite_for_extreme_networks(name: str, size: float) -> None:
    given = inputs()
    for key in ("student_logits", "student_features", "adapted_features"):
        given[key] = given[key] * size
    loss, slope = gradient(name, given)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


@every_loss
def test_a_student_that_equals_its_teacher_has_no_loss(name: str) -> None:
    given = inputs()
    if name in {"ohem", "dice", "lovasz"}:  # whose teacher is the mask
        truth = nn.functional.one_hot(given["mask"] % VOID, 5).movedim(-1, 1)
        given["student_logits"] = 100.0 * truth
    if name == "pseudo_label":  # which wants to be as sure as can be
        given["student_logits"] = 1e4 * given["student_logits"]
    for kind in ("logits", "features"):
        given[f"teacher_{kind}"] = given[f"student_{kind}"].clone()
    loss, slope = gradient(name, given)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-5, rtol=0)


@every_loss
def test_the_gradient_leads_downhill(name: str) -> None:
    given = inputs()
    before, slope = gradient(name, given)
    step = 0.01 * before / slope.square().sum()
    after = compute(name, given | {learner(name): given[learner(name)] - step * slope})
    # To first order a step of s along the gradient g lowers the loss by s |g|^2: one per cent of it.
    assert after.item() == pytest.approx(0.99 * before.item(), rel=3e-3)
