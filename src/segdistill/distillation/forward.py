"""One forward pass of student and teacher: the logits and features that the losses compare."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from segdistill.config.train import ObjectiveConfig
from segdistill.data.batch import Batch
from segdistill.distillation.table import FEATURE_LOSSES
from segdistill.models.backbones import FeatureTeacher
from segdistill.models.hooks import FeatureHook
from segdistill.models.renormalize import Renormalize
from segdistill.models.teacher import Teacher
from segdistill.models.zoo import PROBE_SIDE, probe


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What student and teacher give for a batch of N crops."""

    student_logits: Tensor
    """N x K x H x W."""
    teacher_logits: Tensor | None = None
    """N x K x H x W, None without a teacher, or where it gives features alone."""
    student_features: Tensor | None = None
    """N x C x h x w, where losses compare features."""
    teacher_features: Tensor | None = None
    """N x C' x any size."""
    auxiliary_features: tuple[Tensor, ...] = ()
    """N x C'' x h'' x w'' each: the student's inner layers that have a head of their own."""

    def pick(self, index: int) -> "Outputs":
        """The outputs for one image."""
        one = slice(index, index + 1)
        tensors: dict[str, Any] = {
            name: value[one] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        auxiliary = tuple(features[one] for features in self.auxiliary_features)
        return replace(self, **tensors, auxiliary_features=auxiliary)


class Forward:
    """Forward passes of student and teacher: decides where the teacher's outputs come from.

    Cached logits and features come with the batch; what is missing there is computed live.

    Args:
        config: which losses there are, and which layers they compare.
        student: the network that is trained, as it is called (before any wrapping).
        teacher: the frozen one, or None.
        renormalize: turns a batch's images into the student's input; None where it takes them as they are.

    Raises:
        ValueError: a network does not name its layers.
    """

    stride: int = 1
    """Pixels of the image per position of the student's features, where losses compare them."""

    def __init__(
        self,
        config: ObjectiveConfig,
        student: nn.Module,
        teacher: Teacher | FeatureTeacher | None,
        renormalize: Renormalize | None = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.renormalize = renormalize or Renormalize()
        self.auxiliary: list[FeatureHook] = []
        self.student_hook: FeatureHook | None = None
        self.teacher_hook: FeatureHook | None = None
        if config.auxiliary:
            layers = getattr(student, "auxiliary", None) or [None]
            self.auxiliary = [FeatureHook(student, layer, "the network's `auxiliary`") for layer in layers]
        if teacher is not None and FEATURE_LOSSES.intersection(config.weighted):
            self.student_hook = FeatureHook(student, config.student_layer, "objective.student_layer")
            if isinstance(teacher, Teacher):
                module, layer = teacher.network.module, config.teacher_layer
                self.teacher_hook = FeatureHook(module, layer, "objective.teacher_layer")

    def __call__(self, network: nn.Module, batch: Batch) -> Outputs:
        """The outputs for a batch; `network` is the student, wrapped or not."""
        student_logits = network(self.renormalize(batch.image))
        teacher_logits, teacher_features = batch.teacher_logits, batch.teacher_features
        if isinstance(self.teacher, FeatureTeacher):
            if teacher_features is None:
                teacher_features = self.teacher(batch.image)
            return self._outputs(student_logits, None, teacher_features)
        is_cached = teacher_logits is not None and (self.teacher_hook is None or teacher_features is not None)
        if self.teacher is not None and not is_cached:
            live = self.teacher(batch.image)
            teacher_logits = live if teacher_logits is None else teacher_logits
        return self._outputs(student_logits, teacher_logits, teacher_features)

    def probe(self) -> Outputs | None:
        """The outputs for one black image: adapters are made for their channels. None where none are."""
        if not self.auxiliary and self.student_hook is None:
            return None
        student_logits, teacher_features = probe(self.student), None
        if self.student_hook is not None and self.teacher is not None:
            found = probe(self.teacher)
            teacher_features = found if isinstance(self.teacher, FeatureTeacher) else None
        outputs = self._outputs(student_logits, None, teacher_features)
        if outputs.student_features is not None:
            self.stride = PROBE_SIDE // outputs.student_features.shape[2]
        return outputs

    def _outputs(
        self, student_logits: Tensor, teacher_logits: Tensor | None, teacher_features: Tensor | None
    ) -> Outputs:
        """These logits, and the features that the hooks hold."""
        student_features = None
        if self.student_hook is not None:
            student_features = self.student_hook.pop()
            if teacher_features is None and self.teacher_hook is not None:
                teacher_features = self.teacher_hook.pop()
        return Outputs(
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            student_features=student_features,
            teacher_features=teacher_features,
            auxiliary_features=tuple(hook.pop() for hook in self.auxiliary),
        )
