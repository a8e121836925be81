"""Everything that one training is made of, opened once."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from segdistill.config.train import TrainConfig
from segdistill.data.cache.teacher import TeacherCache
from segdistill.data.frequencies import class_weights
from segdistill.data.labels import LabelSet
from segdistill.data.sampler import batch_pools
from segdistill.data.samples import FileSamples, Samples
from segdistill.models.backbones import FeatureTeacher
from segdistill.models.card import ModelCard
from segdistill.models.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training before its first step.

    Attributes:
        config: the settings.
        student: the network to train, with the weights it starts from.
        teacher: the frozen one, or None for supervised training.
        files: the training images and masks at the size of their files; unlabelled images have void masks.
        train: the same as training reads them: downscaled, and from a cache, where the settings say so.
        val: what is evaluated on.
        card: describes the student; scores are filled in.
        cache: the teacher's outputs for `files`, None to compute them live.
    """

    config: TrainConfig
    student: nn.Module
    teacher: Teacher | FeatureTeacher | None
    files: Samples
    train: Samples
    val: FileSamples
    card: ModelCard
    cache: TeacherCache | None = None

    @property
    def labels(self) -> LabelSet:
        """The K classes."""
        return self.card.labels

    @property
    def summary(self) -> str:
        """What is trained from what, on one line."""
        parameters = sum(p.numel() for p in self.student.parameters())
        labelled, unlabelled = self.files.labelled, len(self.files) - self.files.labelled
        teachers = " and ".join(self.config.teacher.specs)
        source = f"distilled from {teachers}" if self.teacher else "without a teacher"
        return (
            f"Training {self.config.student.spec} ({parameters:,} parameters) on {len(self.labels)} classes, "
            f"{labelled:,} images with masks and {unlabelled:,} without, {source}"
        )

    @property
    def steps(self) -> int:
        """Optimizer steps in all; an epoch is a pass over the first pool of images that batches draw from."""
        pool = batch_pools(self.train, self.config)[0]
        return self.config.steps or math.ceil(self.config.epochs * len(pool.indices) / pool.drawn)

    def progress(self, step: int) -> float:
        """From 0 at the first step (counted from 0) to 1 at the last one."""
        return step / max(1, self.steps - 1)

    def class_weights(self) -> Tensor | None:
        """K weights of the classes in the hard loss, from the training masks; None for equal ones."""
        return class_weights(self.train, len(self.labels), self.config.objective.class_weights)
