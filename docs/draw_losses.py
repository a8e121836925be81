"""Draws the pictures of docs/losses.md with the real loss functions: `python docs/draw_losses.py`.

Each picture shows what a loss charges: on one pixel's distribution, or at each position of a drawn scene.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from segdistill.data.labels import VOID
from segdistill.distillation.losses import soft_loss
from segdistill.distillation.table import LOSSES
from segdistill.reporting.style import MUTED, SERIES, figure_style

CLASSES = ("road", "car", "bus", "sky")
TEACHER = torch.tensor([0.5, 6.0, 3.5, -1.0])
"""The teacher's logits of one pixel of a car: a bus is the next best."""
SIDE = 24
"""Rows and columns of the drawn scene."""


def one_pixel(logits: Tensor) -> Tensor:
    """K -> 1 x K x 1 x 1."""
    return logits[None, :, None, None]


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Student logits and teacher logits, 1 x 3 x SIDE x SIDE, and the mask with a void border.

    Background, a disc, and a bar that the student has half a bar too far to the right.
    """
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = (rows - 8.5).square() + (columns - 7.5).square() < 25
    bar = (columns >= 16) & (columns < 19) & (rows >= 6)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.long)
    mask[disc], mask[bar] = 1, 2
    moved = torch.zeros_like(mask)
    moved[(rows - 8.5).square() + (columns - 7.5).square() < 16] = 1
    moved[(columns >= 17) & (columns < 20) & (rows >= 6)] = 2
    student, teacher = (4 * smooth(one_hot(labels)) for labels in (moved, mask))
    mask[:2] = VOID
    return student, teacher, mask[None]


def one_hot(labels: Tensor) -> Tensor:
    """H x W -> 1 x 3 x H x W."""
    return torch.nn.functional.one_hot(labels, 3).movedim(-1, 0)[None].float()


def smooth(maps: Tensor) -> Tensor:
    """Blur a little, as networks do."""
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, stride=1)


def features_of(logits: Tensor) -> Tensor:
    """Four channels of features of a network with these logits, 1 x 4 x H x W."""
    mix = torch.tensor([[1.0, 0.2, 0.1], [0.1, 1.0, 0.3], [0.2, 0.1, 1.0], [0.5, 0.5, 0.5]])
    return torch.einsum("ck,nkhw->nchw", mix, logits).relu()


def gradient_map(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    """How strongly the loss pulls at each position: length of its gradient there, H x W."""
    student = student.clone().requires_grad_()
    loss(student).backward()
    assert student.grad is not None
    return student.grad[0].norm(dim=0)


def charged(name: str) -> Tensor:
    """Where in the scene a loss of the table pulls at the student, H x W, largest value 1."""
    torch.manual_seed(0)
    student, teacher, mask = scene()
    valid = torch.ones_like(mask, dtype=torch.bool)
    features = "teacher_features" in LOSSES[name].inputs
    inputs = {
        "teacher_logits": teacher, "mask": mask, "valid": valid, "soft_valid": valid,
        "teacher_features": features_of(teacher), "generator": lambda x: x,
    }  # fmt: skip
    others = [inputs[kind] for kind in LOSSES[name].inputs if kind in inputs]
    pulls = gradient_map(
        lambda moving: LOSSES[name].function(moving, *others), features_of(student) if features else student
    )
    return pulls / pulls.max()


def draw_soft(axes: Sequence[Axes]) -> None:
    """The teacher's distribution at three temperatures, and the loss of three students over T."""
    width = 0.26
    for i, temperature in enumerate((1, 2, 4)):
        heights = (TEACHER / temperature).softmax(dim=0)
        places = [place + (i - 1) * width for place in range(len(CLASSES))]
        axes[0].bar(places, heights.tolist(), width, label=f"T = {temperature}", color=SERIES[i])
    axes[0].set_xticks(range(len(CLASSES)), CLASSES)
    axes[0].set_title("The teacher's probabilities of one pixel")
    axes[0].legend()
    students = {
        "sure of car, then sky": torch.tensor([-1.0, 6.0, 0.5, 3.5]),
        "less sure of car": TEACHER / 3,
        "sure of bus": torch.tensor([0.5, 3.5, 6.0, -1.0]),
    }
    temperatures = torch.linspace(0.5, 8, 60)
    seen = torch.ones(1, 1, 1, dtype=torch.bool)
    for (name, logits), colour in zip(students.items(), SERIES, strict=False):
        loss = partial(soft_loss, one_pixel(logits), one_pixel(TEACHER), seen)
        values = [float(loss(temperature=float(t))) for t in temperatures]
        axes[1].plot(temperatures.tolist(), values, color=colour, label=name)
    axes[1].set_title("Soft loss of three students, in nats")
    axes[1].set_xlabel("temperature T")
    axes[1].legend()


