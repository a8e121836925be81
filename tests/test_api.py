"""The Python interface: its names are pinned, and they do what they say."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import segdistill
from segdistill.console import ProgressLines
from segdistill.data.images import read_mask
from segdistill.engine.run_folder import RunFolder

pytestmark = pytest.mark.integration


def test_public_names_are_pinned() -> None:
    assert sorted(segdistill.__all__) == [
        "Architecture", "AugmentConfig", "BenchmarkConfig", "CalibrateConfig", "CompareConfig", "DataConfig",
        "DemoConfig", "EvaluateConfig", "EvaluationDataConfig",
        "ExportConfig", "LabelConfig", "LoadConfig", "ObjectiveConfig", "OptimConfig", "PredictConfig",
        "PushConfig", "RuntimeConfig", "SearchConfig",
        "ServeConfig", "StudentConfig", "TeacherConfig", "TrainConfig", "VerifyConfig",
        "__version__", "benchmark",
        "build_model", "cache", "calibrate", "compare", "demo", "evaluate", "export", "fuse",
        "keep_freed_memory", "label", "load", "load_student", "pack", "predict", "push", "report", "search",
        "serve", "train", "verify",
    ]  # fmt: skip
    assert all(getattr(segdistill, name) for name in segdistill.__all__)
    assert dir(segdistill) == sorted(segdistill.__all__)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("train", "(config, *, resume, overwrite, report, **settings)"),
        ("cache", "(config, **settings)"),
        ("evaluate", "(target, config, **settings)"),
        ("compare", "(targets, config, **settings)"),
        ("predict", "(target, paths, config, **settings)"),
        ("label", "(target, paths, config, **settings)"),
        ("report", "(runs, out)"),
        ("export", "(target, config, **settings)"),
        ("benchmark", "(targets, config, **settings)"),
        ("serve", "(target, config, *, ready, **settings)"),
        ("calibrate", "(run, config, **settings)"),
        ("search", "(config, **settings)"),
        ("pack", "(run, out)"),
        ("push", "(run, repository, config, **settings)"),
        ("demo", "(config, *, from_scratch, overwrite, **settings)"),
        ("load", "(target, config, **settings)"),
        ("verify", "(target, config, **settings)"),
        ("load_student", "(run)"),
        ("build_model", "(network, num_classes)"),
    ],
)
def test_signatures_are_pinned(name: str, parameters: str) -> None:
    signature = inspect.signature(getattr(segdistill, name))
    plain = [p.replace(annotation=p.empty, default=p.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == parameters
    assert "Raises:" in inspect.getdoc(getattr(segdistill, name))


def test_public_functions_stay_functions_once_the_program_is_loaded() -> None:
    code = (
        "import inspect, segdistill, segdistill.cli, segdistill.searching.search, "
        "segdistill.demonstrating.run\n"
        "names = [name for name in segdistill.__all__ if inspect.ismodule(getattr(segdistill, name))]\n"
        "assert not names, names"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        segdistill.trian  # noqa: B018


@pytest.mark.parametrize("size", [(32, 32), (31, 45), (1, 7)])
def test_a_student_loads_ready_to_use(run: Path, size: tuple[int, int]) -> None:
    student = segdistill.load_student(run)
    assert not student.training
    assert student.labels.names[0] == "background"
    with torch.no_grad():
        assert student(torch.randn(2, 3, *size)).shape == (2, 9, *size)


def test_a_student_loads_from_model_files_alone(run: Path, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(segdistill.load_student(tmp_path)(image), segdistill.load_student(run)(image))


def test_a_student_of_float16_weights_computes_in_float32(run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    save_file(half, tmp_path / "model.safetensors")
    shutil.copy(run / "model.json", tmp_path)
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        logits = segdistill.load_student(tmp_path)(image)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, segdistill.load_student(run)(image), atol=0.02, rtol=0.02)


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        segdistill.load_student(tmp_path)


def test_a_damaged_student_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        segdistill.load_student(tmp_path)


@pytest.mark.parametrize("spec", ["dsunet", "lraspp_mobilenet_v3_large", "FILE"])
def test_a_model_is_built_for_a_number_of_classes(spec: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    model = segdistill.build_model(spec.replace("FILE", f"{file}:build"), 5).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 40, 33)).shape == (1, 5, 40, 33)


def test_evaluation_returns_what_it_writes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    summary = segdistill.evaluate(run, segdistill.EvaluateConfig(device="cpu", out=str(out)))
    assert summary == json.loads(out.read_text())


def test_predict_yields_each_mask_as_it_is_written(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    config = segdistill.PredictConfig(out=str(tmp_path / "masks"), device="cpu")
    [(mask, prediction)] = segdistill.predict(run, [tmp_path / "red.png"], config)
    assert mask == tmp_path / "masks" / "red.png"
    assert prediction.mask.shape == (16, 24)
    assert sum(prediction.shares.values()) == pytest.approx(1)


def test_predict_takes_a_single_path(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    config = segdistill.PredictConfig(out=str(tmp_path / "masks"), device="cpu")
    for path in (tmp_path / "red.png", str(tmp_path / "red.png")):
        assert [mask.name for mask, _ in segdistill.predict(run, path, config)] == ["red.png"]


def test_predict_takes_pictures_in_memory(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "file.png")
    out = tmp_path / "masks"
    [(_, expected)] = segdistill.predict(run, tmp_path / "file.png", out=str(out), device="cpu")
    given = [Image.fromarray(pixels), tmp_path / "file.png", pixels]
    for pictures in (given[0], given[2], given):
        found = list(segdistill.predict(run, pictures, out=str(out), device="cpu"))
        assert all(np.array_equal(prediction.mask, expected.mask) for _, prediction in found)
        assert all(np.array_equal(read_mask(mask), expected.mask) for mask, _ in found)
    assert [mask.name for mask, _ in found] == ["image_0.png", "file.png", "image_2.png"]
    with pytest.raises(ValueError, match=r"image_0: an array has the shape \(20, 31\)"):
        segdistill.predict(run, pixels[..., 0])
    with pytest.raises(ValueError, match="image_0: a picture is a int, but must be"):
        segdistill.predict(run, 7)


def test_predict_takes_a_pattern(run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), "red").save(tmp_path / "in" / name)
    config = segdistill.PredictConfig(out=str(tmp_path / "masks"), device="cpu")
    found = segdistill.predict(run, f"{tmp_path}/in/**/*.png", config)
    assert [mask.relative_to(tmp_path / "masks").as_posix() for mask, _ in found] == ["a.png", "sub/b.png"]


def test_predict_shows_how_far_it_is(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from Python: the total is there before the first result, and each of them counts."""
    shown: list[tuple[float | None, float]] = []
    plain = ProgressLines.update

    def update(self: ProgressLines, task_id: Any, **changes: Any) -> None:
        plain(self, task_id, **changes)
        shown.append((self.tasks[0].total, self.tasks[0].completed))

    monkeypatch.setattr(ProgressLines, "update", update)
    pictures = [Image.new("RGB", (24, 16), colour) for colour in ("red", "green")]
    list(segdistill.predict(run, pictures, out=str(tmp_path), device="cpu"))
    assert shown == [(2, 1), (2, 2)]


