"""Schedules, optimisers and averages, by numbers worked out by hand; and what a resumed state continues."""

import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from segdistill.build import build_experiment
from segdistill.config.train import ObjectiveConfig, OptimConfig, StudentConfig
from segdistill.data.batch import Batch
from segdistill.data.labels import LabelSet
from segdistill.distillation.forward import Forward
from segdistill.distillation.objective import Objective
from segdistill.engine.experiment import Experiment
from segdistill.engine.state import (
    TrainingState,
    find_fixed,
    learning_rate,
    make_optimizer,
    warmed_up_average,
)
from segdistill.models.quantized import FakeQuantized
from segdistill.models.student import DSUNet
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.unit
LABELS = LabelSet(names=("ground", "road", "roof"))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.25),  # warm-up of 4 steps to 1
        ("cosine", 3, 1.0),
        ("cosine", 4, 1.0),
        ("cosine", 9, 0.5),  # half way from step 4 to step 14
        ("cosine", 14, 0.0),
        ("cosine", 13, 0.0245),  # (1 + cos(0.9 pi)) / 2
        ("poly", 0, 0.25),
        ("poly", 9, 0.5359),  # 0.5 to the power of 0.9
        ("poly", 13, 0.1259),  # 0.1 to the power of 0.9
        ("constant", 1, 0.5),
        ("constant", 13, 1.0),
    ],
)
def test_learning_rate(schedule: str, step: int, expected: float) -> None:
    config = OptimConfig(lr=1.0, warmup=4, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(config, step, 14) == pytest.approx(expected, abs=1e-4)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(OptimConfig(lr=0.5), 0, 10) == 0.5


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_no_step_has_a_rate_of_zero(schedule: str) -> None:
    config = OptimConfig(lr=1.0, warmup=3, schedule=schedule)  # type: ignore[arg-type]
    assert all(0 < learning_rate(config, step, 10) <= 1 for step in range(10))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_biases_and_norms_have_no_weight_decay(name: str) -> None:
    network = DSUNet(3, width=0.1)
    optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.3), network)  # type: ignore[arg-type]
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim <= 1 for p in free["params"])
    assert sum(len(group["params"]) for group in (decayed, free)) == len(list(network.parameters()))


def test_the_average_forgets_its_first_weights() -> None:
    update = warmed_up_average(0.5)
    average = [torch.tensor([0.0]), torch.tensor(0)]
    # Decay min(0.5, (1 + n) / (10 + n)): 0.1 after no update, 2/11 after one.
    update(average, [torch.tensor([1.0]), torch.tensor(7)], 0)
    assert average[0].item() == pytest.approx(0.9)
    assert average[1].item() == 7  # a counter is copied
    update(average, [torch.tensor([0.0]), torch.tensor(8)], 1)
    assert average[0].item() == pytest.approx(0.9 * 2 / 11)
    update(average, [torch.tensor([1.0]), torch.tensor(9)], 1000)
    assert average[0].item() == pytest.approx(0.5 + 0.5 * 0.9 * 2 / 11)


