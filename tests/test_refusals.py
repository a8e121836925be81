"""The command line: one clear line for every mistake, and nothing left behind."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import cli
from segdistill.data.labels import VOID

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


def refusal(capsys: Any, *arguments: object, code: int = 1, begun: bool = False) -> str:
    """Run a command that must be refused; returns its error, one line that nothing but progress precedes."""
    assert cli.main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    *before, error = err.splitlines()
    assert out == ""
    assert begun or before == []
    assert "Traceback" not in err
    assert error.startswith("segdistill: error: ")
    return error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective.temperature", "0"], "objective.temperature is 0.0, but must be above 0"),
        (["--size", "-64"], "size is -64, but must be above 0"),
        (["--augment.scale", "[2,1]"], "augment.scale is (2.0, 1.0), but must be two numbers with 0 < low"),
        (["--objective.alpha", "0", "--objective.beta", "0"], "objective.alpha and objective.beta"),
        (["--objective.alpha", "0"], "objective.alpha is 0, but must be above 0 where there is no teacher"),
        (["--objective.losses", "{cwdd: 3}"], "objective.losses names 'cwdd', but the losses are ohem, dice"),
        (["--objective.losses", "{cwd: 3}"], "objective.losses names cwd, but there is no teacher"),
        (["--objective.losses.ohem.keep", "3"], "objective.losses.ohem has no option 'keep'; it has weight"),
        (["--optim.accumulate", "3"], "batch is 4, but must be a multiple of optim.accumulate"),
        (["--data.root", "nowhere"], "data.root 'nowhere' is not a folder"),
        (["--data.layout", "nowhere.yaml"], "data.layout nowhere.yaml does not exist"),
        (["--data.split", "tomorrow"], "tomorrow.txt does not exist); splits here: train, val"),
        (["--data.unlabelled", "[photos]"], "data.unlabelled is ['photos'], but must be empty"),
        (["--student", "dsunett"], "did you mean dsunet?"),
        (
            ["--student", "hourglass"],
            "there is no network 'hourglass'. A network is a built-in (dsunet), one of torchvision's (fcn",
        ),
        (["--student", "./own:build", "--student.width", "1"], "there is no network './own:build'"),
        (["--student", "fcn_resnet50"], "width is 0.1, but only dsunet takes one"),
        (["--student.init", "nowhere"], "nowhere is not a run folder"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--teacher", "nowhere.py:build"], "nowhere.py does not exist"),
        (["--teacher", "dsunet"], "dsunet has no published weights"),
        (["--teacher", "fcn_resnet50", "--teacher.weights", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--device", "abacus"], "device is 'abacus', but must be auto, cpu, cuda or mps"),
        (["--runtime.precision", "fp16"], "a CPU takes fp32 or bf16"),
        (["--trackers", "[abacus]"], "trackers names 'abacus', but accelerate has all, "),
        (["--resume"], "to resume"),
        (["--resume", "--overwrite"], "choose one"),
        (["--out", __file__], "is a file, not a folder"),
    ],
)
def test_train_refuses_on_one_line_and_leaves_nothing(
    capsys: Any, quick: list[object], tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in refusal(capsys, *quick, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--objective.temprature", "2"], "--objective.temprature"),
        (["train", "--batch", "many"], "batch"),
        (["train", "--optim.name", "adagrad"], "must be adamw, adam or sgd"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate"], "target"),
        (["predict", "run"], "paths"),
        (["report"], "runs"),
        (["data"], "{init,check,show,convert,shard, ...}"),
        (["data", "download", "coco", "--root", "here"], "'coco'"),
        (["distill"], "'distill'"),
    ],
)
def test_wrong_usage_ends_with_two(capsys: Any, arguments: list[str], message: str) -> None:
    assert message in refusal(capsys, *arguments, code=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {lrr: 1}", "error: optim.lrr is no setting; did you mean optim.lr? ("),
        ("sise: 3", "error: sise is no setting; did you mean size? ("),
        ("objective: {temprature: 2}", "; did you mean objective.temperature? ("),
        ("batch: 4\nabacus: 1", "error: abacus is no setting (segdistill train --help"),
    ],
)
def test_a_key_of_a_file_is_answered_with_the_one_that_was_meant(
    capsys: Any, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    assert message in refusal(capsys, "train", "--config", tmp_path / "wrong.yaml", code=2)


@pytest.mark.parametrize("content", ["objective:\n  temprature: 2\n", "- temprature\n", "[temprature\n"])
def test_a_file_that_is_no_configuration_is_refused(capsys: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    message = refusal(capsys, "train", "--config", tmp_path / "wrong.yaml", code=2)
    assert "temprature" in message or "parsing" in message


def test_a_group_of_settings_that_is_null_is_refused(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "null.yaml").write_text("teacher:\nsize: 64\n")
    assert "teacher is null" in refusal(capsys, "train", "--config", tmp_path / "null.yaml", code=1)
    (tmp_path / "number.yaml").write_text("optim: 3\n")
    assert "optim is 3, but is a group" in refusal(capsys, "train", "--config", tmp_path / "number.yaml")


def test_no_verb_is_wrong_usage(capsys: Any) -> None:
    assert cli.main([]) == 2
    assert "All commands: segdistill --help" in capsys.readouterr().err


def test_an_error_as_a_process_is_one_line(quick: list[object]) -> None:
    command = [PROGRAM, *map(str, quick), "--objective.temperature", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_another_run_is_not_overwritten_unless_asked(capsys: Any, run: Path, quick: list[object]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "--resume continues it, --overwrite deletes it" in refusal(capsys, *quick, "--out", run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_run_is_never_overwritten(
    capsys: Any, tmp_path: Path, quick: list[object]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "holds files but no run" in refusal(capsys, *quick, "--out", tmp_path / "mine", "--overwrite")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_teacher_that_knows_other_classes_is_refused(
    capsys: Any, tmp_path: Path, quick: list[object]
) -> None:
    (tmp_path / "other.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Conv2d(3, 21, 1)\n"
    )
    message = refusal(capsys, *quick, "--teacher", f"{tmp_path / 'other.py'}:build")
    assert "does not map" in message
    assert "aeroplane" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mask_with_a_label_outside_the_set_is_refused_by_name(
    capsys: Any, copied: Path, quick: list[object], workers: int
) -> None:
    mask = min(copied.rglob("SegmentationClass/*.png"))
    Image.fromarray(np.full((48, 48), VOID - 1, np.uint8)).save(mask)
    options = ["--data.root", copied, "--data.workers", workers, "--steps", "3"]
    message = refusal(capsys, *quick, *options, begun=True)
    assert f"error: {mask} holds the label 254, but labels are 0 to 8 and void is 255" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_is_refused_by_name(
    capsys: Any, run: Path, copied: Path, tmp_path: Path, workers: int
) -> None:
    image = max(copied.rglob("JPEGImages/*.jpg"))
    image.write_bytes(image.read_bytes()[:900])
    out = ["--out", tmp_path / "scores.json"]
    message = refusal(
        capsys, "evaluate", run, "--data.root", copied, "--data.workers", workers, *out, begun=True
    )
    assert f"error: {image} cannot be decoded" in message
    assert not (tmp_path / "scores.json").exists()
    message = refusal(capsys, "predict", run, image, "--out", tmp_path, begun=True)
    assert f"error: {image} cannot be decoded" in message


def test_a_loss_that_is_not_finite_names_the_images(capsys: Any, quick: list[object]) -> None:
    message = refusal(capsys, *quick, "--optim.lr", "1e30", begun=True)
    assert re.search(r"error: step 2: the hard loss is (nan|inf) on shape_\d+, shape_\d+", message)
    assert "nonfinite.json" in message


@pytest.mark.parametrize("verb", [["evaluate"], ["predict", "PHOTO"], ["report"]])
def test_a_folder_that_is_no_run_is_refused(
    capsys: Any, tmp_path: Path, shapes: Path, verb: list[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    command = [verb[0], tmp_path, *(tmp_path / "photo.png" for _ in verb[1:])]
    more = ["--data.root", shapes] if verb[0] == "evaluate" else []
    assert f"error: {tmp_path} is not a run folder" in refusal(capsys, *command, *more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "disk,cat"], "no class is called cat; classes are background, disk"),
        (["--data.root", "nowhere"], "data.root 'nowhere' is not a folder"),
        (["--data.split", "test"], "test.txt does not exist); splits here: train, val"),
        (["--size", "0"], "size is 0, but must be above 0"),
        (["--scales", "[0]"], "scales is [0.0]"),
        (["--teacher", "dsunett"], "did you mean dsunet?"),
    ],
)
def test_evaluate_refuses_on_one_line(
    capsys: Any, run: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in refusal(capsys, "evaluate", run, "--out", tmp_path / "scores.json", *options)


def test_evaluate_without_a_data_set_says_which_option_is_missing(capsys: Any) -> None:
    assert "--data.root" in refusal(capsys, "evaluate", "dsunet")


def test_predict_without_images_is_refused(capsys: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    out = ["--out", tmp_path / "out"]
    assert "holds no images" in refusal(capsys, "predict", run, tmp_path / "empty", *out)
    assert "does not exist" in refusal(capsys, "predict", run, tmp_path / "nothing.jpg", *out)
    assert "is not an image" in refusal(capsys, "predict", run, tmp_path / "text.png", *out, begun=True)


def test_data_verbs_refuse_on_one_line(capsys: Any, shapes: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refusal(capsys, "data", "check", tmp_path / "nowhere")
    assert "has none of the layouts that are read" in refusal(capsys, "data", "check", tmp_path)
    assert "splits here: train, val" in refusal(capsys, "data", "check", shapes, "--split", "x")
    assert "train is 0" in refusal(capsys, "data", "shapes", "--out", tmp_path / "new", "--train", 0)
    assert "other arguments" in refusal(capsys, "data", "shapes", "--out", shapes)
