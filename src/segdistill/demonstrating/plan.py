"""What the demonstration trains: on which images, which networks, with which settings, side by side."""

from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.config.demo import DemoConfig
from segdistill.config.naming import setting
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    StudentConfig,
    TrainConfig,
)
from segdistill.data.shapes import write_shapes
from segdistill.files import usable_cores

MASKED, UNMASKED, SCORED = 40, 400, 100
"""Drawn images that a student gets with masks and without, and those that it is scored on."""
SIDE = 64
"""Of the drawn images, in pixels."""
TEACHER_IMAGES = 4000
"""Drawn images, all with masks, that the teacher of the drawn images is trained on."""
TEACHER_STEPS = 1400
"""Optimiser steps of that teacher."""
TEACHER_SEED = 1_000_000
"""Added to the seed for the teacher's images: none of them is among the students'."""
OWN_SIDE, OWN_CROP = 160, 128
"""Long side that your own images are downscaled to, and the side of their crops, in pixels."""
OWN_IMAGES = 400
"""Most of your own images of each split, where the settings name no other number."""
MOST_PROCESSES = 4
"""Trainings side by side; each takes about 900 MB."""
SHIPPED = Path(__file__).parent / "teacher"
"""The teacher of the drawn images, as `segdistill demo --from_scratch` made it."""

TEACHER_STUDENT = StudentConfig(width=0.5, stride=4)
STUDENT = StudentConfig(width=0.25, stride=4)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trainings of one demonstration.

    Attributes:
        teacher_training: what makes the teacher first; None where there is one.
        alone, distilled: one training for each seed, in the same order.
    """

    teacher_training: TrainConfig | None
    alone: list[TrainConfig]
    distilled: list[TrainConfig]

    @property
    def students(self) -> list[TrainConfig]:
        """All students, those of one seed side by side."""
        return [config for pair in zip(self.alone, self.distilled, strict=True) for config in pair]

    @property
    def trainings(self) -> list[TrainConfig]:
        """All of them."""
        return [*filter(None, [self.teacher_training]), *self.students]


def make_plan(config: DemoConfig, *, from_scratch: bool) -> Plan:
    """The trainings that the settings ask for; nothing is read or written.

    Raises:
        ValueError: a teacher is both named and to be trained.
    """
    if from_scratch and config.teacher.specs:
        raise ValueError(
            f"{setting('from_scratch')} trains a teacher, but {setting('teacher')} names "
            f"{config.teacher.spec}: choose one"
        )
    out = Path(config.out)
    student = _own_student(config) if config.data.root else _drawn_student(config)
    training = None
    if not config.teacher.specs and (from_scratch or config.data.root):
        training = _teacher_training(student, config)
    spec = config.teacher.spec or (str(SHIPPED) if training is None else training.out)
    both = replace(
        student.data, unlabelled=config.data.unlabelled, unlabelled_share=config.data.unlabelled_share
    )
    alone, distilled = [], []
    for seed in range(config.seed, config.seed + config.seeds):
        alone.append(replace(student, seed=seed, out=str(out / f"alone-{seed}")))
        distilled.append(
            replace(
                student,
                data=both,
                teacher=replace(config.teacher, spec=spec, cache=str(out / "cache")),
                objective=ObjectiveConfig(alpha=0.1, beta=1.5, temperature=1.0),
                seed=seed,
                out=str(out / f"distilled-{seed}"),
            )
        )
    return Plan(teacher_training=training, alone=alone, distilled=distilled)


def _drawn_student(config: DemoConfig) -> TrainConfig:
    """A training on the few drawn images with masks, without a teacher."""
    out = Path(config.out)
    return TrainConfig(
        data=DataConfig(
            root=str(out / "data"),
            labelled_share=MASKED / (MASKED + UNMASKED),
            cache=str(out / "images"),
            workers=0,
        ),
        augment=AugmentConfig(scale=(0.75, 1.5), jitter=0.2),
        objective=ObjectiveConfig(alpha=1.0, beta=0.0),
        student=STUDENT,
        optim=OptimConfig(lr=8e-3, warmup=20, clip=1.0),
        size=SIDE,
        batch=16,
        steps=config.steps,
        evaluate_every=config.steps,
        device=config.device,
    )


def _own_student(config: DemoConfig) -> TrainConfig:
    """The same on your own images with masks, which are downscaled and decoded once."""
    side = config.data.long_side or OWN_SIDE
    cache = str(Path(config.out) / "images")
    data = replace(
        config.data, long_side=side, max_images=config.data.max_images or OWN_IMAGES, cache=cache, workers=0,
        unlabelled=[], unlabelled_share=None,
    )  # fmt: skip
    drawn = _drawn_student(config)
    return replace(drawn, data=data, size=OWN_CROP, batch=8, evaluate_size=side)


def _teacher_training(student: TrainConfig, config: DemoConfig) -> TrainConfig:
    """What makes a larger network: on many other drawn images, or on the masks that the students get."""
    data = student.data
    if not config.data.root:
        data = DataConfig(root=str(Path(config.out) / "teacher-data"), workers=0)
    steps = 2 * config.steps if config.data.root else TEACHER_STEPS
    return replace(
        student,
        data=data,
        student=TEACHER_STUDENT,
        optim=replace(student.optim, lr=4e-3, warmup=100),
        steps=steps,
        evaluate_every=steps,
        seed=config.seed,
        out=str(Path(config.out) / "teacher"),
    )


def process_count(trainings: int) -> int:
    """In how many processes so many trainings run side by side."""
    return min(trainings, usable_cores(), MOST_PROCESSES)


def draw_images(plan: Plan, config: DemoConfig) -> None:
    """Draw what the trainings read, where it is not your own.

    Raises:
        ValueError: a folder holds other images.
    """
    if config.data.root:
        return
    root = Path(plan.alone[0].data.root)
    write_shapes(root, seed=config.seed, train=MASKED + UNMASKED, val=SCORED, size=SIDE)
    if plan.teacher_training is not None:
        root = Path(plan.teacher_training.data.root)
        write_shapes(root, seed=TEACHER_SEED + config.seed, train=TEACHER_IMAGES, val=SCORED, size=SIDE)
