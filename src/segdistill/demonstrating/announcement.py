"""The first line of the demonstration: what is about to happen, and about how long it takes."""

from segdistill.config.demo import DemoConfig
from segdistill.config.naming import setting
from segdistill.demonstrating.plan import (
    MASKED,
    SCORED,
    TEACHER_IMAGES,
    UNMASKED,
    Plan,
    process_count,
)
from segdistill.files import usable_cores

PIXEL_SECONDS, TEACHER_PIXEL_SECONDS = 1.2e-6, 1.5e-6
"""Seconds of one core that a pixel of a training crop takes, of student and teacher."""
OTHER_SECONDS = 50
"""Seconds of everything else: drawing, the teacher's logits, the report, the exported file."""


def announcement(plan: Plan, config: DemoConfig) -> str:
    """What is about to happen, and how long it takes."""
    return own_announcement(plan, config) if config.data.root else drawn_announcement(plan, config)


def drawn_announcement(plan: Plan, config: DemoConfig) -> str:
    """The same of drawn images."""
    teacher = (
        f"the teacher, first trained on {TEACHER_IMAGES:,} other drawn images"
        if plan.teacher_training is not None
        else f"the teacher {plan.distilled[0].teacher.spec}"
        if config.teacher.specs
        else "the teacher that comes with segdistill, trained on other drawn images"
    )
    return (
        f"Few masks, many images: a small student learns from {MASKED} drawn images with masks, alone and "
        f"with {teacher}, whose logits of these and of {UNMASKED} images without masks it learns from too. "
        f"{config.seeds} seeds each, scored on {SCORED} other images; {duration(plan)}, all in {config.out}"
    )


def own_announcement(plan: Plan, config: DemoConfig) -> str:
    """The same of one's own images."""
    student = plan.alone[0]
    teacher = (
        "No teacher is named: a larger network is trained first, on the same masks. It has seen nothing that "
        f"the student has not, so expect little of it; {setting('teacher')} names a better one"
        if plan.teacher_training is not None
        else f"The teacher is {' and '.join(plan.distilled[0].teacher.specs)}"
    )
    return (
        f"A small student learns from the masks of {config.data.root}, alone and with a teacher; "
        f"{config.seeds} seeds each. {teacher}. At most {student.data.max_images:,} images of each split "
        f"take part, downscaled to {student.data.long_side} pixels, crops are {student.size}: a quick look, "
        f"no final scores; {duration(plan)}, all in {config.out}"
    )


def duration(plan: Plan) -> str:
    """About how long the trainings take on this machine's cores, in words."""
    pixels = sum(one.steps * one.batch * one.size**2 for one in plan.students) * PIXEL_SECONDS
    seconds = OTHER_SECONDS + pixels / process_count(len(plan.students))
    if plan.teacher_training is not None:
        first = plan.teacher_training
        seconds += first.steps * first.batch * first.size**2 * TEACHER_PIXEL_SECONDS
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)} on {usable_cores()} CPU cores"
