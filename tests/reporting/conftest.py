"""Run folders with true summaries of small drawn images."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdistill.config.train import DataConfig, StudentConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.labels import VOID, LabelSet
from segdistill.engine.metrics import Metrics
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import ModelCard

LABELS = LabelSet(
    names=("background", "<b>x", "$cat$", "_犬", "never"),
    palette=((0, 0, 0), (200, 30, 40), (30, 160, 60), (40, 60, 220), (250, 200, 0)),
)
HEIGHT, WIDTH = 20, 28


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder and what it was made of."""

    path: Path
    truths: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    summary: dict[str, Any]
    labels: LabelSet = LABELS


def draw(seed: int) -> np.ndarray:
    """H x W uint8 mask: rectangles of three classes on background, a void frame."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for index in (1, 2, 3):
        top, left = generator.integers(1, HEIGHT - 8), generator.integers(1, WIDTH - 10)
        mask[top : top + 7, left : left + 9] = index
    mask[0], mask[-1] = VOID, VOID
    return mask


def write_run(path: Path, *, noise: float = 1.0, images: int = 8, teacher: bool = True, seed: int = 0) -> Run:
    """Write every record that training leaves, except the weights."""
    path.mkdir(parents=True)
    metrics, truths, predictions = Metrics(LABELS), {}, {}
    for i in range(images):
        name, mask = f"image<{i}>", draw(i)
        generator = torch.Generator().manual_seed(i)
        logits = noise * torch.randn(len(LABELS), HEIGHT, WIDTH, generator=generator)
        truth = torch.from_numpy(mask.astype(np.int64))
        logits += 3 * torch.nn.functional.one_hot(truth % VOID, len(LABELS)).permute(2, 0, 1)
        metrics.update(logits, truth, name)
        truths[name], predictions[name] = mask, logits.argmax(dim=0).numpy().astype(np.uint8)
    summary = json.loads(json.dumps(metrics.summary()))
    config = TrainConfig(
        data=DataConfig(root="data/drawn"),
        student=StudentConfig(spec="dsunet"),
        teacher=TeacherConfig(spec="fcn_resnet50" if teacher else None),
        steps=40,
        seed=seed,
        out=str(path),
    )
    card = ModelCard(
        spec="dsunet",
        width=1.0,
        labels=LABELS,
        size=64,
        evaluate_size=None,
        metrics={"miou": summary["miou"]},
    )
    networks = [
        {"name": "student", "parameters": 2_284_969, "flops": 4_000_000_000, "latency_ms": 20.0 * noise}
    ]
    if teacher:
        networks.append(
            {"name": "teacher", "parameters": 35_322_218, "flops": 80_000_000_000, "latency_ms": 250.0}
        )
    records = {
        "environment.json": {
            "python": "3.12.1", "packages": {"torch": "2.11.0"}, "device": "cpu", "commit": None,
            "command": ["segdistill", "train", "--out", "a b"],
        },
        "cost.json": {"device": "cpu", "threads": 2, "input": [1, 3, 64, 64], "networks": networks},
    }  # fmt: skip
    for file, record in records.items():
        (path / file).write_text(json.dumps(record))
    folder = RunFolder(path)
    folder.write_evaluation({"step": 30, **summary}, best=True, counts=metrics.counts)
    folder.write_evaluation({"step": 40, **summary}, best=False, counts=metrics.counts)
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "model.json").write_text(card.to_json())
    (path / "history.jsonl").write_text("\n".join(history(summary, teacher)) + "\n")
    return Run(path=path, truths=truths, predictions=predictions, summary=summary)


def history(summary: dict[str, Any], teacher: bool) -> list[str]:
    """Lines of a history.jsonl over 40 steps, with an evaluation every 10."""
    scalars = {name: value for name, value in summary.items() if isinstance(value, float)}
    lines = []
    for step in range(1, 41):
        terms = {"loss": 3 / step, "hard": 2 / step} | ({"soft": 1 / step} if teacher else {})
        lines.append(json.dumps({"step": step, **terms, "lr": 1e-3, "images_per_second": 50.0}))
        if step % 10 == 0:
            lines.append(json.dumps({"step": step, "evaluation": {**scalars, "iou": summary["iou"]}}))
    return lines


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Writes a run folder of a given name."""
    return lambda name, **options: write_run(tmp_path / name, **options)


@pytest.fixture(scope="module")
def make_shared_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """The same, for all tests of a file."""
    folder = tmp_path_factory.mktemp("runs")
    return lambda name, **options: write_run(folder / name, **options)
