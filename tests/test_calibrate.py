"""The temperature of a run: fitted at the end of a training, or again; used wherever probabilities are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from segdistill import api, cli
from segdistill.config.deploy import ExportConfig, PredictConfig
from segdistill.config.evaluate import CalibrateConfig, EvaluateConfig, EvaluationDataConfig
from segdistill.config.train import OptimConfig, StudentConfig
from segdistill.engine.run_folder import RunFolder
from segdistill.models.card import CARD, WEIGHTS, read_card
from segdistill.models.fused import fuse_students
from segdistill.models.trained import load_network

pytestmark = pytest.mark.integration
KEYS = ("calibration_error", "calibration_error_before", "temperature")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, configure: Any) -> Path:
    """A run that is far too sure: it goes on with weights whose logits were made four times as large."""
    folder = tmp_path_factory.mktemp("runs")
    config = configure(folder / "first", steps=60, evaluate_every=60, optim=OptimConfig(lr=1e-2))
    first = api.train(config, report=False)
    state = load_file(first / WEIGHTS)
    large = {name: 4 * value if name.startswith("head.") else value for name, value in state.items()}
    save_file(large, first / WEIGHTS)
    init = StudentConfig(width=0.1, init=str(first))
    config = configure(folder / "sure", steps=1, evaluate_every=1, student=init, optim=OptimConfig(lr=1e-9))
    return api.train(config, report=False)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to write into."""
    return shutil.copytree(run, tmp_path / "copy")


def with_temperature(run: Path, temperature: float) -> Path:
    """Set the temperature in a run's card."""
    (run / CARD).write_text(replace(read_card(run), temperature=temperature).to_json())
    return run


def predict(target: Path, photo: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mask and probabilities of one photo."""
    config = PredictConfig(probabilities=True, out=str(out), device="cpu")
    [(_, prediction)] = api.predict(target, [photo], config)
    assert prediction.probabilities is not None
    return prediction.mask, prediction.probabilities


def test_training_ends_with_a_temperature_that_evaluate_uses(run: Path, tmp_path: Path) -> None:
    card, best = read_card(run), RunFolder(run).best
    assert card.temperature == best["temperature"] > 1.5
    found = api.evaluate(run, EvaluateConfig(out=str(tmp_path / "scores.json")))
    assert [found[key] for key in KEYS] == [best[key] for key in KEYS]
    assert found["calibration"] == best["calibration"]
    assert found["calibration_error"] < found["calibration_error_before"]
    assert card.metrics["calibration_error"] == best["calibration_error"]
    assert card.metrics["miou"] == best["miou"] == found["miou"]


def test_calibrating_a_run_again_finds_the_same(capsys: Any, run: Path, copy: Path) -> None:
    with_temperature(copy, 1.0)
    metrics = json.loads((copy / "metrics.json").read_text())
    for key in KEYS:
        metrics["best"][key] = None
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert cli.main(["calibrate", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["temperature"] == read_card(copy).temperature == read_card(run).temperature
    assert RunFolder(copy).metrics == RunFolder(run).metrics
    assert err.startswith(f"Calibrating {copy} on 4 images\n")
    assert "calibration error" in err
    assert (copy / "model.json").read_text() == (run / "model.json").read_text()


def test_on_other_images_the_scores_of_the_run_stay(run: Path, copy: Path, shapes: Path) -> None:
    data = EvaluationDataConfig(root=str(shapes), split="train", workers=0)
    found = api.calibrate(copy, CalibrateConfig(data=data, device="cpu"))
    assert found["images"] == 12
    assert read_card(copy).temperature == found["temperature"] != read_card(run).temperature
    assert RunFolder(copy).metrics == RunFolder(run).metrics


def test_a_folder_without_a_student_is_refused(capsys: Any, tmp_path: Path) -> None:
    assert cli.main(["calibrate", str(tmp_path)]) == 1
    assert "is not a run folder with a trained model" in capsys.readouterr().err


def test_probabilities_have_the_temperature_and_masks_do_not_change(
    copy: Path, shapes: Path, tmp_path: Path
) -> None:
    photo = next(shapes.rglob("JPEGImages/*.*"))
    mask, raw = predict(with_temperature(copy, 1.0), photo, tmp_path)
    softer_mask, softer = predict(with_temperature(copy, 3.0), photo, tmp_path)
    assert np.array_equal(mask, softer_mask)
    expected = (torch.from_numpy(raw).log() / 3).softmax(dim=0)
    torch.testing.assert_close(torch.from_numpy(softer), expected)
    assert softer.max() < raw.max()


def test_a_file_keeps_raw_logits_and_brings_the_temperature(copy: Path, shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "student.onnx"
    config = ExportConfig(out=str(path), images=1)
    record = api.export(with_temperature(copy, 3.0), config)
    assert record["temperature"] == load_network(str(path)).temperature == 3.0
    assert record["parity"]["logit_difference"] < 1e-4
    photo = next(shapes.rglob("JPEGImages/*.*"))
    (mask, inside), (_, outside) = (predict(target, photo, tmp_path) for target in (copy, path))
    np.testing.assert_allclose(outside, inside, atol=1e-4)
    assert mask.shape == inside.shape[1:]


def test_a_file_of_masks_has_temperature_one(copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config = ExportConfig(output="mask", out=str(tmp_path / "mask.onnx"), images=1)
    assert api.export(with_temperature(copy, 3.0), config)["temperature"] == 1.0


def test_a_packed_and_a_fused_student_keep_the_temperature(copy: Path, tmp_path: Path) -> None:
    packed = api.pack(with_temperature(copy, 3.0), tmp_path / "packed")
    assert fuse_students(load_network(str(packed))).temperature == 3.0


def test_two_processes_find_the_same_temperature(launch: Any, run: Path, copy: Path) -> None:
    done = launch("calibrate", with_temperature(copy, 1.0), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["temperature"] == read_card(copy).temperature
    assert read_card(copy).temperature == read_card(run).temperature
    assert RunFolder(copy).best["calibration_error"] == pytest.approx(
        RunFolder(run).best["calibration_error"]
    )
