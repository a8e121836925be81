"""The run folder: the one module that knows its file names, their schemas, its lock and its checkpoints.

model.json and model.safetensors are a format of their own, which `segdistill.models.card` reads and writes;
the files of `checkpoints/` are written by `segdistill.engine.checkpoint`, those of `runtimes/` by
`segdistill.engine.runtime_files`; the few names that are looked for
before PyTorch is loaded stand in `segdistill.config.paths`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from segdistill.config.naming import setting
from segdistill.config.paths import CARD, LOCK, SETTINGS, require_runs, require_writable
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import differences, load, to_yaml
from segdistill.engine.checkpoint import Checkpoints
from segdistill.engine.runtime import environment, from_main_process
from segdistill.engine.runtime_files import RuntimeFiles
from segdistill.files import (
    LINES_BYTES,
    YAML_BYTES,
    locked,
    read_json,
    read_text,
    remove_temporaries,
    write_atomic,
)
from segdistill.models.card import WEIGHTS, ModelCard, is_run, read_card, read_model, save_model
from segdistill.models.identity import file_digest
from segdistill.models.trained import TrainedNetwork, load_network

MAY_CHANGE = frozenset(
    {
        "data.workers",
        "data.cache",
        "data.cache_gb",
        "device",
        "trackers",
        "log_every",
        "checkpoint_every",
        "out",
    }
)
"""Settings that a resumed run may have other values of: they change no weight."""

Record = dict[str, Any]


class RunFolder:
    """One training: its settings, records, checkpoints, and the student that it ends with.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / SETTINGS
        self.history_file = self.path / "history.jsonl"
        self.metrics_file = self.path / "metrics.json"
        self.counts_file = self.path / "image_counts.safetensors"
        self.environment_file = self.path / "environment.json"
        self.cost_file = self.path / "cost.json"
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.calibration = self.path / "calibration"
        """Images that come with a packed student, for int8."""
        self.runtimes = RuntimeFiles(self.path / "runtimes")
        self.report_file = self.path / "report.html"
        self.figures = self.path / "figures"

    def __str__(self) -> str:
        return str(self.path)

    def nonfinite_file(self, rank: int) -> Path:
        """Where process `rank` records a batch whose loss or gradient was not finite."""
        return self.path / ("nonfinite.json" if rank == 0 else f"nonfinite-{rank}.json")

    # Reading

    def require(self) -> None:
        """Raise a `FileNotFoundError` unless this is a run folder."""
        require_runs([self.path])

    @cached_property
    def config(self) -> TrainConfig:
        """The settings it was trained with.

        Raises:
            FileNotFoundError: there is no config.yaml.
            ValueError: a key is unknown, or a value impossible.
        """
        return load(TrainConfig, self.config_file)

    @property
    def config_text(self) -> str:
        """config.yaml as it is, empty where there is none."""
        return read_text(self.config_file, YAML_BYTES) if self.config_file.is_file() else ""

    @property
    def environment(self) -> Record | None:
        """Versions, device, precision, processes, commit, command; None where there is no record."""
        return _read_object(self.environment_file)

    @property
    def cost(self) -> Record | None:
        """Parameters, operations and latency of student and teacher; None before the training has ended."""
        return _read_object(self.cost_file)

    @property
    def metrics(self) -> dict[str, Record | None]:
        """The `best` evaluation (that of the saved student) and the `last` one, None before the first.

        Raises:
            ValueError: metrics.json is damaged.
        """
        content = _read_object(self.metrics_file) or {}
        for which in ("best", "last"):
            summary = content.get(which)
            if summary is not None and not (
                isinstance(summary, dict) and isinstance(summary.get("iou"), dict)
            ):
                raise ValueError(f"{self.metrics_file} is damaged: {which!r} is no evaluation")
        return {which: content.get(which) for which in ("best", "last")}

    @property
    def best(self) -> Record:
        """The evaluation of the saved student.

        Raises:
            ValueError: there was none yet, or metrics.json is damaged.
        """
        best = self.metrics["best"]
        if best is None:
            raise ValueError(f"{self.metrics_file} holds no evaluation yet")
        return best

    @property
    def image_scores(self) -> dict[str, float | None]:
        """Mean IoU of each validation image, by id, from the best evaluation.

        Raises:
            ValueError: there are none.
        """
        scores = (self.metrics["best"] or {}).get("images")
        if not isinstance(scores, dict):
            raise ValueError(f"{self.metrics_file} holds no scores of single images")
        return scores

    @property
    def image_counts(self) -> dict[str, np.ndarray]:
        """Right, predicted and true pixels by class of each image of the best evaluation, 3 x K by id.

        Empty where they were not kept (by earlier versions), or are of another evaluation (after a kill).

        Raises:
            ValueError: the file is damaged.
        """
        best = self.metrics["best"]
        if best is None or not self.counts_file.is_file():
            return {}
        try:
            with safe_open(self.counts_file, "numpy") as file:
                told, table = file.metadata(), file.get_tensor("counts").astype(np.int64)
            ids = json.loads(told["ids"])
            if table.shape != (len(ids), 3, len(best["iou"])):
                raise ValueError(f"counts of shape {table.shape} for {len(ids)} images")
            return dict(zip(ids, table, strict=True)) if told["step"] == str(best["step"]) else {}
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.counts_file} is damaged: {error}") from None

    def history(self) -> tuple[list[Record], list[Record]]:
        """Logged steps, and evaluations, both with their `step`; a torn last line is left out.

        Raises:
            ValueError: another line is damaged.
        """
        path = self.history_file
        lines = read_text(path, LINES_BYTES).splitlines() if path.is_file() else []
        steps, evaluations = [], []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                step = int(record["step"])
                if "evaluation" in record:
                    evaluations.append({"step": step, **dict(record["evaluation"])})
                else:
                    steps.append({**record, "step": step})
            except (ValueError, TypeError, KeyError, RecursionError):
                if number < len(lines):
                    raise ValueError(f"{path} is damaged: line {number} is no record with a step") from None
        return steps, evaluations

    @property
    def card(self) -> ModelCard | None:
        """What the student's weights are; None before the first evaluation."""
        return read_card(self.path) if is_run(self.path) else None

    def require_student(self) -> ModelCard:
        """The card of the student.

        Raises:
            FileNotFoundError: there is none; no evaluation has finished yet, or this is no run folder.
        """
        return read_card(self.path)

    def student(self) -> TrainedNetwork:
        """The student with the best score, in eval mode.

        Raises:
            FileNotFoundError: there is none.
            ValueError: its files are damaged.
        """
        self.require_student()
        return load_network(str(self.path))

    def student_digest(self) -> str:
        """SHA-256 over weights and card: what a file of the student was made from.

        Raises:
            FileNotFoundError: there is no student.
        """
        self.require_student()
        digests = [file_digest(self.path / name) for name in (WEIGHTS, CARD)]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    # Writing

    def check(self, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that training must not write into; writes nothing.

        Raises:
            ValueError: it holds another run, or something else, or a resumed run had other settings, or
                another process trains in it.
        """
        if (self.path / LOCK).is_file():
            with self.locked():
                pass
        self._check_content(config, resume=resume, overwrite=overwrite)

    def _check_content(self, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
        require_writable(self.path, resume=resume, overwrite=overwrite)
        if resume:
            before = load(TrainConfig, self.config_file)
            may_change = MAY_CHANGE | (
                {"steps"} if before.open_ended and config.steps > before.steps else set()
            )
            changed = differences(asdict(before), asdict(config))
            changed = [line for line in changed if line.split()[0] not in may_change]
            if changed:
                listed = "; ".join(changed)
                raise ValueError(
                    f"{self.path} was started with other settings: {listed}. {self._ways_on(before)}"
                )

    def _ways_on(self, before: TrainConfig) -> str:
        """How a run whose settings are `before` is trained further, for the refusal of other ones."""
        text = f"It has no student to go on from yet: {setting('overwrite')} starts it anew"
        if is_run(self.path):
            new = f"a new run with {setting('init')} {self.path} and another {setting('out')}"
            text = f"To train further with other settings, start {new}"
        more = f"; {setting('resume')} takes more {setting('steps')} than its {before.steps}"
        return text + more * before.open_ended

    def locked(self) -> AbstractContextManager[None]:
        """The right to write into the folder, see `segdistill.files.locked`."""
        remedy = f"name another folder with {setting('out')}"
        return locked(self.path / LOCK, f"trains in {self.path}", remedy)

    @contextmanager
    def open(
        self, config: TrainConfig, accelerator: Accelerator, *, resume: bool, overwrite: bool
    ) -> Iterator[None]:
        """Make the folder with its settings and environment, and keep it locked; the first process does.

        Raises:
            ValueError: as `check`, or the folder cannot be written; in all processes alike.
        """
        with ExitStack() as stack:

            def prepare() -> None:
                stack.enter_context(self.locked())
                self._prepare(config, accelerator, resume=resume, overwrite=overwrite)

            from_main_process(accelerator, prepare)
            yield

    def _prepare(
        self, config: TrainConfig, accelerator: Accelerator, *, resume: bool, overwrite: bool
    ) -> None:
        self._check_content(config, resume=resume, overwrite=overwrite)
        if overwrite:
            self._empty()
        if not resume or load(TrainConfig, self.config_file).steps != config.steps:
            write_atomic(self.config_file, to_yaml(config))
        remove_temporaries(self.path)
        write_atomic(self.environment_file, _to_json(environment(accelerator)))

    def _empty(self) -> None:
        """Delete a run but for its lock: checkpoints first and settings last, so that a kill leaves a run."""
        last = {self.checkpoints.folder.name: 0, SETTINGS: 2}
        for path in sorted(self.path.iterdir(), key=lambda path: last.get(path.name, 1)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def write_cost(self, cost: Record) -> None:
        """Write cost.json."""
        write_atomic(self.cost_file, _to_json(cost))

    def write_evaluation(
        self, evaluation: Record, *, best: bool, counts: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write metrics.json: `evaluation` is the last one, and the best one where `best` is set.

        `counts` of its images (3 x K each, see `Metrics`) are kept for the best one, in a file of their own.
        """
        if best and counts:
            table = torch.stack([*counts.values()]).to(torch.int32)
            told = {"ids": json.dumps([*counts]), "step": str(evaluation["step"])}
            write_atomic(self.counts_file, save({"counts": table}, told))
        kept = None if best or not self.metrics_file.is_file() else read_json(self.metrics_file)["best"]
        write_atomic(
            self.metrics_file, json.dumps({"last": evaluation, "best": evaluation if best else kept})
        )

    def write_temperature(self, temperature: float, scores: Record | None = None) -> None:
        """Write a temperature into the student's card.

        Args:
            temperature: of its probabilities.
            scores: calibration at this temperature on the images of the best evaluation, which they become
                part of; None where it was fitted on others.
        """
        card, metrics = self.require_student(), _read_object(self.metrics_file)
        changed = {name: value for name, value in (scores or {}).items() if isinstance(value, float)}
        card = replace(card, temperature=temperature, metrics=card.metrics | changed)
        write_atomic(self.path / CARD, card.to_json())
        if scores is not None and metrics is not None and metrics.get("best"):
            write_atomic(self.metrics_file, json.dumps(metrics | {"best": metrics["best"] | scores}))

    def write_input_size(self, size: int) -> None:
        """Write into the student's card which input size, in pixels of the long side, it is used with."""
        card = replace(self.require_student(), evaluate_size=size)
        write_atomic(self.path / CARD, card.to_json())

    def save_student(self, student: nn.Module, card: ModelCard) -> None:
        """Write model.safetensors and model.json, both or (but for a kill between two renames) neither."""
        save_model(self.path, student.state_dict(), card)

    def pack(self, out: Path) -> Path:
        """Copy what using the student takes: weights in float16, card and settings.

        Args:
            out: a folder that is not there, or is empty.

        Returns:
            `out`, a run folder of half a float32 one's size, without records, checkpoints and report.

        Raises:
            FileNotFoundError: this is no run folder.
            ValueError: its files are damaged, `out` is not empty, or a weight is beyond float16's range.
        """
        card, state = read_model(self.path)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} is not empty; name another folder with {setting('out')}")
        half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        lost = [name for name, value in half.items() if not value.isfinite().all()]
        if lost:
            raise ValueError(f"{self.path}: {', '.join(lost)} holds values beyond float16's range")
        save_model(out, half, card)
        if self.config_file.is_file():  # which a run that was pushed to a hub has not
            write_atomic(out / SETTINGS, to_yaml(self.config))
        return out


def _read_object(path: Path) -> Record | None:
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


def _to_json(record: Record) -> str:
    return json.dumps(record, indent=2) + "\n"
