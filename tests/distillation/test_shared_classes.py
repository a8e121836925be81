"""A teacher that lacks classes: losses of its logits compare those that both have."""

from typing import Any

import pytest
import torch

from segdistill.config.train import ObjectiveConfig
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID
from segdistill.distillation.forward import Outputs
from segdistill.distillation.losses import hard_loss, soft_loss
from segdistill.distillation.objective import Objective
from segdistill.distillation.region_losses import dice_loss
from segdistill.distillation.table import LOSSES

pytestmark = pytest.mark.unit


def batch() -> Batch:
    mask = torch.randint(0, 3, (2, 16, 16))
    mask[:, :3] = VOID
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[:, :, :2] = False
    return Batch(image=torch.randn(2, 3, 16, 16), mask=mask, valid=valid, id=["a", "b"])


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)


def test_where_the_teacher_lacks_a_class_the_others_are_compared_and_the_masks_teach_it(logits: Any) -> None:
    student, teacher_logits = logits
    losses: Any = {"dkd": 1.0, "dice": 1.0}
    config = ObjectiveConfig(alpha=1.0, beta=1.0, temperature=2, losses=losses)
    views = batch()
    objective = Objective(config, distils=True, shared=[0, 2])
    terms = objective(views, Outputs(student_logits=student, teacher_logits=teacher_logits))
    both = [0, 2]
    soft = soft_loss(student[:, both], teacher_logits[:, both], views.valid, temperature=2)
    torch.testing.assert_close(terms["soft"], soft.detach())
    torch.testing.assert_close(terms["hard"], hard_loss(student, views.mask).detach())
    torch.testing.assert_close(terms["dice"], dice_loss(student, views.mask).detach())
    counted = torch.where(views.mask == 2, 1, torch.where(views.mask == 0, 0, VOID))
    expected = LOSSES["dkd"].function(student[:, both], teacher_logits[:, both], views.valid, counted)
    torch.testing.assert_close(terms["dkd"], expected.detach())
    alone = Objective(ObjectiveConfig(alpha=0.0, beta=1.0), distils=True, shared=both)
    (gradient,) = torch.autograd.grad(
        alone(views, Outputs(student_logits=student, teacher_logits=teacher_logits))["loss"], student
    )
    assert not gradient[:, 1].any()
    assert gradient[:, both].abs().sum() > 0


@pytest.mark.parametrize("name", ["reverse_kl", "js", "pseudo_label", "cwd", "dist"])
def test_other_losses_of_logits_compare_the_shared_classes(name: str, logits: Any) -> None:
    student, teacher_logits = logits
    config, views = ObjectiveConfig(alpha=0.0, beta=0.0, losses={name: 1.0}), batch()
    outputs = Outputs(student_logits=student, teacher_logits=teacher_logits)
    terms = Objective(config, distils=True, shared=[0, 2])(views, outputs)
    both = Outputs(student_logits=student[:, [0, 2]], teacher_logits=teacher_logits[:, [0, 2]])
    torch.testing.assert_close(terms[name], Objective(config, distils=True)(views, both)[name])