def draw_of_teacher(axes: Sequence[Axes]) -> None:
    """Losses of one pixel's logits, over what the student has for the second class."""
    seen = torch.ones(1, 1, 1, dtype=torch.bool)
    mask = torch.ones(1, 1, 1, dtype=torch.long)  # a car
    steps = torch.linspace(-6, 14, 81)
    for (name, chosen), colour in zip(OF_A_PIXEL.items(), SERIES, strict=False):
        more = [mask] if "mask" in LOSSES[name].inputs else []
        losses = []
        for step in steps:
            student = TEACHER.clone()
            student[1] = step
            loss = LOSSES[name].function(one_pixel(student), one_pixel(TEACHER), seen, *more, **chosen)
            losses.append(float(loss))
        axes[0].plot(steps.tolist(), losses, label=name, color=colour)
    axes[0].axvline(float(TEACHER[1]), color=MUTED, linewidth=0.8, linestyle="dashed")
    axes[0].set_ylim(0, 8)
    axes[0].set_xlabel("the student's logit of car (dashed: the teacher's)")
    axes[0].set_title("Loss of one pixel, its other logits as the teacher's")
    axes[0].legend()


def draw_maps(names: Sequence[str], axes: Sequence[Axes]) -> None:
    """The mask, the student's classes, and where each loss pulls."""
    student, _, mask = scene()
    pictures = {"mask (white: void)": mask[0].float().masked_fill(mask[0] == VOID, torch.nan)}
    pictures["student's classes"] = student.argmax(dim=1)[0].float()
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture.numpy(), cmap="viridis", vmin=0, vmax=2, interpolation="nearest")
        axis.set_title(title)
    for axis, name in zip(axes[2:], names, strict=True):
        axis.imshow(charged(name).numpy(), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)


OF_MASKS = ("ohem", "dice", "lovasz")
OF_LOGITS = ("cwd", "dist")
OF_FEATURES = ("cosine", "fitnet", "attention", "pairwise", "ifvd", "mgd")
OF_A_PIXEL: dict[str, dict[str, float]] = {
    "reverse_kl": {}, "js": {}, "pseudo_label": {}, "dkd": {}, "dist": {"gamma": 0},
}  # fmt: skip
"""Losses that one pixel shows, with options; `dist` without its part over the pixels of a class."""
DRAWN = {*OF_MASKS, *OF_LOGITS, *OF_FEATURES, *OF_A_PIXEL}
"""All further losses."""
PICTURES: dict[str, tuple[int, Callable[[Sequence[Axes]], None]]] = {
    "soft": (2, draw_soft),
    "pixel": (1, draw_of_teacher),
    "masks": (5, partial(draw_maps, OF_MASKS)),
    "logits": (4, partial(draw_maps, OF_LOGITS)),
    "features": (8, partial(draw_maps, OF_FEATURES)),
}
"""By file name: how many axes, and what draws into them."""


def draw(folder: Path) -> list[Path]:
    """Write all pictures as SVG files; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (count, paint) in PICTURES.items():
        with figure_style():
            figure = picture(count, paint)
            files.append(folder / f"{name}.svg")
            figure.savefig(files[-1], metadata={"Date": None})
    return files


def picture(count: int, paint: Callable[[Sequence[Axes]], None]) -> Figure:
    """One row of axes; of maps, at most four in a row."""
    columns = min(count, 4) if count > 5 else count
    rows = -(-count // columns)
    size = (9, 3.2 * rows) if count < 3 else (1.8 * columns + 0.4, 2.0 * rows)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    paint(figure.subplots(rows, columns, squeeze=False).flatten().tolist())
    figure.align_labels()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "losses")
    for file in draw(parser.parse_args().out):
        print(file)
