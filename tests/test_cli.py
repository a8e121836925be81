"""The command line: every verb as a user types it."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import metadata
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import segdistill
from segdistill import api, cli
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load
from segdistill.engine import about
from segdistill.engine.runtime import processor_name

pytestmark = pytest.mark.integration
PROGRAM = Path(sys.executable).with_name("segdistill")


def answer(capsys: Any, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; returns the JSON line that is all of standard output."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return json.loads(out)


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
    assert "Example: --teacher mynet.py:teacher" in " ".join(done.stdout.split())


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


@pytest.mark.parametrize(
    ("typed", "spec"),
    [("[a.py:build, runs/b]", ["a.py:build", "runs/b"]), ("runs/b", "runs/b"), ("null", None)],
)
def test_a_teacher_is_typed_as_one_network_or_as_a_list(
    capsys: Any, quick: list[object], typed: str, spec: object
) -> None:
    averaged = ["--teacher.mix", "[2, 1]"] if isinstance(spec, list) else []
    with pytest.raises(SystemExit):
        cli.main([*map(str, quick), "--teacher", typed, *averaged, "--print_config"])
    teacher = yaml.safe_load(capsys.readouterr().out)["teacher"]
    assert (teacher["spec"], teacher["mix"]) == (spec, [2, 1] if averaged else [])


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


def test_a_finished_run_can_be_repeated_and_overwritten(capsys: Any, configure: Any, tmp_path: Path) -> None:
    run = api.train(configure(tmp_path / "run", steps=2, evaluate_every=2), report=False)
    (run / "stale.txt").write_text("of the first run")
    again = answer(capsys, "train", "--config", run / "config.yaml", "--overwrite", "--seed", 1)
    assert again["run"] == str(run)
    assert load(TrainConfig, run / "config.yaml").seed == 1
    assert not (run / "stale.txt").exists()


def test_what_a_network_prints_is_not_mixed_with_the_answer(
    capsys: Any, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "from torch import nn\n\n\n"
        "def build(num_classes):\n    print('made')\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    options = ["--data.root", shapes, "--data.workers", 0, "--out", tmp_path / "scores.json"]
    assert "miou" in answer(capsys, "evaluate", f"{tmp_path / 'loud.py'}:build", *options)


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
    assert err.splitlines()[0] == f"Evaluating {run} on 4 images"
    assert "crescent" in err
    assert "crescent" not in out
    assert json.loads((tmp_path / "scores.json").read_text())["teacher_agreement"] is None


def test_evaluate_leaves_no_file_unless_asked(
    capsys: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "evaluate", run)["out"] is None
    assert [*tmp_path.iterdir()] == []


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


def test_predict_reads_an_image_from_standard_input(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, run: Path, photos: Path, tmp_path: Path
) -> None:
    encoded = BytesIO((photos / "phone.jpg").read_bytes())
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(encoded))
    out = tmp_path / "masks"
    assert answer(capsys, "predict", run, "-", photos / "phone.jpg", "--out", out)["images"] == 2
    assert (out / "stdin.png").read_bytes() == (out / "phone.png").read_bytes()


def test_predict_takes_a_quoted_pattern(capsys: Any, run: Path, photos: Path, tmp_path: Path) -> None:
    pattern = photos / "**" / "*a*.png"
    assert answer(capsys, "predict", run, pattern, "--out", tmp_path / "masks")["images"] == 1
    assert (tmp_path / "masks" / "more" / "alpha.png").is_file()


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


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (
            "train --stepz 3",
            "unrecognized arguments: --stepz 3; did you mean --steps? (segdistill train --help",
        ),
        ("train --data.unlabeled x", "did you mean --data.unlabelled?"),
        ("evaluate run --output-strid=3", "did you mean --output_stride?"),
        ("train --techer x", "did you mean --teacher?"),
        ("train --quux 1", "unrecognized arguments: --quux 1 (segdistill train --help lists the options)"),
        ("data shapes", "required: --out (segdistill data shapes --help lists the options)"),
        ("predict", "required: target, paths (segdistill predict --help lists the options)"),
        ("data", "expected a command to be one of {init,check,show,convert,shard, ..."),
        ("trian", "did you mean train? (segdistill --help lists the commands)"),
        ("data chek", "did you mean check? (segdistill data --help lists the commands)"),
        (
            "train --optim.name adma",
            "--optim.name is 'adma', but must be adamw, adam or sgd; did you mean adam?",
        ),
        ("export run --format onx", "did you mean onnx? (segdistill export --help"),
        (
            "export run --quantize int9",
            "--quantize is 'int9', but must be float16, int8 or null; did you mean int8?",
        ),
        (
            "train --student.decoder pfn",
            "--student.decoder is 'pfn', but must be fpn, lraspp or deeplab; did you",
        ),
        ("train --steps many", "--steps is 'many', but must be a whole number ("),
        ("train --trackers wandb", "--trackers is 'wandb', but must be a list such as '[A, B]' ("),
    ],
)
def test_wrong_usage_is_explained(typed: str, answer: str, capsys: Any) -> None:
    assert cli.main(typed.split()) == 2
    assert answer in " ".join(capsys.readouterr().err.split())


def test_version_all_says_what_a_report_of_a_bug_needs(capsys: Any) -> None:
    assert answer(capsys, "version") == {"version": segdistill.__version__}
    assert cli.main(["version", "--all"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["packages"]["torch"] == metadata.version("torch")
    assert record["devices"]["cpu"] == [processor_name()]
    assert set(record["extras"]) == set(metadata.metadata("segdistill").get_all("Provides-Extra"))
    assert "extra serve: " in err


def test_version_names_what_of_an_extra_is_missing(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = about.installed_version
    monkeypatch.setattr(about, "installed_version", lambda name: None if name == "timm" else there(name))
    assert "timm" in answer(capsys, "version", "--all")["extras"]["zoo"]
    monkeypatch.setattr(about, "installed_version", lambda name: "0.1" if name == "timm" else there(name))
    assert any("there is 0.1" in text for text in answer(capsys, "version", "--all")["extras"]["zoo"])


def test_quiet_leaves_the_result_and_warnings_and_verbose_adds_times(
    capsys: Any, quick: list[object], run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    command = ["evaluate", str(run), "--data.workers", "0", "--out", str(out)]
    assert cli.main([*command, "--quiet"]) == 0
    result, err = capsys.readouterr()
    assert (err, json.loads(result)["out"]) == ("", str(out))
    assert cli.main(["label", "x", str(tmp_path / "no.png"), "--quiet"]) == 1
    assert "no.png does not exist" in capsys.readouterr().err
    assert cli.main([*map(str, quick), "--verbose"]) == 0
    assert re.search(r"^\d\d:\d\d:\d\d The report is", capsys.readouterr().err, flags=re.MULTILINE)
    assert cli.main(["evaluate", str(tmp_path / "no"), "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert cli.main([*command, "--quiet", "--verbose"]) == 1
    assert "choose one" in capsys.readouterr().err
