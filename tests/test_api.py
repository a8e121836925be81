"""The Python interface: its names are pinned, and they do what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import segdistill

pytestmark = pytest.mark.integration


def test_public_names_are_pinned() -> None:
    assert sorted(segdistill.__all__) == [
        "EvaluateConfig", "PredictConfig", "TrainConfig", "__version__",
        "build_model", "evaluate", "load_student", "predict", "report", "train",
    ]  # fmt: skip
    assert all(getattr(segdistill, name) for name in segdistill.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        segdistill.trian  # noqa: B018


def test_a_student_loads_ready_to_use(run: Path) -> None:
    student = segdistill.load_student(run)
    assert not student.training
    assert student.labels.names[0] == "background"
    with torch.no_grad():
        assert student(torch.randn(2, 3, 31, 45)).shape == (2, 9, 31, 45)


def test_a_student_of_float16_weights_computes_in_float32(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(run / "model.safetensors")
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    save_file(half, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text((run / "model.json").read_text())
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        logits = segdistill.load_student(tmp_path)(image)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, segdistill.load_student(run)(image), atol=0.02, rtol=0.02)


def test_predict_yields_each_mask_as_it_is_written(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    config = segdistill.PredictConfig(out=str(tmp_path / "masks"), device="cpu")
    [(mask, prediction)] = segdistill.predict(run, [tmp_path / "red.png"], config)
    assert mask == tmp_path / "masks" / "red.png"
    assert prediction.mask.shape == (16, 24)
    assert sum(prediction.shares.values()) == pytest.approx(1)


def test_two_images_of_one_name_are_refused(run: Path, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"same.{suffix}")
    with pytest.raises(ValueError, match="two images are called same"):
        list(segdistill.predict(run, [tmp_path], segdistill.PredictConfig(out=str(tmp_path / "masks"))))


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run segdistill in two processes."""
    options = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "segdistill.cli"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_two_processes_score_as_one(run: Path, tmp_path: Path) -> None:
    alone = segdistill.evaluate(run, segdistill.EvaluateConfig(device="cpu", out=str(tmp_path / "one.json")))
    done = launch("evaluate", run, "--device", "cpu", "--out", tmp_path / "two.json")
    assert done.returncode == 0, done.stderr
    together: dict[str, Any] = json.loads((tmp_path / "two.json").read_text())
    for key in ("confusion", "iou", "miou", "boundary_iou", "images"):
        assert together[key] == json.loads(json.dumps(alone[key])), key
    assert together["calibration_error"] == pytest.approx(alone["calibration_error"])
