"""The objective: which losses with which weights, as named terms whose weighted sum is the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.config.train import ObjectiveConfig
from segdistill.config.values import Scheduled, largest
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID
from segdistill.distillation.feature_losses import (
    nearest,
)
from segdistill.distillation.forward import Outputs
from segdistill.distillation.losses import (
    hard_loss,
    soft_loss,
)
from segdistill.distillation.table import FEATURE_LOSSES, LOSSES, check_losses


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
        shared: indices of the classes that the teacher has; None for all. Losses of its logits compare the
            probabilities of these, renormalised in both networks.

    Raises:
        ValueError: a loss or option is unknown or needs a teacher.
    """

    class_weights: Tensor | None
    shared: Tensor | None

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        distils: bool,
        example: Outputs | None = None,
        class_weights: Tensor | None = None,
        shared: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.options = check_losses(config, distils=distils)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("shared", None if shared is None else torch.tensor(shared), persistent=False)
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
            student, teacher = self._of_shared(student_logits), self._of_shared(teacher_logits)
            soft = soft_loss(student, teacher, self._soft_valid(batch), temperature=temperature)
            terms["soft"] = Term(at(config.beta, progress), soft)
        return terms

    def _of_shared(self, logits: Tensor) -> Tensor:
        """N x K x H x W -> N x K_s x H x W logits of the classes that the teacher has."""
        return logits if self.shared is None else logits[:, self.shared]

    def _compared(self, batch: Batch, outputs: Outputs) -> dict[str, Any]:
        """What losses of the teacher's logits get where it lacks classes: the shared ones, renumbered."""
        if self.shared is None or outputs.teacher_logits is None:
            return {}
        renumbered = torch.full((VOID + 1,), VOID, device=batch.mask.device)
        renumbered[self.shared] = torch.arange(len(self.shared), device=batch.mask.device)
        return {
            "student_logits": self._of_shared(outputs.student_logits),
            "teacher_logits": self._of_shared(outputs.teacher_logits),
            "mask": renumbered[batch.mask],
        }

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
        compared = self._compared(batch, outputs)
        terms = {}
        for name, options in self.options.items():
            loss = LOSSES[name]
            adapter = self.adapters[name] if name in self.adapters else nn.Identity()
            if "generator" in loss.inputs:
                inputs["generator"] = adapter
            if "adapted_features" in loss.inputs:
                inputs["adapted_features"] = adapter(inputs["student_features"])
            given = inputs | compared if "teacher_logits" in loss.inputs else inputs
            value = loss.function(*(given[key] for key in loss.inputs), **options)
            terms[name] = Term(at(self.config.weight(name), progress), value)
        return terms


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
