"""What a run folder has written down, read back for the report; a record that is not there yet is None."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.data.labels import VOC, LabelSet, read_yaml
from segdistill.engine.run_folder import CONFIG
from segdistill.files import LINES_BYTES, YAML_BYTES, read_json, read_text
from segdistill.models.card import ModelCard, is_run, read_card

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


def read_records(run: Path, name: str) -> Records:
    """Read the records of a run folder.

    Args:
        run: the folder.
        name: what the report calls it.

    Raises:
        FileNotFoundError: it is no run folder.
        ValueError: a record is damaged.
    """
    if not is_run(run) and not (run / CONFIG).is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder: it has neither a config.yaml nor a model.json "
            "(`segdistill train --out FOLDER` makes one)"
        )
    config = run / CONFIG
    history = _read_history(run / "history.jsonl")
    metrics = _read_json(run / "metrics.json") or {}
    return Records(
        name=name,
        figures=run / "figures",
        settings_file=config,
        settings=read_text(config, YAML_BYTES) if config.is_file() else "",
        config=read_yaml(config) if config.is_file() else {},
        environment=_read_json(run / "environment.json"),
        steps=[record for record in history if "evaluation" not in record],
        evaluations=[
            {"step": record["step"], **record["evaluation"]} for record in history if "evaluation" in record
        ],
        best=_evaluation(metrics, "best", run),
        last=_evaluation(metrics, "last", run),
        card=read_card(run) if is_run(run) else None,
        cost=_read_json(run / "cost.json"),
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


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return content


def _evaluation(metrics: dict[str, Any], which: str, run: Path) -> dict[str, Any] | None:
    """The best or the last evaluation of a metrics.json, None where there is none."""
    summary = metrics.get(which)
    if summary is not None and not (isinstance(summary, dict) and isinstance(summary.get("iou"), dict)):
        raise ValueError(f"{run / 'metrics.json'} is damaged: {which!r} is no evaluation")
    return summary


def _read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history.jsonl; the last one may be torn, where a machine lost power."""
    lines = read_text(path, LINES_BYTES).splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if "evaluation" in record:
                record["evaluation"] = dict(record["evaluation"])
            records.append({**record, "step": int(record["step"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path} is damaged: line {number} is no record with a step") from None
    return records
