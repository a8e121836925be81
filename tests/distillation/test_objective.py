"""The objective: which terms there are, and that their weighted sum is the loss."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from segdistill.config.train import ObjectiveConfig
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID, LabelSet
from segdistill.distillation.forward import Forward
from segdistill.distillation.losses import channel_loss, dist_loss, hard_loss, soft_loss
from segdistill.distillation.objective import Objective, downscale_targets
from segdistill.distillation.region_losses import dice_loss
from segdistill.distillation.table import LOSSES, check_losses
from segdistill.models.student import DSUNet
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


def teacher(width: float = 0.1) -> Teacher:
    return Teacher(TrainedNetwork(DSUNet(3, width=width), LABELS, "dsunet"), LABELS)


class Losses(Objective):
    """An objective for two networks, called with logits; features are those that its hooks hold."""

    def __init__(
        self, config: ObjectiveConfig, student: nn.Module, teacher: Any, weights: torch.Tensor | None = None
    ) -> None:
        passes = Forward(config, student, teacher)
        super().__init__(config, distils=teacher is not None, example=passes.probe(), class_weights=weights)
        self.passes = passes

    def __call__(
        self, views: Batch, student: torch.Tensor, teacher_logits: Any, progress: float = 0.0
    ) -> dict[str, torch.Tensor]:
        outputs = self.passes._outputs(student, teacher_logits, views.teacher_features)
        return super().__call__(views, outputs, progress)


def batch(**changes: Any) -> Batch:
    mask = torch.randint(0, 3, (2, 16, 16))
    mask[:, :3] = VOID
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[:, :, :2] = False
    values = {"image": torch.randn(2, 3, 16, 16), "mask": mask, "valid": valid, "id": ["a", "b"]}
    return Batch(**values | changes)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)


def test_loss_is_the_weighted_sum_of_the_named_terms(logits: Any) -> None:
    student, teacher_logits = logits
    config = ObjectiveConfig(alpha=0.25, beta=1.5, temperature=3)
    views = batch()
    terms = Losses(config, DSUNet(3, width=0.1), teacher())(views, student, teacher_logits)
    assert list(terms) == ["loss", "hard", "soft"]
    torch.testing.assert_close(terms["hard"], hard_loss(student, views.mask).detach())
    torch.testing.assert_close(
        terms["soft"], soft_loss(student, teacher_logits, views.valid, temperature=3).detach()
    )
    torch.testing.assert_close(terms["loss"].detach(), 0.25 * terms["hard"] + 1.5 * terms["soft"])
    assert terms["loss"].requires_grad
    assert not terms["soft"].requires_grad


def test_golden_loss_of_two_pixels() -> None:
    # One labelled pixel, one void; the student's probabilities (1/2, 1/2), the teacher's at T = 2 (3/4, 1/4).
    # hard = ln 2; soft = 4 (3/4 ln 3/2 + 1/4 ln 1/2) = 0.5232; loss = 0.7 * 0.6931 + 0.3 * 0.5232 = 0.6422.
    views = Batch(
        image=torch.zeros(1, 3, 1, 2),
        mask=torch.tensor([[[0, VOID]]]),
        valid=torch.ones(1, 1, 2, dtype=torch.bool),
        id=["a"],
    )
    teacher_logits = torch.tensor([2 * math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    terms = Losses(ObjectiveConfig(), DSUNet(3, width=0.1), teacher())(
        views, torch.zeros(1, 2, 1, 2), teacher_logits
    )
    golden = {"loss": 0.6422, "hard": 0.6931, "soft": 0.5232}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(golden, abs=1e-4)


def test_without_a_teacher_only_the_hard_term_remains(logits: Any) -> None:
    terms = Losses(ObjectiveConfig(), DSUNet(3, width=0.1), None)(batch(), logits[0], None)
    assert list(terms) == ["loss", "hard"]


def test_a_term_of_weight_zero_is_not_computed(logits: Any) -> None:
    objective = Losses(ObjectiveConfig(alpha=0, beta=1), DSUNet(3, width=0.1), teacher())
    assert list(objective(batch(), *logits)) == ["loss", "soft"]


def test_unlabelled_images_have_soft_loss_only(logits: Any) -> None:
    objective = Losses(ObjectiveConfig(), DSUNet(3, width=0.1), teacher())
    terms = objective(batch(mask=torch.full((2, 16, 16), VOID)), *logits)
    assert terms["hard"] == 0
    assert terms["soft"] > 0


def test_void_can_be_left_out_of_the_soft_loss(logits: Any) -> None:
    views = batch()
    student, teacher_logits = logits
    objective = Losses(ObjectiveConfig(soft_on_void=False), DSUNet(3, width=0.1), teacher())
    expected = soft_loss(student, teacher_logits, views.valid & (views.mask != VOID))
    torch.testing.assert_close(objective(views, student, teacher_logits)["soft"], expected.detach())


def test_padding_has_no_soft_loss(logits: Any) -> None:
    student, teacher_logits = logits
    views = batch(valid=torch.zeros(2, 16, 16, dtype=torch.bool))
    terms = Losses(ObjectiveConfig(alpha=0), DSUNet(3, width=0.1), teacher())(views, student, teacher_logits)
    assert terms["loss"] == 0


def test_a_batch_without_labels_or_valid_pixels_moves_nothing(logits: Any) -> None:
    student, teacher_logits = logits
    objective = Losses(ObjectiveConfig(soft_on_void=False), DSUNet(3, width=0.1), teacher())
    terms = objective(batch(mask=torch.full((2, 16, 16), VOID)), student, teacher_logits)
    terms["loss"].backward()
    assert terms["loss"] == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_features_of_other_width_get_an_adapter_that_trains() -> None:
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    objective = Losses(ObjectiveConfig(losses={"cosine": 1.0}), student, large)
    assert list(objective.adapters) == ["cosine"]
    adapter = objective.adapters["cosine"]
    assert isinstance(adapter, nn.Conv2d)
    assert (adapter.in_channels, adapter.out_channels) == (51, 102)  # the bottlenecks: 512 times the width
    views = batch()
    terms = objective(views, student(views.image), large(views.image))
    assert 0 < terms["cosine"] < 2
    terms["loss"].backward()
    assert adapter.weight.grad is not None
    assert all(p.grad is None for p in large.parameters())


def test_features_of_equal_width_need_no_adapter() -> None:
    objective = Losses(ObjectiveConfig(losses={"cosine": 1.0}), DSUNet(3, width=0.1), teacher())
    assert not objective.adapters


def test_equal_features_have_no_feature_loss() -> None:
    large = teacher()
    student, views = DSUNet(3, width=0.1).eval(), batch()
    student.load_state_dict(large.network.module.state_dict())
    objective = Losses(ObjectiveConfig(alpha=1, beta=0, losses={"cosine": 0.5}), student, large)
    terms = objective(views, student(views.image), large(views.image))
    assert list(terms) == ["loss", "hard", "cosine"]
    assert terms["cosine"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(terms["loss"].detach(), terms["hard"] + 0.5 * terms["cosine"])


def test_each_network_is_probed_on_its_own_device() -> None:
    # A teacher whose outputs are cached is on the accelerator already when the objective is made.
    student, large = DSUNet(3, width=0.1), teacher(width=0.2).to("meta")
    devices = []
    for network in (student, large.network.module):
        network.register_forward_pre_hook(lambda _, inputs: devices.append(inputs[0].device.type))
    objective = Losses(ObjectiveConfig(losses={"cosine": 1.0}), student, large)
    assert devices == ["cpu", "meta"]
    assert objective.adapters["cosine"].weight.shape == (102, 51, 1, 1)  # 512 * 0.2 and 512 * 0.1 channels


def test_layers_to_compare_can_be_named() -> None:
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    config = ObjectiveConfig(losses={"cosine": 1.0}, student_layer="encoder.0", teacher_layer="decoder.1")
    adapter = Losses(config, student, large).adapters["cosine"]
    assert isinstance(adapter, nn.Conv2d)
    assert (adapter.in_channels, adapter.out_channels) == (6, 26)  # 64 * 0.1 and 128 * 0.2


@pytest.mark.parametrize("mode", [True, False])
def test_looking_at_the_features_leaves_the_student_as_it_was(mode: bool) -> None:
    student = DSUNet(3, width=0.1).train(mode)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    Losses(ObjectiveConfig(losses={"cosine": 1.0}), student, teacher())
    assert student.training is mode
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_an_unknown_layer_is_named_with_the_choices() -> None:
    config = ObjectiveConfig(losses={"cosine": 1.0}, student_layer="middle")
    with pytest.raises(ValueError, match=r"objective.student_layer is 'middle'.*bottleneck"):
        Losses(config, DSUNet(3, width=0.1), teacher())


# Further losses


def test_further_losses_are_added_under_their_names(logits: Any) -> None:
    student, teacher_logits = logits
    views = batch()
    config = ObjectiveConfig(
        alpha=1,
        beta=0,
        losses={"dice": 2.0, "cwd": {"temperature": 3.0}, "dist": {"weight": 0.5, "beta": 4.0}},
    )
    terms = Losses(config, DSUNet(3, width=0.1), teacher())(views, student, teacher_logits)
    assert list(terms) == ["loss", "hard", "dice", "cwd", "dist"]
    torch.testing.assert_close(terms["dice"], dice_loss(student, views.mask).detach())
    cwd = channel_loss(student, teacher_logits, views.valid, temperature=3.0)
    torch.testing.assert_close(terms["cwd"], cwd.detach())
    torch.testing.assert_close(
        terms["dist"], dist_loss(student, teacher_logits, views.valid, beta=4.0).detach()
    )
    expected = terms["hard"] + 2 * terms["dice"] + terms["cwd"] + 0.5 * terms["dist"]
    torch.testing.assert_close(terms["loss"].detach(), expected)


def test_every_loss_trains_a_student_and_spares_its_teacher() -> None:
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    config = ObjectiveConfig(losses=dict.fromkeys(LOSSES, 1.0))
    objective = Losses(config, student, large)
    assert set(objective.adapters) == {"cosine", "fitnet", "mgd"}
    views = batch()
    terms = objective(views, student(views.image), large(views.image))
    assert list(terms) == ["loss", "hard", "soft", *LOSSES]
    torch.testing.assert_close(terms["loss"].detach(), 0.7 * terms["hard"] + 0.3 * terms["soft"] + sum(
        terms[name] for name in LOSSES))  # fmt: skip
    terms["loss"].backward()
    for network in (student, objective):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(p.grad is None for p in large.parameters())


def test_a_loss_of_features_alone_leaves_no_parameter_without_a_gradient() -> None:
    # Several processes wait for the gradient of every parameter, the head's included.
    student, large = DSUNet(3, width=0.1), teacher(width=0.2)
    objective = Losses(ObjectiveConfig(alpha=0, beta=0, losses={"fitnet": 1.0}), student, large)
    views = batch()
    terms = objective(views, student(views.image), large(views.image))
    assert list(terms) == ["loss", "fitnet"]
    terms["loss"].backward()
    assert student.head.weight.grad is not None
    assert not student.head.weight.grad.any()


def test_void_can_be_left_out_of_further_losses_of_logits(logits: Any) -> None:
    student, teacher_logits = logits
    views = batch()
    config = ObjectiveConfig(losses={"cwd": 1.0}, soft_on_void=False)
    terms = Losses(config, DSUNet(3, width=0.1), teacher())(views, student, teacher_logits)
    expected = channel_loss(student, teacher_logits, views.valid & (views.mask != VOID))
    torch.testing.assert_close(terms["cwd"], expected.detach())


def test_weights_and_temperature_may_go_from_one_value_to_another(logits: Any) -> None:
    student, teacher_logits = logits
    views = batch()
    config = ObjectiveConfig(
        alpha=(1.0, 0.0), beta=(0.0, 2.0), temperature=(4.0, 2.0), losses={"dice": (0.0, 1.0)}
    )
    objective = Losses(config, DSUNet(3, width=0.1), teacher())
    for progress, weights, temperature in (
        (0.0, (1, 0, 0), 4),
        (0.25, (0.75, 0.5, 0.25), 3.5),
        (1, (0, 2, 1), 2),
    ):
        terms = objective(views, student, teacher_logits, progress)
        assert list(terms) == ["loss", "hard", "soft", "dice"]
        expected = soft_loss(student, teacher_logits, views.valid, temperature=temperature)
        torch.testing.assert_close(terms["soft"], expected.detach())
        summed = sum(w * terms[name] for w, name in zip(weights, ("hard", "soft", "dice"), strict=True))
        torch.testing.assert_close(terms["loss"].detach(), summed)


def test_smoothing_class_weights_and_mixtures_reach_the_hard_loss(logits: Any) -> None:
    student, weights = logits[0], torch.tensor([0.5, 1.0, 2.0])
    views = batch()
    mixed = batch(mask=views.mask, target_b=views.mask.flip(0), lam=torch.tensor([0.6, 0.9]))
    config = ObjectiveConfig(alpha=1.0, label_smoothing=0.1)
    objective = Losses(config, DSUNet(3, width=0.1), None, weights)
    expected = hard_loss(student, views.mask, smoothing=0.1, weights=weights)
    torch.testing.assert_close(objective(views, student, None)["hard"], expected.detach())
    expected = hard_loss(
        student, views.mask, target_b=mixed.target_b, lam=mixed.lam, smoothing=0.1, weights=weights
    )
    torch.testing.assert_close(objective(mixed, student, None)["hard"], expected.detach())


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"cwdd": 1.0}, "objective.losses names 'cwdd', but the losses are ohem, dice, .*cwd.*mgd"),
        (
            {"dist": {"betta": 1.0}},
            "losses.dist has no option 'betta'; it has weight, temperature, beta, gamma",
        ),
        ({"dice": {"power": 1.0}}, "losses.dice has no option 'power'; it has weight$"),
        (
            {"cwd": {"temperature": 0.0}},
            r"losses.cwd.temperature is 0.0, but must be one number from 0.01 to",
        ),
        (
            {"cwd": {"temperature": (1.0, 2.0)}},
            r"losses.cwd.temperature is \(1.0, 2.0\), but must be one number",
        ),
        ({"pairwise": {"patches": 2.5}}, "losses.pairwise.patches is 2.5, but must be a whole number from 1"),
        ({"dist": {"beta": -1.0}}, "losses.dist.beta is -1.0, but must be one number of 0 or more"),
        ({"dist": {"beta": float("nan")}}, "losses.dist.beta is nan"),
        ({"mgd": {"masked": float("inf")}}, "losses.mgd.masked is inf"),
    ],
)
def test_unknown_losses_and_impossible_options_are_refused(losses: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_losses(ObjectiveConfig(losses=losses), distils=True)


def test_a_loss_that_needs_a_teacher_is_refused_without_one() -> None:
    config = ObjectiveConfig(losses={"dice": 1.0, "cwd": 1.0, "mgd": 0.0, "ifvd": (0.0, 1.0)})
    message = "names cwd, ifvd, but there is no teacher: set teacher, or take ohem, dice, lovasz"
    with pytest.raises(ValueError, match=message):
        check_losses(config, distils=False)
    assert list(check_losses(config, distils=True)) == ["dice", "cwd", "ifvd"]


def test_numbers_of_a_file_become_whole_where_an_option_is() -> None:
    # A settings file reads every option as a fraction.
    options = check_losses(ObjectiveConfig(losses={"pairwise": {"patches": 4.0}}), distils=True)
    assert options == {"pairwise": {"patches": 4}}
    assert isinstance(options["pairwise"]["patches"], int)


# Heads on inner layers


def test_heads_on_inner_layers_have_the_losses_of_the_logits() -> None:
    student, large = DSUNet(3, width=0.1, dropout=0.0), teacher()
    objective = Losses(ObjectiveConfig(alpha=0.25, beta=1.5, auxiliary=0.4), student, large)
    assert [objective.adapters[f"auxiliary_{i}"].in_channels for i in range(3)] == [51, 26, 13]  # type: ignore[union-attr]
    views, layer_outputs = batch(), []
    for layer in (student.bottleneck, *student.decoder[:2]):
        layer.register_forward_hook(lambda module, inputs, output: layer_outputs.append(output))
    teacher_logits = large(views.image)
    terms = objective(views, student(views.image), teacher_logits)
    each = []
    for index, features in enumerate(layer_outputs):
        logits = objective.adapters[f"auxiliary_{index}"](features)
        small, coarse = downscale_targets(views, teacher_logits, logits.shape[2:])
        each.append(0.25 * hard_loss(logits, small.mask) + 1.5 * soft_loss(logits, coarse, small.valid))
    assert [f.shape[2] for f in layer_outputs] == [2, 4, 8]
    assert list(terms) == ["loss", "hard", "soft", "auxiliary"]
    torch.testing.assert_close(terms["auxiliary"], torch.stack(each).mean().detach())
    expected = 0.25 * terms["hard"] + 1.5 * terms["soft"] + 0.4 * terms["auxiliary"]
    torch.testing.assert_close(terms["loss"].detach(), expected)
    terms["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_a_coarse_batch_has_nearest_masks_and_average_logits() -> None:
    mask = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, VOID]]])
    views = Batch(torch.zeros(1, 3, 2, 4), mask, mask != 1, ["a"], target_b=2 - mask.clamp(max=2))
    teacher_logits = torch.tensor([[1.0, 2.0, 0.0, 4.0], [3.0, 4.0, 4.0, 0.0]]).view(1, 1, 2, 4)
    small, coarse = downscale_targets(views, teacher_logits, torch.Size((1, 2)))
    # The middle of each 2 x 2 square is at its lower right pixel's corner, which nearest neighbour takes.
    assert small.mask.tolist() == [[[2, VOID]]]
    assert small.target_b.tolist() == [[[0, 0]]]
    assert small.valid.tolist() == [[[True, True]]]
    assert coarse.tolist() == [[[[2.5, 2.0]]]]


def test_a_network_without_inner_layers_for_heads_takes_its_deepest() -> None:
    class Plain(nn.Module):
        deepest = "body"

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(image))

    student, views = Plain(), batch()
    objective = Losses(ObjectiveConfig(auxiliary=1.0), student, None)
    assert list(objective.adapters) == ["auxiliary_0"]
    assert list(objective(views, student(views.image), None)) == ["loss", "hard", "auxiliary"]
    del Plain.deepest
    with pytest.raises(ValueError, match="the network's `auxiliary` is None, but must name a module"):
        Losses(ObjectiveConfig(auxiliary=1.0), Plain(), None)
