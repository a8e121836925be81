"""The objective: which losses with which weights, as named terms whose weighted sum is the loss."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
from segdistill.models.hooks import FeatureHook
from segdistill.models.teacher import Teacher


@dataclass(frozen=True)
class Loss:
    """A loss that `objective.losses` may name.

    Attributes:
        function: its keyword-only parameters are the loss's options.
        sees: what its other parameters get, in order: `logits` and `known` (the student's and the teacher's),
            `mask`, `where` (pixels with a say of the teacher), `valid` (pixels that are no padding), `ours`
            and `theirs` (features), `adapted` (ours with the teacher's channels), `generator` (a module).
    """

    function: Callable[..., Tensor]
    sees: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


SUPERVISED = ("logits", "mask")
LOGITS = ("logits", "known", "where")
LOSSES: dict[str, Loss] = {
    "ohem": Loss(ohem_loss, SUPERVISED),
    "dice": Loss(dice_loss, SUPERVISED),
    "lovasz": Loss(lovasz_loss, SUPERVISED),
    "reverse_kl": Loss(reverse_kl_loss, LOGITS),
    "js": Loss(jensen_shannon_loss, LOGITS),
    "cwd": Loss(channel_loss, LOGITS),
    "dist": Loss(dist_loss, LOGITS),
    "dkd": Loss(decoupled_loss, ("logits", "known", "mask", "where")),
    "cosine": Loss(cosine_loss, ("adapted", "theirs", "valid")),
    "fitnet": Loss(fitnet_loss, ("adapted", "theirs", "valid")),
    "attention": Loss(attention_loss, ("ours", "theirs", "valid")),
    "pairwise": Loss(pairwise_loss, ("ours", "theirs", "valid")),
    "ifvd": Loss(ifvd_loss, ("ours", "theirs", "mask", "valid")),
    "mgd": Loss(mgd_loss, ("ours", "theirs", "valid", "generator")),
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


class Objective(nn.Module):
    """loss = alpha * hard + beta * soft + auxiliary * (the same of extra heads) + the further losses.

    Without a teacher only what compares with the masks remains; a term of weight 0 is not computed. What of
    it trains along (1x1 convolutions to the teacher's channels, a generator, heads on inner layers) is in
    `adapters`, and is no part of the student.

    Args:
        config: weights, options and temperature.
        student: the network that is trained, as it is called (before any wrapping).
        teacher: the frozen one, or None.
        class_weights: K, how much the pixels of each class count in the hard loss; None for all alike.

    Raises:
        ValueError: a loss or option is unknown or needs a teacher, or a network does not name its layers.
    """

    class_weights: Tensor | None
    stride: int = 1
    """Pixels of the image per position of the student's features, where losses compare them."""

    def __init__(
        self,
        config: ObjectiveConfig,
        student: nn.Module,
        teacher: Teacher | None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.options = check_losses(config, distils=teacher is not None)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.adapters = nn.ModuleDict()
        self.heads: list[FeatureHook] = []
        self.hooks: tuple[FeatureHook, FeatureHook] | None = None
        if config.auxiliary:
            layers = getattr(student, "auxiliary", None) or [None]
            self.heads = [FeatureHook(student, layer, "the network's `auxiliary`") for layer in layers]
        if teacher is not None and FEATURE_LOSSES.intersection(self.options):
            self.hooks = (
                FeatureHook(student, config.student_layer, "objective.student_layer"),
                FeatureHook(teacher.network.module, config.teacher_layer, "objective.teacher_layer"),
            )
        if self.heads or self.hooks:
            self._make_adapters(student, teacher)

    def _make_adapters(self, student: nn.Module, teacher: Teacher | None) -> None:
        """Modules for the channels that one forward pass shows; the student's mode is restored."""
        training = student.training
        student.eval()
        try:
            with torch.no_grad():
                image = torch.zeros(1, 3, 64, 64)
                classes = student(image).shape[1]
                if self.hooks is not None and teacher is not None:
                    teacher(image)
        finally:
            student.train(training)
        for index, head in enumerate(self.heads):
            self.adapters[f"auxiliary_{index}"] = nn.Conv2d(head.take().shape[1], classes, 1)
        if self.hooks is not None:
            maps = [hook.take() for hook in self.hooks]
            ours, theirs = (features.shape[1] for features in maps)
            self.stride = image.shape[2] // maps[0].shape[2]
            for name, options in self.options.items():
                # Standardised features are negative too, which the student's are not after a ReLU.
                if "adapted" in LOSSES[name].sees and (ours != theirs or options.get("standardised")):
                    self.adapters[name] = nn.Conv2d(ours, theirs, 1)
                elif "generator" in LOSSES[name].sees:
                    self.adapters[name] = generation_block(ours, theirs)

    def forward(
        self, batch: Batch, student: Tensor, teacher: Tensor | None, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            batch: N views with masks.
            student: N x K x H x W logits, from a forward pass that has just been made.
            teacher: N x K x H x W logits of the same views, or None without a teacher.
            progress: 0 at the first step, 1 at the last; for weights and temperatures that change.

        Returns:
            Scalars by name: `hard`, `soft`, `auxiliary` and the further losses as far as they are in use, and
            their weighted sum `loss`, which alone is for differentiation.
        """
        terms = self._hard_and_soft(batch, student, teacher, progress)
        if self.heads:
            terms["auxiliary"] = (self.config.auxiliary, self._auxiliary(batch, teacher, progress))
        terms |= self._further(batch, student, teacher, progress)
        loss = weighted_sum(terms)
        if not terms.keys() - FEATURE_LOSSES:
            loss = (
                loss + 0 * student.float().mean()
            )  # every parameter gets a gradient, as several processes need
        return {"loss": loss} | {name: term.detach() for name, (_, term) in terms.items()}

    def _hard_and_soft(
        self, batch: Batch, student: Tensor, teacher: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of the two losses that all logits have."""
        config = self.config
        terms = {}
        if largest(config.alpha):
            hard = hard_loss(
                student,
                batch.mask,
                target_b=batch.target_b,
                lam=batch.lam,
                smoothing=config.label_smoothing,
                weights=self.class_weights,
            )
            terms["hard"] = (at(config.alpha, progress), hard)
        if teacher is not None and largest(config.beta):
            soft = soft_loss(student, teacher, at(config.temperature, progress), self._taught(batch))
            terms["soft"] = (at(config.beta, progress), soft)
        return terms

    def _taught(self, batch: Batch) -> Tensor:
        """The pixels that logits are compared at, N x H x W bool."""
        return batch.valid if self.config.soft_on_void else batch.valid & (batch.mask != VOID)

    def _auxiliary(self, batch: Batch, teacher: Tensor | None, progress: float) -> Tensor:
        """The weighted hard and soft loss of the heads, each at its own layer's size; their mean."""
        losses = []
        for index, hook in enumerate(self.heads):
            logits = self.adapters[f"auxiliary_{index}"](hook.take())
            small, known = shrink(batch, teacher, logits.shape[2:])
            losses.append(weighted_sum(self._hard_and_soft(small, logits, known, progress)))
        return torch.stack(losses).mean()

    def _further(
        self, batch: Batch, student: Tensor, teacher: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each of the further losses."""
        seen: dict[str, Any] = {
            "logits": student,
            "known": teacher,
            "mask": batch.mask,
            "where": self._taught(batch),
            "valid": batch.valid,
        }
        if self.hooks is not None:
            ours, theirs = self.hooks
            seen["ours"] = ours.take()
            seen["theirs"] = theirs.take() if batch.teacher_features is None else batch.teacher_features
        terms = {}
        for name, options in self.options.items():
            adapter = self.adapters[name] if name in self.adapters else nn.Identity()
            own = {"generator": adapter}
            if "adapted" in LOSSES[name].sees:
                own["adapted"] = adapter(seen["ours"])
            inputs = [(seen | own)[key] for key in LOSSES[name].sees]
            terms[name] = (at(self.config.weight(name), progress), LOSSES[name].function(*inputs, **options))
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
    supervised = [name for name, loss in LOSSES.items() if loss.sees == SUPERVISED]
    lost = [name for name in config.weighted if not distils and name not in supervised]
    if lost:
        raise ValueError(
            f"objective.losses names {', '.join(lost)}, but there is no teacher: set --teacher, "
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
        known = ", ".join(["weight", *options])
        raise ValueError(f"objective.losses.{name} has no option {option!r}; it has {known}")
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


def weighted_sum(terms: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    """The sum of all weight * term."""
    return torch.stack([weight * term for weight, term in terms.values()]).sum()


def generation_block(channels: int, out_channels: int) -> nn.Sequential:
    """N x C x h x w -> N x C' x h x w: a 1x1 convolution to C' channels, then 3x3, ReLU, 3x3."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )


def shrink(batch: Batch, teacher: Tensor | None, size: torch.Size) -> tuple[Batch, Tensor | None]:
    """A batch's masks (by nearest neighbour) and the teacher's logits (averaged) at the size h x w."""
    small = replace(
        batch,
        mask=nearest(batch.mask, size),
        valid=nearest(batch.valid, size),
        target_b=None if batch.target_b is None else nearest(batch.target_b, size),
    )
    return small, None if teacher is None else F.interpolate(teacher.float(), size=size, mode="area")