def test_predict_refuses_wrong_arguments_at_the_call(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg does not exist"):
        segdistill.predict(run, str(tmp_path / "nothing.jpg"))
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        segdistill.predict(tmp_path, tmp_path / "a.png")
    with pytest.raises(ValueError, match="tile goes with neither"):
        segdistill.predict(run, tmp_path / "a.png", segdistill.PredictConfig(tile=256, size=64))
    assert not (tmp_path / "predictions").exists()


def test_two_images_of_one_name_are_refused(run: Path, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"same.{suffix}")
    with pytest.raises(ValueError, match="two images are called same"):
        segdistill.predict(run, [tmp_path], segdistill.PredictConfig(out=str(tmp_path / "masks")))


# Several processes


def test_two_processes_score_as_one(launch: Any, run: Path, tmp_path: Path) -> None:
    alone = segdistill.evaluate(
        run, segdistill.EvaluateConfig(device="cpu", out=str(tmp_path / "one.json"), flip=True)
    )
    done = launch("evaluate", run, "--device", "cpu", "--flip", "true", "--out", tmp_path / "two.json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    together: dict[str, Any] = json.loads((tmp_path / "two.json").read_text())
    assert together.keys() == alone.keys()
    summed_floats = {
        "calibration",
        "calibration_error",
        "calibration_error_before",
    }  # their order of summation differs
    for key in alone.keys() - summed_floats - {"images_per_second"}:
        assert together[key] == alone[key], key
    assert together["calibration_error"] == pytest.approx(alone["calibration_error"], rel=1e-12)


def test_two_processes_train_into_one_run_folder(launch: Any, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = launch(
        "train", "--config", run / "config.yaml", "--teacher", run,
        "--objective.losses", "{cosine: 1, mgd: [0, 1]}",
        "--objective.auxiliary", 0.4, "--objective.alpha", "[0, 1]", "--objective.class_weights", 0.5,
        "--student.width", 0.05, "--optim.ema", 0.9, "--optim.accumulate", 2, "--optim.clip", 1,
        "--out", out, launcher=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["run"] for line in done.stdout.splitlines()] == [str(out)]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert json.loads((out / "environment.json").read_text())["processes"] == 2
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert len(json.loads((out / "metrics.json").read_text())["best"]["images"]) == 4
    assert len(RunFolder(out).image_counts) == 4
    assert (out / "report.html").is_file()