def test_frozen_parameters_are_left_out() -> None:
    network = DSUNet(3, width=0.1)
    network.encoder.requires_grad_(False)
    moved = {id(p) for group in make_optimizer(OptimConfig(), network).param_groups for p in group["params"]}
    assert moved == {id(p) for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "momentum", "kind", "expected"),
    [
        ("adamw", 0.8, torch.optim.AdamW, {"betas": (0.8, 0.999)}),
        ("adam", 0.8, torch.optim.Adam, {"betas": (0.8, 0.999)}),
        ("sgd", 0.8, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ("sgd", 0.0, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
    ],
)
def test_optimisers_are_what_they_are_called(
    name: Any, momentum: float, kind: type, expected: dict[str, Any]
) -> None:
    optimizer = make_optimizer(OptimConfig(name=name, momentum=momentum), nn.Conv2d(3, 2, 1))
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


def test_one_step_of_sgd() -> None:
    weight = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        weight.weight.fill_(2.0)
        weight.bias.fill_(2.0)
    optimizer = make_optimizer(OptimConfig(name="sgd", lr=0.1, momentum=0, weight_decay=0.5), weight)
    weight(torch.ones(1, 1, 1, 1)).sum().backward()
    optimizer.step()
    # Both gradients are 1. The weight has decay: 2 - 0.1 (1 + 0.5 * 2) = 1.8; the bias has none: 2 - 0.1.
    assert (weight.weight.item(), weight.bias.item()) == (pytest.approx(1.8), pytest.approx(1.9))


def supervised(
    student: nn.Module, accelerator: Accelerator, *, ema: float = 0.0, quantize: bool = False
) -> TrainingState:
    config = ObjectiveConfig()
    objective = Objective(config, distils=False)
    forward = Forward(config, student, None)
    return TrainingState(forward, objective, OptimConfig(ema=ema), accelerator, quantize=quantize)


def test_the_average_of_a_state_follows_its_student(accelerator: Accelerator) -> None:
    student = nn.Conv2d(3, 3, 1)
    state = supervised(student, accelerator, ema=0.9)
    assert state.average is not None
    assert state.evaluated is state.average.module
    seen = []
    for value in (1.0, 0.0, 1.0):
        with torch.no_grad():
            student.weight.fill_(value)
        state.average.update_parameters(student)
        seen.append(state.evaluated.weight[0, 0].item())
    # The first weights are copied. Then the decay is min(0.9, 2/11), and min(0.9, 3/12):
    # 1 * 2/11 + 0 = 2/11; 2/11 * 1/4 + 1 * 3/4.
    assert seen == pytest.approx([1, 2 / 11, 2 / 44 + 3 / 4])


def test_as_if_in_eight_bits_the_average_is_scored_with_the_ranges_of_the_student(
    accelerator: Accelerator,
) -> None:
    student = DSUNet(3, width=0.1)
    states = [supervised(student, accelerator, ema=0.9, quantize=True) for _ in range(2)]
    states[0].wrapped.train()(torch.randn(2, 3, 16, 16))
    scoring = states[0].scoring
    assert isinstance(scoring, FakeQuantized)
    assert scoring.network is states[0].evaluated
    assert scoring.ranges[0].high.isfinite()
    assert list(states[0].state_dict()["student"]) == list(student.state_dict())
    assert not states[1].scoring.ranges[0].high.isfinite()  # type: ignore[union-attr, index]
    states[1].load_state_dict(states[0].state_dict())
    image = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(states[1].scoring.eval()(image), scoring.eval()(image), rtol=0, atol=0)


def test_without_an_average_the_student_is_evaluated(accelerator: Accelerator) -> None:
    student = DSUNet(3, width=0.1)
    state = supervised(student, accelerator)
    assert state.evaluated is student


def new_state(seed: int, accelerator: Accelerator) -> TrainingState:
    """A state with everything that a state can have: a teacher, adapters, heads, an average."""
    torch.manual_seed(seed)
    student, large = DSUNet(3, width=0.1, dropout=0.0), DSUNet(3, width=0.2)
    teacher = Teacher(TrainedNetwork(large, LABELS, "dsunet"), LABELS)
    config = ObjectiveConfig(losses={"cosine": 1.0, "mgd": 1.0}, auxiliary=0.4)
    forward = Forward(config, student, teacher)
    objective = Objective(config, distils=True, example=forward.probe())
    return TrainingState(forward, objective, OptimConfig(lr=0.01, ema=0.9), accelerator)


def train(state: Any, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)  # as the loop does: the masks of mgd come from there
        generator = torch.Generator().manual_seed(step)
        image = torch.randn(2, 3, 16, 16, generator=generator)
        mask = torch.randint(0, 3, (2, 16, 16), generator=generator)
        batch = Batch(image, mask, torch.ones(2, 16, 16, dtype=torch.bool), ["a", "b"])
        state.wrapped.train()
        state.objective(batch, state.forward(state.wrapped, batch))["loss"].backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update_parameters(state.student)


def test_only_student_and_adapters_move(accelerator: Accelerator) -> None:
    state = new_state(0, accelerator)
    adapter = list(state.objective.adapters.parameters())
    moved = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert len(adapter) == 2 * (1 + 3 + 3)  # weights and biases of the 1x1, the generator, the heads
    assert {id(p) for p in moved} == {id(p) for p in (*state.student.parameters(), *adapter)}
    assert {id(p) for p in state.parameters} == {id(p) for p in moved}


def test_a_state_that_was_saved_goes_on_as_if_it_never_stopped(accelerator: Accelerator) -> None:
    whole = new_state(0, accelerator)
    train(whole, range(2))
    whole.best = 0.25
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    train(whole, range(2, 4))

    resumed = new_state(1, accelerator)
    resumed.forward.teacher.load_state_dict(whole.forward.teacher.state_dict())  # type: ignore[union-attr]
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.best == 0.25
    train(resumed, range(2, 4))
    for ours, theirs in (
        (whole.student, resumed.student),
        (whole.average, resumed.average),
        (whole.objective.adapters, resumed.objective.adapters),
    ):
        assert ours is not None
        assert theirs is not None
        expected = ours.state_dict()
        assert all(torch.equal(expected[name], tensor) for name, tensor in theirs.state_dict().items())


def test_a_saved_state_holds_no_teacher(accelerator: Accelerator) -> None:
    saved = new_state(0, accelerator).state_dict()
    assert set(saved) == {
        "student", "average", "adapters", "optimizer", "scaler", "ranges", "best", "scored"
    }  # fmt: skip
    assert set(saved["adapters"]) == {"cosine", "mgd", "auxiliary_0", "auxiliary_1", "auxiliary_2"}
    assert set(saved["adapters"]["cosine"]) == {"weight", "bias"}
    assert not any("network" in name or "teacher" in name for name in saved["student"])


@pytest.fixture
def experiment(configure: Any, tmp_path: Path) -> Callable[..., Experiment]:
    """Makes an experiment with other settings than the tests' usual ones."""
    return lambda **changes: build_experiment(configure(tmp_path / "run", **changes))


def decays_and_factors(optimizer: Any) -> list[tuple[int, float, float]]:
    """Of each group: how many tensors, weight decay, factor."""
    groups = optimizer.param_groups
    return [(len(group["params"]), group["weight_decay"], group["factor"]) for group in groups]


def test_modules_can_have_rates_of_their_own() -> None:
    network = nn.Sequential(OrderedDict(body=nn.Conv2d(3, 3, 1), head=nn.Conv2d(3, 3, 1)))
    head = nn.Conv2d(3, 3, 1)
    config = OptimConfig(groups={"body": 0.1}, weight_decay=0.5)
    optimizer = make_optimizer(config, network, head)
    assert decays_and_factors(optimizer) == [(2, 0.5, 1.0), (2, 0.0, 1.0), (1, 0.5, 0.1), (1, 0.0, 0.1)]
    assert optimizer.param_groups[2]["params"][0] is network.body.weight  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"optim.groups names 'tail', but must name .*: body, head"):
        make_optimizer(OptimConfig(groups={"tail": 1.0}), network)


