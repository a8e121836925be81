"""The command line: every verb as a user types it, and one clear line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import cli
from segdistill.config import EvaluateConfig, load, to_yaml
from segdistill.data.labels import VOID

pytestmark = pytest.mark.integration
PROGRAM = [sys.executable, "-m", "segdistill.cli"]


def answer(capsys: Any, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; returns the JSON line that standard output ends with."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return json.loads(out)


def refusal(capsys: Any, *arguments: object) -> str:
    """Run a command that must be refused; returns its one line of standard error."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("segdistill: error: ")]
    assert code in {1, 2}
    assert out == ""
    assert "Traceback" not in err
    assert len(errors) == 1
    return errors[0]


@pytest.fixture
def quick(tmp_path: Path, configure: Any) -> list[object]:
    """The beginning of a training command that would run."""
    file = tmp_path / "quick.yaml"
    file.write_text(to_yaml(configure(tmp_path / "run", steps=2, evaluate_every=2)))
    return ["train", "--config", file]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures in the forms that people have."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: 30 x 20 stored, 20 x 30 seen
    picture.save(folder / "upright.jpg", exif=exif)
    picture.save(folder / "web.webp")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "more" / "alpha.png")
    return folder


# What works


def test_train_as_a_process_ends_with_one_line_of_json(quick: list[object], tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, *map(str, quick)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"] == str(tmp_path / "run")
    assert 0 <= result["pixel_accuracy"] <= 1
    assert "The report is" in done.stderr


def test_options_override_the_file_and_short_names_stand_for_the_network(
    capsys: Any, quick: list[object]
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([*map(str, quick), "--student.width=0.2", "--teacher", "fcn_resnet50", "--print_config"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "width: 0.2" in printed
    assert "spec: fcn_resnet50" in printed
    assert "steps: 2" in printed


def test_the_printed_configuration_can_be_read_again(
    capsys: Any, quick: list[object], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*map(str, quick), "--print_config"])
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(tmp_path / "printed.yaml"), "--print_config"])
    assert capsys.readouterr().out == printed


def test_evaluate_a_run_writes_every_score(capsys: Any, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    summary = answer(capsys, "evaluate", run, "--out", out, "--classes", "background,disk", "--teacher", run)
    scores = json.loads(out.read_text())
    best = json.loads((run / "metrics.json").read_text())["best"]
    assert summary["miou"] == scores["miou"] == pytest.approx(best["miou"])
    assert scores["teacher_agreement"] == 1.0
    known = [scores["iou"][name] for name in ("background", "disk") if scores["iou"][name] is not None]
    assert scores["miou_of_classes"] == pytest.approx(sum(known) / len(known))
    for name in ("mean_accuracy", "frequency_weighted_iou", "boundary_iou", "calibration_error"):
        assert 0 <= scores[name] <= 1


def test_evaluate_any_network_at_another_size_with_views_averaged(
    capsys: Any, run: Path, shapes: Path, tmp_path: Path
) -> None:
    common = ["--data.root", shapes, "--out", tmp_path / "scores.json"]
    plain = answer(capsys, "evaluate", run, *common)
    small = answer(capsys, "evaluate", run, *common, "--size", 24)
    views = answer(capsys, "evaluate", run, *common, "--flip", "true", "--scales", "[0.5,1]")
    assert len({plain["calibration_error"], small["calibration_error"], views["calibration_error"]}) == 3


def test_predict_writes_masks_of_the_pictures_own_size(
    capsys: Any, run: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    result = answer(capsys, "predict", run, photos, "--out", out, "--probabilities", "true")
    assert result["images"] == 5
    sizes = {"upright": (20, 30), "web": (30, 20), "deep": (30, 20), "grey": (30, 20), "more/alpha": (30, 20)}
    for name, size in sizes.items():
        with Image.open(out / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == size
            assert np.asarray(mask).max() < 9
        with Image.open(out / f"{name}_overlay.jpg") as overlay:
            assert overlay.width == size[0]
            assert overlay.height > size[1]  # the legend is below
        probabilities = np.load(out / f"{name}.npz")
        assert probabilities["probabilities"].shape == (9, size[1], size[0])
        np.testing.assert_allclose(probabilities["probabilities"].astype(float).sum(axis=0), 1, atol=5e-3)


def test_report_of_two_runs_is_one_self_contained_page(
    capsys: Any, run: Path, distilled: Path, tmp_path: Path
) -> None:
    page = tmp_path / "both.html"
    assert answer(capsys, "report", run, distilled, "--out", page) == {"report": str(page)}
    text = page.read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text) == []
    assert "@import" not in text
    assert text.count("data:image/") >= 6
    assert "tiny" in text
    assert "distilled" in text


def test_data_shapes_draws_a_data_set_that_passes_the_check(capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    answer(capsys, "data", "shapes", "--out", out, "--train", 3, "--val", 2, "--size", 32)
    checked = answer(capsys, "data", "check", out)
    assert (checked["pairs"], checked["problems"], checked["splits"]) == (5, 0, ["train", "val"])


def test_data_check_names_each_bad_file(capsys: Any, shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "bad"
    shutil.copytree(shapes, root)
    devkit = root / "VOCdevkit" / "VOC2012"
    names = (devkit / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    masks, images = devkit / "SegmentationClass", devkit / "JPEGImages"
    (masks / f"{names[0]}.png").unlink()
    Image.new("P", (5, 5)).save(masks / f"{names[1]}.png")
    Image.fromarray(np.full((48, 48), 77, np.uint8)).save(masks / f"{names[2]}.png")
    content = (images / f"{names[3]}.jpg").read_bytes()
    (images / f"{names[3]}.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (48, 48)).save(masks / f"{names[4]}.png")
    code = cli.main(["data", "check", str(root)])
    out, err = capsys.readouterr()
    assert code == 1
    assert json.loads(out)["problems"] == 5
    lines = err.replace("\n", " ")
    reasons = ("does not exist", "5x5 pixels", "label 77", "cannot be decoded", "mode RGB")
    for name, reason in zip(names, reasons, strict=False):
        assert re.search(rf"train {name}: [^:]*{reason}", lines), reason


def test_version_and_help_need_no_torch() -> None:
    code = (
        "import sys, segdistill.cli as cli\n"
        "try:\n    cli.main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Softens both distributions" in " ".join(done.stdout.split())


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective.temprature", "2"], "temprature"),
        (["--objective.temperature", "0"], "objective.temperature is 0.0, but must be above 0"),
        (["--size", "-64"], "size is -64, but must be above 0"),
        (["--objective.alpha", "0", "--objective.beta", "0"], "objective.alpha and objective.beta"),
        (["--batch", "many"], "batch"),
        (["--data.root", "nowhere"], "data.root 'nowhere' is not a folder"),
        (["--data.split", "tomorrow"], "tomorrow.txt does not exist; lists here: train, val"),
        (["--student", "dsunett"], "did you mean dsunet?"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--device", "abacus"], "device is 'abacus'"),
        (["--resume"], "to resume"),
    ],
)
def test_train_refuses_on_one_line(
    capsys: Any, quick: list[object], options: list[str], message: str
) -> None:
    assert message in refusal(capsys, *quick, *options)


def test_an_unknown_key_in_a_file_is_named(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("objective:\n  temprature: 2\n")
    assert "temprature" in refusal(capsys, "train", "--config", tmp_path / "wrong.yaml")


def test_a_missing_configuration_is_named(capsys: Any) -> None:
    assert "nowhere.yaml" in refusal(capsys, "train", "--config", "nowhere.yaml")


def test_another_run_is_not_overwritten_unless_asked(capsys: Any, run: Path, quick: list[object]) -> None:
    before = (run / "model.safetensors").read_bytes()
    assert "--overwrite deletes it" in refusal(capsys, *quick, "--out", run)
    assert (run / "model.safetensors").read_bytes() == before


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


def test_a_mask_with_a_label_outside_the_set_is_refused(
    capsys: Any, shapes: Path, tmp_path: Path, quick: list[object]
) -> None:
    shutil.copytree(shapes, tmp_path / "bad")
    masks = sorted((tmp_path / "bad").rglob("SegmentationClass/*.png"))
    Image.fromarray(np.full((48, 48), VOID - 1, np.uint8)).save(masks[0])
    message = refusal(capsys, *quick, "--data.root", tmp_path / "bad", "--steps", "3")
    assert f"{masks[0]} holds the label 254, but labels are 0 to 8 and void is 255" in message


def test_a_truncated_image_is_refused_by_name(capsys: Any, run: Path, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    assert "torn.jpg cannot be decoded" in refusal(
        capsys, "predict", run, tmp_path / "torn.jpg", "--out", tmp_path
    )


@pytest.mark.parametrize("verb", [["evaluate"], ["predict", "PHOTO"], ["report"]])
def test_a_folder_that_is_no_run_is_refused(capsys: Any, tmp_path: Path, verb: list[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    command = [verb[0], tmp_path, *(tmp_path / "photo.png" for _ in verb[1:])]
    more = ["--data.root", tmp_path] if verb[0] == "evaluate" else []
    assert str(tmp_path) in refusal(capsys, *command, *more)


def test_evaluate_without_a_data_set_says_which_option_is_missing(capsys: Any) -> None:
    assert "--data.root" in refusal(capsys, "evaluate", "dsunet")


def test_predict_on_a_folder_without_images(capsys: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refusal(capsys, "predict", run, tmp_path / "empty", "--out", tmp_path / "out")


def test_no_verb_is_wrong_usage(capsys: Any) -> None:
    assert cli.main([]) == 2
    assert "usage: segdistill" in capsys.readouterr().err


def test_evaluation_settings_have_a_file_form(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(EvaluateConfig(size=320, flip=True)))
    assert load(EvaluateConfig, tmp_path / "e.yaml") == EvaluateConfig(size=320, flip=True)
