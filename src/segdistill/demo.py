"""The demonstration: draws data, trains a teacher, and a student without and with it, and compares them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from segdistill.api import load_student, report, train
from segdistill.config.train import (
    AugmentConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from segdistill.console import console, log
from segdistill.data.shapes import write_shapes
from segdistill.engine.run_folder import RunFolder
from segdistill.profiling.cost import measure_cost

SIZE = 96
"""Side of the drawn images in pixels."""
TITLES = {"teacher": "teacher", "student-alone": "student alone", "student-distilled": "student distilled"}


def demo(out: Path, *, seed: int = 0, device: str = "auto", overwrite: bool = False) -> dict[str, Any]:
    """Draw data, train the three networks and compare them, offline.

    The teacher is the reference network at half its width, the student the same network at an eighth of it;
    both students have the same steps, data order and seed.

    Args:
        out: gets the data set and the three run folders.
        seed: of the data, the weights and the order.
        device: auto, cpu, cuda or mps.
        overwrite: delete earlier runs in `out` first.

    Returns:
        The measured table by network, and the path of the report.

    Raises:
        ValueError: `out` holds earlier runs and `overwrite` is not set.
    """
    data = out / "data"
    log(f"Drawing the data set into {data}")
    write_shapes(data, seed=seed, size=SIZE)
    for name, config in experiments(out, data, seed, device).items():
        log(f"\n{TITLES[name]}: {config.steps} steps of {config.batch} crops")
        train(config, overwrite=overwrite)
    runs = [out / name for name in ("student-alone", "student-distilled", "teacher")]
    page = report(runs, out / "report.html")
    networks = {name: load_student(out / name) for name in TITLES}
    measured = measure_cost(networks, size=SIZE)
    rows = {}
    for row in measured["networks"]:
        best = RunFolder(out / row["name"]).best
        rows[row["name"]] = {key: best[key] for key in ("miou", "pixel_accuracy")} | row
    console.print(comparison(rows, measured["threads"]))
    gain = 100 * (rows["student-distilled"]["miou"] - rows["student-alone"]["miou"])
    log(f"Distillation {'added' if gain > 0 else 'did not help here: it changed'} {gain:+.1f} points of mIoU."
        f"\nThe report with curves and pictures: {page}")  # fmt: skip
    return {"networks": rows, "gain_points": gain, "report": str(page)}


def experiments(out: Path, data: Path, seed: int, device: str) -> dict[str, TrainConfig]:
    """The three trainings by name, in order."""
    teacher = TrainConfig(
        data=DataConfig(root=str(data)),
        augment=AugmentConfig(scale=(0.75, 1.5)),
        objective=ObjectiveConfig(alpha=1.0, beta=0.0),
        student=StudentConfig(width=0.5),
        optim=OptimConfig(lr=2e-3, warmup=50, clip=1.0),
        size=64,
        batch=16,
        steps=1600,
        evaluate_every=800,
        seed=seed,
        device=device,
        out=str(out / "teacher"),
    )
    alone = replace(
        teacher,
        student=StudentConfig(width=0.125),
        optim=replace(teacher.optim, lr=4e-3),
        steps=1400,
        evaluate_every=700,
        out=str(out / "student-alone"),
    )
    distilled = replace(
        alone,
        teacher=TeacherConfig(spec=str(out / "teacher")),
        objective=ObjectiveConfig(alpha=0.3, beta=0.7, temperature=2.0),
        out=str(out / "student-distilled"),
    )
    return {"teacher": teacher, "student-alone": alone, "student-distilled": distilled}


def comparison(rows: dict[str, Any], threads: int) -> Table:
    """The table that the demonstration ends with."""
    table = Table(title=f"Validation set, {SIZE} x {SIZE} pixels; latency on {threads} CPU threads, float32")
    table.add_column("network")
    for column in ("mIoU", "pixel accuracy", "parameters", "CPU latency"):
        table.add_column(column, justify="right")
    for name, title in TITLES.items():
        row = rows[name]
        table.add_row(
            title,
            f"{row['miou']:.3f}",
            f"{row['pixel_accuracy']:.3f}",
            f"{row['parameters']:,}",
            f"{row['latency_ms']:.1f} ms",
        )
    return table
