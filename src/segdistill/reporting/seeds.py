"""Runs that differ in their seed alone: the same training, several times."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from segdistill.engine.run_folder import MAY_CHANGE
from segdistill.reporting.comparison import different_images, flatten
from segdistill.reporting.records import Records


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one training with different seeds, or a run of its own."""

    runs: tuple[Records, ...]

    @property
    def name(self) -> str:
        """What all their names begin with: `alone` of alone-0 and alone-1."""
        names = [run.name for run in self.runs]
        common = os.path.commonprefix(names)  # noqa: RUF071  # names, and no paths
        return (common.rstrip("-_./ ") if len(names) > 1 else common) or names[0]

    @property
    def title(self) -> str:
        """The name, with the seeds where there are several."""
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.name} (seeds {seeds})" if len(self.runs) > 1 else self.name

    @property
    def seeds(self) -> list[int]:
        """The seed of each."""
        return [run.config.get("seed", 0) for run in self.runs]

    @property
    def scores(self) -> list[float]:
        """The mean IoU of each."""
        return [run.scores["miou"] for run in self.runs]


def seed_groups(runs: Sequence[Records]) -> list[SeedGroup]:
    """The runs by what they differ in beside their seed, in the order of the first of each group.

    A run without settings or without a score has a group of its own, and so has each of several runs with one
    seed, or with different images.
    """
    groups: dict[object, list[Records]] = {}
    alike = not different_images(runs)
    for number, run in enumerate(runs):
        key: object = number
        if alike and run.config and run.scores.get("miou") is not None:
            values = flatten(run.config)
            key = tuple(sorted(item for item in values.items() if item[0] not in MAY_CHANGE | {"seed"}))
        groups.setdefault(key, []).append(run)
    found: list[SeedGroup] = []
    for group in groups.values():
        one = SeedGroup(tuple(group))
        found += [one] if len({*one.seeds}) == len(group) else [SeedGroup((run,)) for run in group]
    return found


def over_seeds(runs: Sequence[Records]) -> list[str]:
    """Mean and standard deviation (n - 1) of mIoU over runs that differ in their seed alone, in words."""
    lines = []
    for group in seed_groups(runs):
        if len(group.runs) > 1:
            scores = [100 * score for score in group.scores]
            names, seeds = ", ".join(run.name for run in group.runs), ", ".join(map(str, group.seeds))
            lines.append(
                f"{names} differ in their seed alone ({seeds}): mean IoU {mean(scores):.1f} ± "
                f"{stdev(scores):.1f}\u00a0% (mean and standard deviation over {len(scores)} seeds)."
            )
    return lines


def trainings(runs: Sequence[Records]) -> list[SeedGroup]:
    """What a page compares: trainings that were each made with the same seeds, else the runs one by one."""
    groups = seed_groups(runs)
    seeds = [sorted(group.seeds) for group in groups]
    return groups if all(each == seeds[0] for each in seeds) else [SeedGroup((run,)) for run in runs]


def gains(first: SeedGroup, other: SeedGroup) -> list[float]:
    """Differences in mean IoU of the runs with the same seed."""
    before = dict(zip(first.seeds, first.scores, strict=True))
    return [score - before[seed] for seed, score in zip(other.seeds, other.scores, strict=True)]
