"""The objective: which losses with which weights, as named terms whose weighted sum is the loss."""

import torch
from torch import Tensor, nn

from segdistill.config import ObjectiveConfig
from segdistill.data.labels import VOID
from segdistill.data.loaders import Batch
from segdistill.distillation.features import FeatureTap
from segdistill.distillation.losses import cosine_loss, hard_loss, soft_loss
from segdistill.models.teacher import Teacher


class Objective(nn.Module):
    """loss = alpha * hard + beta * soft + gamma * feature.

    Without a teacher only the hard term remains; a term of weight 0 is not computed. Where gamma is above
    0 and the networks' deepest features differ in channels, a 1x1 convolution maps the student's onto the
    teacher's; it trains along, and is no part of the student.

    Args:
        config: weights and temperature.
        student: the network that is trained, as it is called (before any wrapping).
        teacher: the frozen one, or None.

    Raises:
        ValueError: gamma is above 0 and a network does not name its deepest module.
    """

    def __init__(self, config: ObjectiveConfig, student: nn.Module, teacher: Teacher | None) -> None:
        super().__init__()
        self.config = config
        self.distils = teacher is not None
        self.adapter: nn.Module = nn.Identity()
        self.taps: tuple[FeatureTap, FeatureTap] | None = None
        if teacher is not None and config.gamma:
            self.taps = (
                FeatureTap(student, config.student_layer, "objective.student_layer"),
                FeatureTap(teacher.network.module, config.teacher_layer, "objective.teacher_layer"),
            )
            ours, theirs = self._channels(student, teacher)
            if ours != theirs:
                self.adapter = nn.Conv2d(ours, theirs, 1)

    def _channels(self, student: nn.Module, teacher: Teacher) -> tuple[int, ...]:
        """Channels of both feature maps, found by one forward pass; the student's mode is restored."""
        assert self.taps is not None
        training = student.training
        student.eval()
        try:
            with torch.no_grad():
                image = torch.zeros(1, 3, 64, 64)
                student(image)
                teacher(image)
        finally:
            student.train(training)
        return tuple(tap.take().shape[1] for tap in self.taps)

    def forward(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            batch: N views with masks.
            student: N x K x H x W logits, from a forward pass that has just been made.
            teacher: N x K x H x W logits of the same views, or None without a teacher.

        Returns:
            Scalars by name: `hard`, `soft` and `feature` as far as they are in use, and their weighted
            sum `loss`, which alone is for differentiation.
        """
        config = self.config
        weighted: dict[str, tuple[float, Tensor]] = {}
        if config.alpha:
            weighted["hard"] = (config.alpha, hard_loss(student, batch.mask))
        if teacher is not None and config.beta:
            where = batch.inside if config.soft_on_void else batch.inside & (batch.mask != VOID)
            weighted["soft"] = (config.beta, soft_loss(student, teacher, config.temperature, where))
        if self.taps is not None:
            ours, theirs = (tap.take() for tap in self.taps)
            weighted["feature"] = (config.gamma, cosine_loss(self.adapter(ours), theirs, batch.inside))
        loss = torch.stack([weight * term for weight, term in weighted.values()]).sum()
        return {"loss": loss} | {name: term.detach() for name, (_, term) in weighted.items()}
