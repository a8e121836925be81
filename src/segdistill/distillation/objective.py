"""The objective: which losses with which weights, as named terms whose weighted sum is the loss."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.train import FEATURE_LOSSES, ObjectiveConfig
from segdistill.config.values import Scheduled, largest
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID
from segdistill.distillation.feature_losses import (
    attention_loss,
    cosine_loss,
    fitnet_loss,
    ifvd_loss,
    mgd_loss,
    nearest,
    pairwise_loss,
)
from segdistill.distillation.forward import Outputs
from segdistill.distillation.losses import (
    channel_loss,
    decoupled_loss,
    dist_loss,
    hard_loss,
    jensen_shannon_loss,
    reverse_kl_loss,
    soft_loss,
)
from segdistill.distillation.region_losses import dice_loss, lovasz_loss, ohem_loss


@dataclass(frozen=True)
class Loss:
    """A loss that `objective.losses` may name.

    Attributes:
        function: its keyword-only parameters are the loss's options.
        inputs: what its other parameters get, in order: `student_logits`, `teacher_logits`, `mask`, `valid`
            (pixels that are no padding), `soft_valid` (those of them that the teacher's logits are compared
            at), `student_features`, `teacher_features`, `adapted_features` (the student's with the teacher's
            channels) or `generator` (a module).
    """

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


SUPERVISED = ("student_logits", "mask")
LOGITS = ("student_logits", "teacher_logits", "soft_valid")
FEATURES = ("student_features", "teacher_features", "valid")
ADAPTED = ("adapted_features", "teacher_features", "valid")
LOSSES: dict[str, Loss] = {
    "ohem": Loss(ohem_loss, SUPERVISED),
    "dice": Loss(dice_loss, SUPERVISED),
    "lovasz": Loss(lovasz_loss, SUPERVISED),
    "reverse_kl": Loss(reverse_kl_loss, LOGITS),
    "js": Loss(jensen_shannon_loss, LOGITS),
    "cwd": Loss(channel_loss, LOGITS),
    "dist": Loss(dist_loss, LOGITS),
    "dkd": Loss(decoupled_loss, (*LOGITS, "mask")),
    "cosine": Loss(cosine_loss, ADAPTED),
    "fitnet": Loss(fitnet_loss, ADAPTED),
    "attention": Loss(attention_loss, FEATURES),
    "pairwise": Loss(pairwise_loss, FEATURES),
    "ifvd": Loss(ifvd_loss, (*FEATURES, "mask")),
    "mgd": Loss(mgd_loss, (*FEATURES, "generator")),
}
LIMITS = {
    "temperature": (0.01, 1000),
    "threshold": (0, 1),
    "kept": (0, 1),
    "masked": (0, 1),
    "patches": (1, 64),
    "standardised": (0, 1),
    "power": (1, 8),
}
"""Least and largest value of options; any other option is 0 or more."""


class Term(NamedTuple):
    """One summand of the loss."""

    weight: float
    value: Tensor


class Objective(nn.Module):
    """loss = alpha * hard + beta * soft + auxiliary * (the same of auxiliary heads) + the further losses.

    Without a teacher only losses of the masks remain; a term of weight 0 is not computed. The modules that
    train along (1x1 convolutions to the teacher's channels, a generator, heads on inner layers) are in
    `adapters`, and are no part of the student.

    Args:
        config: weights, options and temperature.
        distils: whether there is a teacher.
        example: outputs of the two networks, whose channels the adapters are made for; None where no loss
            needs any, see `Forward.probe`.
        class_weights: K, the weight of each class in the hard loss; None for all alike.

    Raises:
        ValueError: a loss or option is unknown or needs a teacher.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        distils: bool,
        example: Outputs | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.options = check_losses(config, distils=distils)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.adapters = nn.ModuleDict()
        if example is not None:
            self._add_adapters(example)

    def _add_adapters(self, example: Outputs) -> None:
        """The modules that train along, for the channels of these outputs."""
        classes = example.student_logits.shape[1]
        for index, features in enumerate(example.auxiliary_features):
            self.adapters[f"auxiliary_{index}"] = nn.Conv2d(features.shape[1], classes, 1)
        if example.student_features is None or example.teacher_features is None:
            return
        student_channels, teacher_channels = (
            example.student_features.shape[1],
            example.teacher_features.shape[1],
        )
        for name, options in self.options.items():
            inputs = LOSSES[name].inputs
            # Standardised features are negative too, which the student's are not after a ReLU.
            differ = student_channels != teacher_channels or options.get("standardised")
            if "adapted_features" in inputs and differ:
                self.adapters[name] = nn.Conv2d(student_channels, teacher_channels, 1)
            elif "generator" in inputs:
                self.adapters[name] = generation_block(student_channels, teacher_channels)

    def forward(self, batch: Batch, outputs: Outputs, progress: float = 0.0) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            batch: N crops with masks.
            outputs: of student and teacher for these crops.
            progress: 0 at the first step, 1 at the last; for weights and temperatures that change.

        Returns:
            Scalars by name: `hard`, `soft`, `auxiliary` and the further losses as far as they are in use, and
            their weighted sum `loss`, which alone is for differentiation.
        """
        terms = self._hard_and_soft(batch, outputs.student_logits, outputs.teacher_logits, progress)
        if outputs.auxiliary_features:
            terms["auxiliary"] = Term(self.config.auxiliary, self._auxiliary(batch, outputs, progress))
        terms |= self._further(batch, outputs, progress)
        loss = weighted_sum(terms)
        if not terms.keys() - FEATURE_LOSSES:
            # Several processes wait for the gradient of every parameter, those behind the features too.
            loss = loss + 0 * outputs.student_logits.float().mean()
        return {"loss": loss} | {name: term.value.detach() for name, term in terms.items()}

    def _hard_and_soft(
        self, batch: Batch, student_logits: Tensor, teacher_logits: Tensor | None, progress: float
    ) -> dict[str, Term]:
        """The two losses that all logits have, the auxiliary heads' too."""
        config = self.config
        terms = {}
        if largest(config.alpha):
            hard = hard_loss(
                student_logits, batch.mask, target_b=batch.target_b, lam=batch.lam,
                smoothing=config.label_smoothing, weights=self.class_weights,
            )  # fmt: skip
            terms["hard"] = Term(at(config.alpha, progress), hard)
        if teacher_logits is not None and largest(config.beta):
            temperature = at(config.temperature, progress)
            soft = soft_loss(student_logits, teacher_logits, self._soft_valid(batch), temperature=temperature)
            terms["soft"] = Term(at(config.beta, progress), soft)
        return terms

    def _soft_valid(self, batch: Batch) -> Tensor:
        """The pixels at which the teacher's logits are compared, N x H x W bool."""
        return batch.valid if self.config.soft_on_void else batch.valid & (batch.mask != VOID)

    def _auxiliary(self, batch: Batch, outputs: Outputs, progress: float) -> Tensor:
        """The weighted hard and soft loss of the heads, each at its own layer's size; their mean."""
        losses = []
        for index, features in enumerate(outputs.auxiliary_features):
            logits = self.adapters[f"auxiliary_{index}"](features)
            small_batch, teacher_logits = downscale_targets(batch, outputs.teacher_logits, logits.shape[2:])
            losses.append(weighted_sum(self._hard_and_soft(small_batch, logits, teacher_logits, progress)))
        return torch.stack(losses).mean()

    def _further(self, batch: Batch, outputs: Outputs, progress: float) -> dict[str, Term]:
        """The losses of `objective.losses`, in their order."""
        inputs: dict[str, Any] = {
            **vars(outputs),
            "mask": batch.mask,
            "valid": batch.valid,
            "soft_valid": self._soft_valid(batch),
        }
        terms = {}
        for name, options in self.options.items():
            loss = LOSSES[name]
            adapter = self.adapters[name] if name in self.adapters else nn.Identity()
            if "generator" in loss.inputs:
                inputs["generator"] = adapter
            if "adapted_features" in loss.inputs:
                inputs["adapted_features"] = adapter(inputs["student_features"])
            value = loss.function(*(inputs[key] for key in loss.inputs), **options)
            terms[name] = Term(at(self.config.weight(name), progress), value)
        return terms


def check_losses(config: ObjectiveConfig, *, distils: bool) -> dict[str, dict[str, float]]:
    """The options of each further loss that is in use, by its name.

    Args:
        config: names them.
        distils: whether there is a teacher.

    Raises:
        ValueError: a loss or an option is unknown, a value is impossible, or a loss needs a teacher.
    """
    for name, value in config.losses.items():
        if name not in LOSSES:
            raise ValueError(f"objective.losses names {name!r}, but the losses are {', '.join(LOSSES)}")
        for option, number in options_of(value):
            check_option(name, option, number)
    supervised = [name for name, loss in LOSSES.items() if loss.inputs == SUPERVISED]
    distilling = [name for name in config.weighted if name not in supervised]
    if distilling and not distils:
        raise ValueError(
            f"objective.losses names {', '.join(distilling)}, but there is no teacher: set --teacher, "
            f"or take {', '.join(supervised)}"
        )
    return {
        name: {
            option: type(LOSSES[name].options[option])(number)
            for option, number in options_of(config.losses[name])
        }
        for name in config.weighted
    }


def options_of(value: Scheduled | Mapping[str, Scheduled]) -> Iterator[tuple[str, Any]]:
    """Names and values of what is set of a loss beside its weight."""
    if isinstance(value, Mapping):
        yield from ((option, number) for option, number in value.items() if option != "weight")


def check_option(name: str, option: str, number: object) -> None:
    """Raise a `ValueError` unless loss `name` has this option, and the number is possible."""
    options = LOSSES[name].options
    if option not in options:
        choices = ", ".join(["weight", *options])
        raise ValueError(f"objective.losses.{name} has no option {option!r}; it has {choices}")
    low, high = LIMITS.get(option, (0, math.inf))
    whole = isinstance(options[option], int)
    good = isinstance(number, int | float) and low <= number <= high and number < math.inf
    if not good or (whole and number != int(number)):  # type: ignore[call-overload]
        kind = "a whole number" if whole else "one number"
        limits = f"from {low} to {high}" if high < math.inf else "of 0 or more, and finite"
        raise ValueError(f"objective.losses.{name}.{option} is {number!r}, but must be {kind} {limits}")


def at(value: Scheduled, progress: float) -> float:
    """A number that may change over the steps, at `progress` from 0 to 1."""
    if not isinstance(value, tuple):
        return value
    first, last = value
    return first + (last - first) * progress


def weighted_sum(terms: Mapping[str, Term]) -> Tensor:
    """The sum of all weight * value."""
    return torch.stack([term.weight * term.value for term in terms.values()]).sum()


def generation_block(channels: int, out_channels: int) -> nn.Sequential:
    """N x C x h x w -> N x C' x h x w: a 1x1 convolution to C' channels, then 3x3, ReLU, 3x3."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )


def downscale_targets(
    batch: Batch, teacher_logits: Tensor | None, size: torch.Size
) -> tuple[Batch, Tensor | None]:
    """A batch's masks (by nearest neighbour) and the teacher's logits (averaged) at the size h x w."""
    small = replace(
        batch,
        mask=nearest(batch.mask, size),
        valid=nearest(batch.valid, size),
        target_b=None if batch.target_b is None else nearest(batch.target_b, size),
    )
    if teacher_logits is None:
        return small, None
    return small, F.interpolate(teacher_logits.float(), size=size, mode="area")
