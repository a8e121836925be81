"""The settings of `segdistill demo`."""

from dataclasses import dataclass, field

from segdistill.config.naming import setting
from segdistill.config.train import DataConfig, TeacherConfig
from segdistill.config.values import require
from segdistill.config.yaml import read_groups


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demonstration compares: a student that learns from masks alone, and one with a teacher too."""

    data: DataConfig = field(default_factory=DataConfig)
    """Your data set; without a root images are drawn."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Your teacher; without a spec the one that comes with the program (drawn images), or a larger network
    that is first trained on the same masks (your images)."""
    steps: int = 300
    """Optimiser steps of each student."""
    seeds: int = 3
    """Trainings of each kind, with the seeds `seed`, `seed` + 1, ..."""
    seed: int = 0
    """Seeds the drawn images, and the first training of each kind."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str = "runs/demo"
    """Folder for the images, the runs, the report and the exported file."""

    def __post_init__(self) -> None:
        read_groups(self)
        require(bool(self.data.root) or self.data == DataConfig(), "data", "set",
                f"left alone where data.root ({setting('data')}) names no images")  # fmt: skip
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.seeds >= 2, "seeds", self.seeds, "2 or more: one has no deviation")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
