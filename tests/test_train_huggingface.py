"""Distillation from a tiny Mask2Former into a tiny SegFormer, end to end, and what the run is good for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import tiny_transformers as tiny

from segdistill import api
from segdistill.config.deploy import ExportConfig
from segdistill.config.train import DataConfig, StudentConfig, TeacherConfig

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, configure: Any) -> Path:
    """A run whose student's folder is gone."""
    root = tmp_path_factory.mktemp("hf")
    data = tiny.write_images(root / "data", ["background", "road", "person"], 3)
    teacher, student = (tiny.save(kind, root / kind) for kind in ("mask2former", "segformer"))
    config = configure(
        root / "run",
        data=DataConfig(root=str(data), workers=0),
        teacher=TeacherConfig(
            spec=f"hf:{teacher}", map={"*": "background", "individual": "person"}, cache=str(root / "cache")
        ),
        student=StudentConfig(spec=f"hf:{student}", weights="published"),
        size=64,
        batch=2,
        steps=10,
        evaluate_every=10,
    )
    run = api.train(config, report=False)
    shutil.rmtree(student)
    return run


def test_ten_steps_with_a_label_map_and_the_cache(distilled: Path) -> None:
    lines = [json.loads(line) for line in (distilled / "history.jsonl").read_text().splitlines()]
    soft = [line["soft"] for line in lines if "soft" in line]
    assert len(soft) == 10
    assert all(value > 0 for value in soft)
    assert list((distilled.parent / "cache").glob("*/shard-*.bin"))
    card = json.loads((distilled / "model.json").read_text())
    assert card["teacher"]["spec"] == f"hf:{distilled.parent / 'mask2former'}"
    assert card["huggingface"]["config"]["model_type"] == "segformer"


def test_a_run_segments_without_the_folder_that_it_came_from(distilled: Path) -> None:
    student = api.load_student(distilled)
    with torch.no_grad():
        assert student(torch.randn(1, 3, 45, 67)).shape == (1, 3, 45, 67)
    assert student.labels.names == ("background", "road", "person")


def test_a_run_is_exported(distilled: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    record = api.export(distilled, ExportConfig(format="onnx", out=str(tmp_path / "model.onnx")))
    assert record["parity"]["same_class"] > 0.999
