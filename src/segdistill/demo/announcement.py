"""The first line of the demonstration: what is about to happen, and about how long it takes."""

from segdistill.config.demo import DemoConfig
from segdistill.data.datasets import open_training, open_validation
from segdistill.demo.plan import MASKED, SCORED, TEACHER_IMAGES, UNMASKED, Plan
from segdistill.demo.side_by_side import MOST_PROCESSES, usable_cores

PIXEL_SECONDS, TEACHER_PIXEL_SECONDS = 1.2e-6, 2.1e-6
"""Seconds of one core that a pixel of a training crop takes, of student and teacher."""
OTHER_SECONDS = 50
"""Seconds of everything else: drawing, the teacher's logits, the report, the exported file."""


def announcement(plan: Plan, config: DemoConfig) -> str:
    """What is about to happen with drawn images, and how long it takes."""
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
    """What is about to happen with one's own images, and how long it takes."""
    files, scored = open_training(plan.distilled[0].data), open_validation(plan.distilled[0].data)
    masked = files.labelled
    counts = f"{masked:,} images with masks of {config.data.root}"
    if len(files) > masked:
        counts += f" ({len(files) - masked:,} more without masks for the distilled one)"
    student = plan.alone[0]
    teacher = (
        "No teacher is named: a larger network is trained first, on the same masks. It has seen nothing that "
        "the student has not, so expect little of it; --teacher names a better one"
        if plan.teacher_training is not None
        else f"The teacher is {' and '.join(plan.distilled[0].teacher.specs)}"
    )
    return (
        f"A small student learns from {counts}, alone and with a teacher; {config.seeds} seeds each, scored "
        f"on {len(scored):,} other images. {teacher}. Images are downscaled to {student.data.long_side} "
        f"pixels, crops are {student.size}: a quick look, no final scores; {duration(plan)}, all in "
        f"{config.out}"
    )


def duration(plan: Plan) -> str:
    """About how long the trainings take on this machine's cores, in words."""
    pixels = sum(one.steps * one.batch * one.size**2 for one in plan.students) * PIXEL_SECONDS
    seconds = OTHER_SECONDS + pixels / min(len(plan.students), usable_cores(), MOST_PROCESSES)
    if plan.teacher_training is not None:
        first = plan.teacher_training
        seconds += first.steps * first.batch * first.size**2 * TEACHER_PIXEL_SECONDS
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)} on {usable_cores()} CPU cores"
