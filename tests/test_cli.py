"""The command line: every verb as a user types it, and one clear line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill import cli
from segdistill.config.evaluate import EvaluateConfig
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.data.labels import VOID

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


def answer(capsys: Any, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; returns the JSON line that is all of standard output."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return json.loads(out)


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
    picture.save(folder / "phone.jpg", exif=exif)
    picture.save(folder / "turned.png", exif=exif)
    picture.transpose(Image.Transpose.ROTATE_270).save(folder / "seen.png")
    picture.save(folder / "web.webp")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "more" / "alpha.png")
    return folder


@pytest.fixture
def copied(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set to spoil."""
    return shutil.copytree(shapes, tmp_path / "copied")


# What works


def test_train_as_a_process_ends_with_one_line_of_json(quick: list[object], tmp_path: Path) -> None:
    command = [PROGRAM, *map(str, quick)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"] == str(tmp_path / "run")
    assert 0 <= result["pixel_accuracy"] <= 1
    assert "The report is" in done.stderr
    assert "Warning" not in done.stderr


def test_help_needs_no_torch_and_explains_every_setting() -> None:
    code = (
        "import sys, segdistill.cli as cli\n"
        "try:\n    cli.main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Softens both distributions" in " ".join(done.stdout.split())


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help(capsys: Any, verb: str) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: segdistill [options] {verb} ")


def test_options_override_the_file_and_short_names_stand_for_the_network(
    capsys: Any, quick: list[object], tmp_path: Path
) -> None:
    options = ["--student.width=0.2", "--teacher", "fcn_resnet50", "--student=lraspp", "--init=runs/a"]
    options += ["--print_config"]
    with pytest.raises(SystemExit) as done:
        cli.main([*map(str, quick), *options])
    assert done.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    expected = yaml.safe_load((tmp_path / "quick.yaml").read_text())
    expected["student"] |= {"width": 0.2, "spec": "lraspp", "init": "runs/a"}
    expected["teacher"]["spec"] = "fcn_resnet50"
    assert {key: printed[key] for key in expected} == expected


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


def test_a_finished_run_can_be_repeated_and_overwritten(
    capsys: Any, quick: list[object], tmp_path: Path
) -> None:
    first = answer(capsys, *quick)
    config = tmp_path / "run" / "config.yaml"
    (tmp_path / "run" / "stale.txt").write_text("of the first run")
    assert answer(capsys, "train", "--config", config, "--overwrite", "--seed", 1)["run"] == first["run"]
    assert load(TrainConfig, config).seed == 1
    assert not (tmp_path / "run" / "stale.txt").exists()


def test_what_a_network_prints_is_not_mixed_with_the_answer(
    capsys: Any, quick: list[object], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "from torch import nn\n\n\n"
        "def build(num_classes):\n    print('made')\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    loud = ["--student", f"{tmp_path / 'loud.py'}:build", "--student.width", 1]
    assert answer(capsys, *quick, *loud)["step"] == 2


def test_evaluate_a_run_writes_every_score(capsys: Any, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    summary = answer(capsys, "evaluate", run, "--out", out, "--classes", "background, disk", "--teacher", run)
    scores = json.loads(out.read_text())
    best = json.loads((run / "metrics.json").read_text())["best"]
    assert summary["miou"] == scores["miou"] == pytest.approx(best["miou"])
    assert scores["teacher_agreement"] == 1.0
    known = [scores["iou"][name] for name in ("background", "disk") if scores["iou"][name] is not None]
    assert scores["miou_of_classes"] == pytest.approx(sum(known) / len(known))
    for name in ("pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "boundary_iou"):
        assert 0 <= scores[name] <= 1
    assert 0 <= scores["calibration_error"] <= 1
    assert np.sum(scores["confusion"]) == scores["pixels"] == sum(map(sum, scores["confusion"]))
    assert scores["image_count"] == len(scores["images"]) == 4


def test_evaluate_shows_a_table_and_no_agreement_without_a_teacher(
    capsys: Any, run: Path, tmp_path: Path
) -> None:
    assert cli.main(["evaluate", str(run), "--out", str(tmp_path / "scores.json")]) == 0
    out, err = capsys.readouterr()
    assert "crescent" in err
    assert "crescent" not in out
    assert json.loads((tmp_path / "scores.json").read_text())["teacher_agreement"] is None


def test_evaluate_at_another_size_and_with_views_averaged(
    capsys: Any, run: Path, shapes: Path, tmp_path: Path
) -> None:
    common = ["evaluate", run, "--data.root", shapes, "--data.workers", 0, "--out", tmp_path / "scores.json"]
    options = [[], ["--size", 24], ["--flip", "true"], ["--scales", "[0.5,1]"]]
    errors = [answer(capsys, *common, *more)["calibration_error"] for more in options]
    assert len(set(errors)) == len(options)
    assert answer(capsys, *common, "--size", 48)["calibration_error"] == errors[0]  # the images' own size


def test_evaluate_a_network_that_is_no_run_on_the_training_split(
    capsys: Any, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "ground.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Ground(nn.Module):\n"
        "    def forward(self, x):\n        logits = torch.zeros(len(x), 9, *x.shape[2:])\n"
        "        logits[:, 0] = 1\n        return logits\n"
    )
    spec, out = f"{tmp_path / 'ground.py'}:Ground", tmp_path / "scores.json"
    options = ["--data.root", shapes, "--data.split", "train", "--out", out]
    answer(capsys, "evaluate", spec, *options)
    scores = json.loads(out.read_text())
    assert scores["image_count"] == 12
    assert scores["pixel_accuracy"] == scores["iou"]["background"] > 0
    assert all(value in {0.0, None} for name, value in scores["iou"].items() if name != "background")
    assert all(scores["iou"][name] is None for name in scores["absent"])


def test_predict_writes_masks_of_the_pictures_own_size(
    capsys: Any, run: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    result = answer(capsys, "predict", run, photos, "--out", out, "--probabilities", "true")
    assert result["images"] == 7
    upright = dict.fromkeys(("phone", "turned", "seen"), (20, 30))
    sizes = upright | dict.fromkeys(("web", "deep", "grey", "more/alpha"), (30, 20))
    for name, size in sizes.items():
        with Image.open(out / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == size
            assert mask.getpalette()[3:6] == [230, 25, 75]
            indices = np.asarray(mask)
        with Image.open(out / f"{name}_overlay.jpg") as overlay:
            assert overlay.width == size[0]
            assert overlay.height > size[1]  # the legend is below
        probabilities = np.load(out / f"{name}.npz")["probabilities"].astype(np.float32)
        assert probabilities.shape == (9, size[1], size[0])
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=5e-3)
        chosen = np.take_along_axis(probabilities, indices[None].astype(int), axis=0)[0]
        assert (chosen >= probabilities.max(axis=0)).all()
    assert (out / "turned.png").read_bytes() == (out / "seen.png").read_bytes()


def test_predict_takes_files_at_another_size(capsys: Any, run: Path, photos: Path, tmp_path: Path) -> None:
    files = [photos / "web.webp", photos / "more" / "alpha.png"]
    (tmp_path / "settings.yaml").write_text("flip: true\nsize: 99\n")
    options = ["--config", tmp_path / "settings.yaml", "--size", 16, "--out", tmp_path / "masks"]
    assert answer(capsys, "predict", run, *files, *options)["images"] == 2
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {
        "alpha.png", "alpha_overlay.jpg", "web.png", "web_overlay.jpg",
    }  # fmt: skip


class Sources(HTMLParser):
    """Collects what a page loads or links to, outside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "poster", "xlink:href"}:
                self.pictures += (value or "").startswith("data:image/")
                self.outside += [] if re.match("data:|#", value or "#") else [f"{tag} {name}={value}"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_report_is_one_self_contained_page(
    capsys: Any, run: Path, distilled: Path, tmp_path: Path, count: int
) -> None:
    page = tmp_path / "page.html"
    runs = [distilled, run][:count]
    assert answer(capsys, "report", *runs, "--out", page) == {"report": str(page)}
    text = page.read_text()
    sources = Sources()
    sources.feed(text)
    assert sources.outside == []
    assert sources.pictures >= 8  # of best, median and worst image: itself, truth, masks, errors
    assert re.findall(r"@import|url\((?!#|[\"']?data:)", text) == []
    assert all(path.name in text for path in runs)


def test_a_report_lies_in_the_run_folder_where_nothing_else_is_said(capsys: Any, run: Path) -> None:
    assert answer(capsys, "report", run) == {"report": str(run / "report.html")}


def test_data_shapes_draws_a_data_set_that_passes_the_check(capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    drawn = answer(capsys, "data", "shapes", "--out", out, "--train", 3, "--val", 2, "--size", 32)
    assert drawn == {"devkit": str(out / "VOCdevkit" / "VOC2012")}
    checked = answer(capsys, "data", "check", out)
    assert (checked["pairs"], checked["problems"], checked["splits"]) == (5, 0, ["train", "val"])
    assert answer(capsys, "data", "check", out, "--split", "val")["pairs"] == 2


def test_data_check_names_each_bad_file(capsys: Any, copied: Path) -> None:
    devkit = copied / "VOCdevkit" / "VOC2012"
    names = (devkit / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    masks, images = devkit / "SegmentationClass", devkit / "JPEGImages"
    (masks / f"{names[0]}.png").unlink()
    Image.new("P", (5, 5)).save(masks / f"{names[1]}.png")
    Image.fromarray(np.full((48, 48), 77, np.uint8)).save(masks / f"{names[2]}.png")
    content = (images / f"{names[3]}.jpg").read_bytes()
    (images / f"{names[3]}.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (48, 48)).save(masks / f"{names[4]}.png")
    (images / f"{names[5]}.jpg").write_text("no image")
    assert cli.main(["data", "check", str(copied)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["problems"] == 6
    assert len(err.splitlines()) == 6
    reasons = ("does not exist", "5x5 pixels", "label 77", "cannot be decoded", "mode RGB", "not an image")
    for name, reason, line in zip(names, reasons, err.splitlines(), strict=False):
        assert re.match(rf"train {name}: .*{reason}", line), reason


# What is refused


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
        (["--data.split", "tomorrow"], "tomorrow.txt does not exist; lists here: train, val"),
        (["--data.unlabelled", "[photos]"], "data.unlabelled is ['photos'], but must be empty"),
        (["--student", "dsunett"], "did you mean dsunet?"),
        (
            ["--student", "hourglass"],
            "there is no network 'hourglass'. A network is a built-in (dsunet), one of torchvision's (fcn",
        ),
        (["--student", "./own:build", "--student.width", "1"], "there is no network './own:build'"),
        (["--student", "fcn_resnet50"], "only dsunet can be made wider or narrower"),
        (["--student.init", "nowhere"], "nowhere is not a run folder"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--teacher", "nowhere.py:build"], "nowhere.py does not exist"),
        (["--teacher", "dsunet"], "dsunet has no published weights"),
        (["--teacher", "fcn_resnet50", "--teacher.weights", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--device", "abacus"], "device is 'abacus', but must be auto, cpu, cuda or mps"),
        (["--runtime.precision", "fp16"], "a CPU takes fp32 or bf16"),
        (["--trackers", "[abacus]"], "trackers: abacus is not installed, or unknown to accelerate"),
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
        (["train", "--optim.name", "adagrad"], "'adamw', 'adam', 'sgd'"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate"], "target"),
        (["predict", "run"], "paths"),
        (["report"], "runs"),
        (["data"], "{check,download,shapes}"),
        (["data", "download", "coco", "--root", "here"], "'coco'"),
        (["distill"], "'distill'"),
    ],
)
def test_wrong_usage_ends_with_two(capsys: Any, arguments: list[str], message: str) -> None:
    assert message in refusal(capsys, *arguments, code=2)


@pytest.mark.parametrize("content", ["objective:\n  temprature: 2\n", "- temprature\n", "[temprature\n"])
def test_a_file_that_is_no_configuration_is_refused(capsys: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    message = refusal(capsys, "train", "--config", tmp_path / "wrong.yaml", code=2)
    assert "temprature" in message or "parsing" in message


def test_a_group_of_settings_that_is_null_is_refused(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "null.yaml").write_text("teacher:\nsize: 64\n")
    assert "teacher is null" in refusal(capsys, "train", "--config", tmp_path / "null.yaml", code=1)


def test_no_verb_is_wrong_usage(capsys: Any) -> None:
    assert cli.main([]) == 2
    assert "usage: segdistill" in capsys.readouterr().err


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
    message = refusal(capsys, "evaluate", run, "--data.root", copied, "--data.workers", workers, *out)
    assert f"error: {image} cannot be decoded" in message
    assert not (tmp_path / "scores.json").exists()
    assert f"error: {image} cannot be decoded" in refusal(capsys, "predict", run, image, "--out", tmp_path)


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
        (["--data.split", "test"], "test.txt does not exist; lists here: train, val"),
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
    assert "is not an image" in refusal(capsys, "predict", run, tmp_path / "text.png", *out)


def test_data_verbs_refuse_on_one_line(capsys: Any, shapes: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refusal(capsys, "data", "check", tmp_path / "nowhere")
    assert "is neither a VOC devkit" in refusal(capsys, "data", "check", tmp_path)
    assert "lists here: train, val" in refusal(capsys, "data", "check", shapes, "--split", "x")
    assert "train is 0" in refusal(capsys, "data", "shapes", "--out", tmp_path / "new", "--train", 0)
    assert "other arguments" in refusal(capsys, "data", "shapes", "--out", shapes)


def test_evaluation_settings_have_a_file_form(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(EvaluateConfig(size=320, flip=True)))
    assert load(EvaluateConfig, tmp_path / "e.yaml") == EvaluateConfig(size=320, flip=True)
