"""The losses that `objective.losses` may name: the one table, and the check of what settings say of them."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segdistill.config.naming import setting
from segdistill.config.train import ObjectiveConfig
from segdistill.config.values import Scheduled, did_you_mean, largest
from segdistill.distillation.feature_losses import (
    attention_loss,
    cosine_loss,
    fitnet_loss,
    ifvd_loss,
    mgd_loss,
    pairwise_loss,
)
from segdistill.distillation.losses import (
    channel_loss,
    decoupled_loss,
    dist_loss,
    jensen_shannon_loss,
    pseudo_label_loss,
    reverse_kl_loss,
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
    "pseudo_label": Loss(pseudo_label_loss, LOGITS),
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

FEATURE_LOSSES = frozenset(name for name, loss in LOSSES.items() if "teacher_features" in loss.inputs)
"""Those that compare feature maps, for which the teacher's logits alone do not do."""


def compares_features_alone(config: ObjectiveConfig) -> bool:
    """Whether all losses in use compare feature maps, so that none trains the logits."""
    return not (largest(config.alpha) or largest(config.beta)) and FEATURE_LOSSES.issuperset(config.weighted)


def check_losses(
    config: ObjectiveConfig, *, distils: bool, features_only: bool = False
) -> dict[str, dict[str, float]]:
    """The options of each further loss that is in use, by its name.

    Args:
        config: names them.
        distils: whether there is a teacher.
        features_only: whether that teacher gives features and no logits.

    Raises:
        ValueError: a loss or an option is unknown, a value is impossible, or a loss needs a teacher, or one
            of another kind.
    """
    for name, value in config.losses.items():
        if name not in LOSSES:
            names, hint = ", ".join(LOSSES), did_you_mean(name, LOSSES)
            raise ValueError(f"objective.losses names {name!r}, but the losses are {names}{hint}")
        for option, number in options_of(value):
            check_option(name, option, number)
    supervised = [name for name, loss in LOSSES.items() if loss.inputs == SUPERVISED]
    distilling = [name for name in config.weighted if name not in supervised]
    if distilling and not distils:
        raise ValueError(
            f"objective.losses names {', '.join(distilling)}, but there is no teacher: set "
            f"{setting('teacher')}, or take {', '.join(supervised)}"
        )
    if features_only:
        _check_features_only(config)
    return {
        name: {
            option: type(LOSSES[name].options[option])(number)
            for option, number in options_of(config.losses[name])
        }
        for name in config.weighted
    }


def _check_features_only(config: ObjectiveConfig) -> None:
    """Raise a `ValueError` unless the losses are those of a teacher that gives features and no logits."""
    choices = ", ".join(name for name in LOSSES if name in FEATURE_LOSSES)
    wrong = [name for name in config.weighted if "teacher_logits" in LOSSES[name].inputs]
    if wrong:
        raise ValueError(
            f"objective.losses names {', '.join(wrong)}, but teacher.features_only is true, so there are no "
            f"logits to compare: take {choices}"
        )
    if not FEATURE_LOSSES.intersection(config.weighted):
        raise ValueError(
            f"objective.losses names no loss of features, but teacher.features_only is true: take {choices}"
        )


def options_of(value: Scheduled | Mapping[str, Scheduled]) -> Iterator[tuple[str, Any]]:
    """Names and values of what is set of a loss beside its weight."""
    if isinstance(value, Mapping):
        yield from ((option, number) for option, number in value.items() if option != "weight")


def check_option(name: str, option: str, number: object) -> None:
    """Raise a `ValueError` unless loss `name` has this option, and the number is possible."""
    options = LOSSES[name].options
    if option not in options:
        choices = ", ".join(["weight", *options])
        hint = did_you_mean(option, ("weight", *options))
        raise ValueError(f"objective.losses.{name} has no option {option!r}; it has {choices}{hint}")
    low, high = LIMITS.get(option, (0, math.inf))
    whole = isinstance(options[option], int)
    good = isinstance(number, int | float) and low <= number <= high and number < math.inf
    if not good or (whole and number != int(number)):  # type: ignore[call-overload]
        kind = "a whole number" if whole else "one number"
        limits = f"from {low} to {high}" if high < math.inf else "of 0 or more, and finite"
        raise ValueError(f"objective.losses.{name}.{option} is {number!r}, but must be {kind} {limits}")