def test_the_longest_prefix_counts() -> None:
    network = DSUNet(3, width=0.1)
    config = OptimConfig(groups={"encoder": 0.1, "encoder.0": 0.01}, weight_decay=0)
    factors = {id(p): g["factor"] for g in make_optimizer(config, network).param_groups for p in g["params"]}
    found = {
        name.split(".")[0] + name.split(".")[1]: factors[id(p)] for name, p in network.named_parameters()
    }
    assert (found["encoder0"], found["encoder1"], found["decoder0"]) == (0.01, 0.1, 1.0)


def test_a_step_multiplies_the_rate_by_the_factor(
    accelerator: Accelerator, experiment: Callable[..., Experiment]
) -> None:
    given = experiment(optim=OptimConfig(lr=0.5, groups={"head": 0.1}))
    state = TrainingState.of(given, accelerator)
    assert state.begin_step(given, 0) == 0.5
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.5, 0.05}


def test_frozen_modules_keep_weights_and_statistics(
    accelerator: Accelerator, experiment: Callable[..., Experiment]
) -> None:
    given = experiment(student=StudentConfig(width=0.1, freeze=["encoder.0", "bottleneck"]))
    state = TrainingState.of(given, accelerator)
    before = {name: value.clone() for name, value in state.student.state_dict().items()}
    state.begin_step(given, 0)
    state.wrapped(torch.randn(2, 3, 16, 16)).sum().backward()
    state.optimizer.step()
    changed = {name for name, value in state.student.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert not any(name.startswith(("encoder.0.", "bottleneck.")) for name in changed)
    assert any(name.startswith("encoder.1.") and "running_mean" in name for name in changed)
    assert not state.student.bottleneck.training  # type: ignore[union-attr]


def test_norms_can_keep_their_statistics_and_train_their_weights(
    accelerator: Accelerator, experiment: Any
) -> None:
    given = experiment(student=StudentConfig(width=0.1, norm_eval=True))
    state = TrainingState.of(given, accelerator)
    before = {name: value.clone() for name, value in state.student.state_dict().items()}
    state.begin_step(given, 0)
    state.wrapped(torch.randn(2, 3, 16, 16)).square().sum().backward()
    state.optimizer.step()
    changed = {name for name, value in state.student.state_dict().items() if not value.equal(before[name])}
    assert not any("running" in name for name in changed)
    assert any(name.endswith("bn.weight") for name in changed)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["tail"], r"student\.freeze names 'tail', but must name .*: encoder, encoder\.0"),
        (["encoder", "bottleneck", "decoder", "head"], "must leave something to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(freeze: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_fixed(DSUNet(3, width=0.1), StudentConfig(freeze=freeze))
