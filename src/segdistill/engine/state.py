"""What changes while a student trains and so is saved: weights, their average, optimizer, best score."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from segdistill.config.train import OptimConfig, StudentConfig
from segdistill.distillation.forward import Forward
from segdistill.distillation.objective import Objective
from segdistill.engine.experiment import Experiment
from segdistill.engine.runtime import seed_step
from segdistill.models.quantized import FakeQuantized
from segdistill.models.renormalize import Renormalize
from segdistill.models.teacher import Teacher

RANGES_UNTIL = 0.5
"""Fraction of the steps after which a student that trains as if in 8 bits keeps the ranges of its maps."""


class TrainingState:
    """The student on its way.

    Args:
        forward: passes of the student and its teacher.
        objective: their losses; what of them trains along (adapters) is here too, the teacher is not.
        config: optimizer and average.
        accelerator: moves and wraps the modules.
        fixed: modules of the student that stay in eval mode.
        quantize: train and evaluate as if in 8 bits.

    Attributes:
        student: the plain network, whose weights are saved.
        quantized: the same network as if in 8 bits, or None.
        network: the one of the two that computes logits in training.
        wrapped: `network` as the accelerator wants it called.
        rank: of this process; decides its random numbers.
        best: highest mIoU so far, None before the first evaluation.
        scored: step of the newest evaluation.
    """

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        config: OptimConfig,
        accelerator: Accelerator,
        *,
        fixed: Sequence[nn.Module] = (),
        quantize: bool = False,
    ) -> None:
        student = forward.student
        self.student, self.forward, self.fixed = student, forward, fixed
        self.objective, self.accelerator = objective, accelerator
        self.rank = accelerator.process_index
        self.best: float | None = None
        self.scored = 0
        self.average: AveragedModel | None = None
        if config.ema:
            average = AveragedModel(student, multi_avg_fn=warmed_up_average(config.ema), use_buffers=True)
            self.average = average.to(accelerator.device)
        self.quantized = FakeQuantized(student) if quantize else None
        self.network = student if self.quantized is None else self.quantized
        self.wrapped: nn.Module = accelerator.prepare(self.network)
        objective.to(accelerator.device)
        for name, adapter in objective.adapters.items():  # each on its own: it is called on its own
            objective.adapters[name] = accelerator.prepare(adapter)
        self.optimizer: Optimizer = accelerator.prepare(make_optimizer(config, student, objective))

    @classmethod
    def of(cls, experiment: Experiment, accelerator: Accelerator) -> Self:
        """The state before the first step, with the teacher on the accelerator's device."""
        config, teacher, card = experiment.config, experiment.teacher, experiment.card
        renormalize = Renormalize(card.mean, card.std).to(accelerator.device)
        forward = Forward(config.objective, experiment.student, teacher, renormalize)
        objective = Objective(
            config.objective,
            distils=teacher is not None,
            example=forward.probe(),
            class_weights=experiment.class_weights(),
            shared=teacher.shared if isinstance(teacher, Teacher) else None,
        )
        if teacher is not None:
            teacher.to(accelerator.device)
        fixed = find_fixed(experiment.student, config.student)
        quantize = config.quantize is not None
        return cls(forward, objective, config.optim, accelerator, fixed=fixed, quantize=quantize)

    def begin_step(self, experiment: Experiment, step: int) -> float:
        """Set mode, learning rate and random numbers of optimizer step `step` (from 0); returns the rate."""
        config, steps = experiment.config, experiment.steps
        rate = learning_rate(config.optim, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)  # of version 0.1.0 there are groups without one
        seed_step(config.seed, step, self.rank)
        self.wrapped.train()
        for module in self.fixed:
            module.eval()
        if self.quantized is not None:
            self.quantized.observing = step < RANGES_UNTIL * steps
        return rate

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the average where there is one, else the student."""
        return self.student if self.average is None else self.average.module

    @property
    def scoring(self) -> nn.Module:
        """The network whose score counts: `evaluated`, or the same as if in 8 bits."""
        if self.quantized is None:
            return self.evaluated
        return FakeQuantized(self.evaluated, self.quantized.ranges)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [*self.student.parameters(), *self.objective.parameters()]

    def broadcast_buffers(self) -> None:
        """Give all processes the first one's batch norm statistics: each has its own since its last batch.

        Only then do all of them evaluate the network that is saved, and does a resumed run score it alike.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.scoring.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _adapters(self) -> Iterator[tuple[str, nn.Module]]:
        """What of the objective trains along, by name, as it was before the accelerator wrapped it."""
        for name, adapter in self.objective.adapters.items():
            yield name, self.accelerator.unwrap_model(adapter)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        scaler = self.accelerator.scaler
        return {
            "student": self.student.state_dict(),
            "average": self.average and self.average.state_dict(),
            "adapters": {name: adapter.state_dict() for name, adapter in self._adapters()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler and scaler.state_dict(),
            "ranges": self.quantized and self.quantized.ranges.state_dict(),
            "best": self.best,
            "scored": self.scored,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.student.load_state_dict(state["student"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, adapter in self._adapters():
            adapter.load_state_dict(state["adapters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.quantized is not None:
            self.quantized.ranges.load_state_dict(state["ranges"])
        self.best, self.scored = state["best"], state["scored"]


def find_fixed(student: nn.Module, config: StudentConfig) -> list[nn.Module]:
    """The modules that stay in eval mode in training; those of `freeze` get no gradient either.

    Raises:
        ValueError: `freeze` names no module, or all of them.
    """
    fixed = []
    for name, module in student.named_modules():
        if _longest_prefix(name, config.freeze) is not None:
            fixed.append(module.requires_grad_(False))
        elif config.norm_eval and isinstance(module, _BatchNorm):
            fixed.append(module)
    for prefix in config.freeze:
        _require_module(student, prefix, "student.freeze")
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(f"student.freeze is {config.freeze}, but must leave something to train")
    return fixed


def _longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    """Of dotted names, the longest that `name` is or begins with."""
    found = [prefix for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")]
    return max(found, key=len, default=None)


def _require_module(network: nn.Module, prefix: str, option: str) -> None:
    names = [name for name, _ in network.named_modules() if name]
    if prefix not in names:
        choices = ", ".join(name for name in names if name.count(".") < 2)
        raise ValueError(f"{option} names {prefix!r}, but must name a module of the student: {choices}")


def make_optimizer(config: OptimConfig, student: nn.Module, *others: nn.Module) -> Optimizer:
    """The optimizer over all parameters that train; biases and norms (vectors, scalars) have no weight decay.

    Raises:
        ValueError: `groups` names no module of the student.
    """
    for prefix in config.groups:
        _require_module(student, prefix, "optim.groups")
    trained: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in student.named_parameters():
        factor = config.groups.get(_longest_prefix(name, config.groups) or "", 1.0)
        if parameter.requires_grad:
            trained.setdefault(factor, []).append(parameter)
    trained[1.0] += [p for module in others for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": chosen, "weight_decay": decay, "factor": factor}
        for factor, parameters in trained.items()
        for decay, chosen in (
            (config.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        )
    ]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    kind = {"adamw": AdamW, "adam": Adam}[config.name]
    return kind(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`: linear warm-up, then the schedule."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (1 - progress) ** 0.9 if config.schedule == "poly" else config.lr


def warmed_up_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """An exponential moving average whose decay starts low, so that the first weights are soon forgotten."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        updates = int(count)
        weight = 1 - min(decay, (1 + updates) / (10 + updates))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, weight)
            else:
                average.copy_(current)

    return update
