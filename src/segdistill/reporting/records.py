"""What a run folder has written down, read back for the report; a record that is not there yet is None."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segdistill.data.labels import VOC, LabelSet, read_yaml
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import ModelCard

TEACHER = "teacher"
"""Name of the teacher beside the runs, which no run may have."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records of one run.

    Attributes:
        name: what the report calls it.
        figures: the folder of its figures.
        settings_file: its config.yaml.
        settings: config.yaml as text, empty where there is none.
        config: config.yaml parsed.
        environment: versions, device, command, ...
        steps: logged steps, each with `step` and scalar terms.
        evaluations: evaluations during training, each with `step`, scores and `iou` by class.
        best: the evaluation of the weights that were kept.
        last: the newest evaluation.
        card: what the weights are, None before the first evaluation.
        cost: parameters, FLOPs and latency.
        image_counts: right, predicted and true pixels by class of each image of the best evaluation, 3 x K
            by id; empty where they were not kept.
    """

    name: str
    figures: Path
    settings_file: Path
    settings: str
    config: dict[str, Any]
    environment: dict[str, Any] | None
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    best: dict[str, Any] | None
    last: dict[str, Any] | None
    card: ModelCard | None
    cost: dict[str, Any] | None
    image_counts: dict[str, np.ndarray]

    @property
    def scores(self) -> Mapping[str, Any]:
        """The best evaluation's scores; those of the model card where the evaluation itself is gone."""
        return self.best or (self.card.metrics if self.card else {})

    @property
    def image_scores(self) -> dict[str, float | None]:
        """Mean IoU of each image of the best evaluation, by id; empty where there is none."""
        images = (self.best or {}).get("images")
        return images if isinstance(images, dict) else {}

    @property
    def class_names(self) -> list[str]:
        """Class names in index order, empty before the first evaluation."""
        return list(self.card.labels.names) if self.card else list((self.best or {}).get("iou", {}))

    @property
    def labels(self) -> LabelSet:
        """Names and colours of the classes; VOC's before the first evaluation."""
        if self.card:
            return self.card.labels
        return LabelSet(names=tuple(self.class_names)) if len(self.class_names) > 1 else VOC

    def network(self, name: str) -> dict[str, Any]:
        """What one network of cost.json costs, empty where it was not measured."""
        networks = (self.cost or {}).get("networks", [])
        return next((network for network in networks if network.get("name") == name), {})


def read_records(folder: RunFolder, name: str) -> Records:
    """Read the records of a run folder.

    Args:
        folder: the run.
        name: what the report calls it.

    Raises:
        FileNotFoundError: it is no run folder.
        ValueError: a record is damaged.
    """
    folder.require()
    steps, evaluations = folder.history()
    metrics = folder.metrics
    return Records(
        name=name,
        figures=folder.figures,
        settings_file=folder.config_file,
        settings=folder.config_text,
        config=read_yaml(folder.config_file) if folder.config_text else {},
        environment=folder.environment,
        steps=steps,
        evaluations=evaluations,
        best=metrics["best"],
        last=metrics["last"],
        card=folder.card,
        cost=folder.cost,
        image_counts=folder.image_counts,
    )


def run_names(runs: Sequence[Path]) -> list[str]:
    """A different name for each run folder: its own, with as many parents before it as that takes.

    Raises:
        ValueError: a folder is named twice, or none is.
    """
    folders = [run.resolve() for run in runs]
    if not folders or len(set(folders)) < len(folders):
        raise ValueError(
            f"runs are {', '.join(map(str, runs)) or 'none'}, but must be one or more folders, each once"
        )
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names) and TEACHER not in names:
            return names
        depth += 1
