"""The objective: which terms there are, and that their weighted sum is the loss."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from segdistill.config import ObjectiveConfig
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.loaders import Batch
from segdistill.distillation.losses import hard_loss, soft_loss
from segdistill.distillation.objective import Objective
from segdistill.models.student import DSUNet
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


def teacher(width: float = 0.1) -> Teacher:
    return Teacher(TrainedNetwork(DSUNet(3, width=width), LABELS, "dsunet"), LABELS)


def batch(**changes: Any) -> Batch:
    mask = torch.randint(0, 3, (2, 16, 16))
    mask[:, :3] = VOID
    inside = torch.ones(2, 16, 16, dtype=torch.bool)
    inside[:, :, :2] = False
    values = {"image": torch.randn(2, 3, 16, 16), "mask": mask, "inside": inside, "id": ["a", "b"]}
    return Batch(**values | changes)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)


def test_loss_is_the_weighted_sum_of_the_named_terms(logits: Any) -> None:
    student, known = logits
    config = ObjectiveConfig(alpha=0.25, beta=1.5, temperature=3)
    views = batch()
    terms = Objective(config, DSUNet(3, width=0.1), teacher())(views, student, known)
    assert list(terms) == ["loss", "hard", "soft"]
    torch.testing.assert_close(terms["hard"], hard_loss(student, views.mask).detach())
    torch.testing.assert_close(terms["soft"], soft_loss(student, known, 3, views.inside).detach())
    torch.testing.assert_close(terms["loss"].detach(), 0.25 * terms["hard"] + 1.5 * terms["soft"])
    assert terms["loss"].requires_grad
    assert not terms["soft"].requires_grad


def test_golden_loss_of_two_pixels() -> None:
    # One labelled pixel, one void; the student says (1/2, 1/2), the teacher at T = 2 (3/4, 1/4) in both.
    # hard = ln 2; soft = 4 (3/4 ln 3/2 + 1/4 ln 1/2) = 0.5232; loss = 0.7 * 0.6931 + 0.3 * 0.5232 = 0.6422.
    views = Batch(
        image=torch.zeros(1, 3, 1, 2),
        mask=torch.tensor([[[0, VOID]]]),
        inside=torch.ones(1, 1, 2, dtype=torch.bool),
        id=["a"],
    )
    known = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    terms = Objective(ObjectiveConfig(), DSUNet(3, width=0.1), teacher())(
        views, torch.zeros(1, 2, 1, 2), known
    )
    golden = {"loss": 0.6422, "hard": 0.6931, "soft": 0.5232}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(golden, abs=1e-4)


def test_without_a_teacher_only_the_hard_term_remains(logits: Any) -> None:
    terms = Objective(ObjectiveConfig(), DSUNet(3, width=0.1), None)(batch(), logits[0], None)
    assert list(terms) == ["loss", "hard"]


def test_a_term_of_weight_zero_is_not_computed(logits: Any) -> None:
    objective = Objective(ObjectiveConfig(alpha=0, beta=1), DSUNet(3, width=0.1), teacher())
    assert list(objective(batch(), *logits)) == ["loss", "soft"]


def test_unlabelled_images_have_soft_loss_only(logits: Any) -> None:
    objective = Objective(ObjectiveConfig(), DSUNet(3, width=0.1), teacher())
    terms = objective(batch(mask=torch.full((2, 16, 16), VOID)), *logits)
    assert terms["hard"] == 0
    assert terms["soft"] > 0


def test_void_can_be_left_out_of_the_soft_loss(logits: Any) -> None:
    views = batch()
    student, known = logits
    objective = Objective(ObjectiveConfig(soft_on_void=False), DSUNet(3, width=0.1), teacher())
    expected = soft_loss(student, known, 2, views.inside & (views.mask != VOID))
    torch.testing.assert_close(objective(views, student, known)["soft"], expected.detach())


def test_padding_has_no_soft_loss(logits: Any) -> None:
    student, known = logits
    views = batch(inside=torch.zeros(2, 16, 16, dtype=torch.bool))
    terms = Objective(ObjectiveConfig(alpha=0), DSUNet(3, width=0.1), teacher())(views, student, known)
    assert terms["loss"] == 0


def test_a_batch_that_nothing_is_known_of_moves_nothing(logits: Any) -> None:
    student, known = logits
    objective = Objective(ObjectiveConfig(soft_on_void=False), DSUNet(3, width=0.1), teacher())
    terms = objective(batch(mask=torch.full((2, 16, 16), VOID)), student, known)
    terms["loss"].backward()
    assert terms["loss"] == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_features_of_other_width_get_an_adapter_that_trains() -> None:
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    objective = Objective(ObjectiveConfig(gamma=1.0), student, large)
    adapter = objective.adapter
    assert isinstance(adapter, nn.Conv2d)
    assert (adapter.in_channels, adapter.out_channels) == (51, 102)  # the bottlenecks: 512 times the width
    views = batch()
    terms = objective(views, student(views.image), large(views.image))
    assert 0 < terms["feature"] < 2
    terms["loss"].backward()
    assert adapter.weight.grad is not None
    assert all(p.grad is None for p in large.parameters())


def test_features_of_equal_width_need_no_adapter() -> None:
    objective = Objective(ObjectiveConfig(gamma=1.0), DSUNet(3, width=0.1), teacher())
    assert isinstance(objective.adapter, nn.Identity)


def test_equal_features_have_no_feature_loss() -> None:
    known = teacher()
    student, views = DSUNet(3, width=0.1).eval(), batch()
    student.load_state_dict(known.network.module.state_dict())
    objective = Objective(ObjectiveConfig(alpha=1, beta=0, gamma=0.5), student, known)
    terms = objective(views, student(views.image), known(views.image))
    assert list(terms) == ["loss", "hard", "feature"]
    assert terms["feature"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(terms["loss"].detach(), terms["hard"] + 0.5 * terms["feature"])


def test_layers_to_compare_can_be_named() -> None:
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    config = ObjectiveConfig(gamma=1.0, student_layer="encoder.0", teacher_layer="decoder.1")
    adapter = Objective(config, student, large).adapter
    assert isinstance(adapter, nn.Conv2d)
    assert (adapter.in_channels, adapter.out_channels) == (6, 26)  # 64 * 0.1 and 128 * 0.2


@pytest.mark.parametrize("mode", [True, False])
def test_looking_at_the_features_leaves_the_student_as_it_was(mode: bool) -> None:
    student = DSUNet(3, width=0.1).train(mode)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    Objective(ObjectiveConfig(gamma=1.0), student, teacher())
    assert student.training is mode
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_an_unknown_layer_is_named_with_the_choices() -> None:
    config = ObjectiveConfig(gamma=1.0, student_layer="middle")
    with pytest.raises(ValueError, match=r"objective.student_layer is 'middle'.*bottleneck"):
        Objective(config, DSUNet(3, width=0.1), teacher())
