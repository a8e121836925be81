"""The demonstration: a fair comparison, what it shows, and the whole way at a small scale."""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segdistill import cli
from segdistill.api import evaluate
from segdistill.config.demo import DemoConfig
from segdistill.config.train import DataConfig, StudentConfig, TeacherConfig, TrainConfig
from segdistill.data.datasets import open_training, open_validation
from segdistill.data.labels import LabelSet
from segdistill.data.shapes import SHAPES, write_shapes
from segdistill.demonstrating import plan, run, shown, side_by_side
from segdistill.demonstrating.announcement import announcement, duration
from segdistill.demonstrating.plan import SHIPPED, make_plan
from segdistill.demonstrating.start import demo
from segdistill.models.card import read_card
from segdistill.reporting.examples import Example

RECORD = {
    "images": 100,
    "seeds": [4, 5, 6],
    "networks": {
        "teacher": {"miou": [0.781], "parameters": 582109},
        "alone": {"miou": [0.40, 0.42, 0.44], "parameters": 150909},
        "distilled": {"miou": [0.50, 0.51, 0.58], "parameters": 150909},
    },
    "gains": [10.0, 9.0, 14.0],
}


def printed(what: Any, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=110, **options)
    console.print(what)
    return console.file.getvalue()


def cells(text: str, name: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_students_of_one_seed_differ_in_nothing_but_the_teacher() -> None:
    made = make_plan(DemoConfig(seed=3, seeds=2, out="o"), from_scratch=False)
    assert made.teacher_training is None
    assert [one.seed for one in made.alone] == [one.seed for one in made.distilled] == [3, 4]
    for alone, distilled in zip(made.alone, made.distilled, strict=True):
        first, second = asdict(alone), asdict(distilled)
        assert {key for key in first if first[key] != second[key]} == {"teacher", "objective", "out"}
        assert alone.teacher.specs == ()
        assert distilled.teacher.specs == (str(SHIPPED),)
    caches = {one.teacher.cache for one in made.distilled}
    assert caches == {str(Path("o") / "cache")}
    assert len({one.out for one in made.trainings}) == len(made.trainings) == 4


def test_the_alone_student_reads_the_masked_images_and_the_distilled_one_all(tmp_path: Path) -> None:
    config = DemoConfig(out=str(tmp_path))
    made = make_plan(config, from_scratch=False)
    plan.draw_images(made, config)
    alone = open_training(made.alone[0].data, distils=False)
    distilled = open_training(made.distilled[0].data)
    assert (alone.labelled, len(alone)) == (40, 40)
    assert (distilled.labelled, len(distilled)) == (40, 440)
    assert len(open_validation(made.alone[0].data)) == 100


def test_photographs_without_masks_are_left_to_the_distilled_student() -> None:
    data = DataConfig(root="mine", unlabelled=["photos"], unlabelled_share=0.5)
    config = DemoConfig(data=data, teacher=TeacherConfig(spec="fcn_resnet50", scale=2.0))
    made = make_plan(config, from_scratch=False)
    assert made.teacher_training is None
    alone, distilled = made.alone[0], made.distilled[0]
    assert (alone.data.unlabelled, alone.data.unlabelled_share) == ([], None)
    assert (distilled.data.unlabelled, distilled.data.unlabelled_share) == (["photos"], 0.5)
    assert (distilled.teacher.spec, distilled.teacher.scale) == ("fcn_resnet50", 2.0)
    assert alone.data.long_side == alone.evaluate_size == plan.OWN_SIDE
    assert alone.data.max_images == distilled.data.max_images == plan.OWN_IMAGES
    assert f"At most {plan.OWN_IMAGES} images of each split" in announcement(made, config)


def test_from_scratch_the_teacher_is_larger_and_trained_on_other_drawn_images(tmp_path: Path) -> None:
    config = DemoConfig(out=str(tmp_path), seed=2)
    made = make_plan(config, from_scratch=True)
    first = made.teacher_training
    assert first is not None
    assert {one.teacher.spec for one in made.distilled} == {first.out}
    assert first.student.width >= 2 * made.alone[0].student.width
    assert first.data.root != made.alone[0].data.root
    assert first.data.labelled_share == 1


def test_two_teachers_are_refused() -> None:
    config = DemoConfig(teacher=TeacherConfig(spec="fcn_resnet50"))
    with pytest.raises(ValueError, match=r"teacher names fcn_resnet50: choose one"):
        make_plan(config, from_scratch=True)


def test_the_teacher_that_comes_along_is_small_and_knows_the_drawn_classes() -> None:
    card = read_card(SHIPPED)
    assert card.labels.names == SHAPES.names
    assert (card.width, card.stride) == (plan.TEACHER_STUDENT.width, plan.TEACHER_STUDENT.stride)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1.5e6


def test_the_teacher_that_comes_along_segments_images_that_it_has_not_seen(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", seed=5, train=1, val=12, size=plan.SIDE)
    data = {"root": str(tmp_path / "data"), "workers": 0}
    scores = evaluate(SHIPPED, data=data, device="cpu", out=str(tmp_path / "scores.json"))
    assert scores["miou"] > 0.5


def test_the_first_line_says_what_happens_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.demonstrating.announcement.usable_cores", lambda: 2)
    config = DemoConfig(out="o")
    made = make_plan(config, from_scratch=False)
    line = announcement(made, config)
    assert "40 drawn images with masks" in line
    assert "400 images without masks" in line
    assert "the teacher that comes with segdistill" in line
    assert f"{duration(made)}, all in o" in line
    scratch = make_plan(config, from_scratch=True)
    assert "first trained on 4,000 other drawn images" in announcement(scratch, config)
    minutes = [int(duration(one).split()[1]) for one in (made, scratch)]
    assert minutes[0] < minutes[1]
    longer = DemoConfig(out="o", steps=3000)
    assert int(duration(make_plan(longer, from_scratch=False)).split()[1]) > 4 * minutes[0]


def test_the_first_line_about_own_images_says_what_is_compared() -> None:
    config = DemoConfig(data=DataConfig(root="mine"))
    line = announcement(make_plan(config, from_scratch=False), config)
    assert "masks of mine, alone" in line
    assert "No teacher is named: a larger network is trained first" in line
    config = replace(config, teacher=TeacherConfig(spec=["net.py:f", "net.py:g"]))
    line = announcement(make_plan(config, from_scratch=False), config)
    assert "The teacher is net.py:f and net.py:g." in line
    assert "a larger network" not in line


def test_the_first_line_comes_before_pytorch_is_loaded() -> None:
    code = (
        "import sys, segdistill.demonstrating.start as start;"
        "start.log = lambda line: sys.exit(int('torch' in sys.modules));"
        "start.demo(start.DemoConfig(out='nowhere'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_the_data_need_data() -> None:
    with pytest.raises(ValueError, match=r"left alone where data\.root"):
        DemoConfig(data=DataConfig(val_share=0.2))


def test_the_result_shows_its_table_and_verdict_in_a_notebook() -> None:
    result = shown.Demonstration(RECORD)
    assert json.loads(json.dumps(result)) == RECORD
    page = result._repr_html_()
    assert "student distilled" in page
    assert shown.verdict(RECORD)[:40] in page


def test_the_table_has_each_seed_mean_deviation_and_paired_difference() -> None:
    text = printed(shown.result_table(RECORD))
    assert "100 images" in text
    assert cells(text, "teacher") == ["", "", "", "78.1", "582,109"]
    assert cells(text, "student alone") == ["40.0", "42.0", "44.0", "42.0 ± 2.0", "150,909"]
    assert cells(text, "student distilled") == ["50.0", "51.0", "58.0", "53.0 ± 4.4", "150,909"]
    assert cells(text, "difference") == ["+10.0", "+9.0", "+14.0", "+11.0 ± 2.6", ""]


@pytest.mark.parametrize(
    ("gains", "text"),
    [
        ([1.0, 2.0], "The teacher helped with each of the 2 seeds: +1.5 points"),
        ([-1.0, 2.0], "helped with some of the 2 seeds only: +0.5 points of mean IoU"),
        ([-1.0, -2.0], "did not help: \N{MINUS SIGN}1.5 points"),
    ],
)  # fmt: skip
def test_the_verdict_says_no_more_than_the_seeds_do(gains: list[float], text: str) -> None:
    assert text in shown.verdict({"gains": gains, "seeds": [0, 1]})


LABELS = LabelSet(names=("background", "a"), palette=((0, 0, 0), (10, 20, 30)))


def example(side: int = 24) -> Example:
    image = np.full((side, side, 3), (200, 100, 50), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 1
    return Example(id="x", role="median", scores={}, image=image, truth=mask, predictions={"net": 1 - mask})


def test_the_picture_has_two_pixels_in_each_character() -> None:
    picture = shown.terminal_picture(example(), LABELS, columns=3 * 24 + 2)
    assert picture is not None
    title, *rows = picture.plain.splitlines()
    assert title.split() == ["image", "ground", "truth", "net"]
    assert rows == [" ".join(["▀" * 24] * 3)] * 12
    text = printed(picture, color_system="truecolor", force_terminal=True)
    first, last = text.splitlines()[1], text.splitlines()[-1]
    for line, truth, predicted in ((first, "10;20;30", "0;0;0"), (last, "0;0;0", "10;20;30")):
        order = [line.index(f"38;2;{tint};48;2;{tint}m") for tint in ("200;100;50", truth, predicted)]
        assert order == sorted(order)


def test_there_is_no_picture_where_it_does_not_fit() -> None:
    assert shown.terminal_picture(example(), LABELS, columns=30) is None


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({"force_terminal": True, "color_system": "truecolor"}, True),
        ({"force_terminal": True, "color_system": "256"}, False),
        ({"force_terminal": False, "color_system": "truecolor"}, False),
        ({"force_terminal": True, "color_system": "truecolor", "quiet": True}, False),
    ],
)
def test_pictures_are_for_terminals_with_all_colours(options: dict[str, Any], possible: bool) -> None:
    assert shown.can_show(Console(file=io.StringIO(), **options)) is possible


def test_the_next_commands_name_what_was_given() -> None:
    drawn = shown.next_commands("", None)
    assert "segdistill demo --data mydata --teacher mynet.py:teacher" in drawn
    own = shown.next_commands("my data", "fcn_resnet50")
    assert "segdistill evaluate fcn_resnet50 --data 'my data'" in own
    assert len(drawn.splitlines()) == len(own.splitlines()) == 4


def tiny(out: Path, **settings: Any) -> TrainConfig:
    base = TrainConfig(
        student=StudentConfig(width=0.05, stride=2), size=32, batch=2, steps=2, device="cpu", out=str(out)
    )
    return replace(base, **settings)


def test_a_training_that_fails_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "process_count", lambda trainings: 1)
    write_shapes(tmp_path / "data", train=4, val=2, size=32)
    good = tiny(tmp_path / "good", data=DataConfig(root=str(tmp_path / "data"), workers=0))
    broken = tiny(tmp_path / "broken", data=DataConfig(root=str(tmp_path / "nowhere"), workers=0))
    with pytest.raises(ValueError, match=r"a training failed: .*nowhere.*process-0\.log"):
        side_by_side.train_side_by_side([good, broken], tmp_path / "trainings")
    assert read_card(tmp_path / "good").width == good.student.width  # trained before, in the same process


def test_steps_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"step": 10}\n{"step": 20}\n{"step')
    config = tiny(tmp_path)
    written = history.stat().st_mtime
    assert side_by_side._step(config, written - 1) == 20
    assert side_by_side._step(config, written + 1) == 0
    assert side_by_side._step(tiny(tmp_path / "none"), 0) == 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few, tiny images and slivers of the networks, trained for two steps in this process."""
    for name, value in {
        "MASKED": 4,
        "UNMASKED": 4,
        "SCORED": 3,
        "SIDE": 32,
        "TEACHER_IMAGES": 5,
        "TEACHER_STEPS": 4,
    }.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(plan, "OWN_CROP", 32)
    monkeypatch.setattr(plan, "STUDENT", StudentConfig(width=0.05, stride=2))
    monkeypatch.setattr(plan, "TEACHER_STUDENT", StudentConfig(width=0.1, stride=2))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainings one after the other, without new processes."""

    def train_here(configs: list[TrainConfig], folder: Path) -> None:
        for config in configs:
            run.train(config, overwrite=True, report=False)

    monkeypatch.setattr(run, "train_side_by_side", train_here)


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is exported."""
    monkeypatch.setattr(run, "find_spec", lambda name: None)


@pytest.mark.integration
@pytest.mark.usefixtures("small", "in_this_process")
def test_the_demonstration_ends_with_table_report_picture_and_file(capsys: Any, tmp_path: Path) -> None:
    command = ["demo", "--out", str(tmp_path), "--device", "cpu", "--steps", "2", "--seeds", "2"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["seeds"] == [0, 1]
    for name in ("alone", "distilled"):
        best = [json.loads((tmp_path / f"{name}-{i}" / "metrics.json").read_text())["best"] for i in (0, 1)]
        assert result["networks"][name]["miou"] == [one["miou"] for one in best]
        assert [one["step"] for one in best] == [2, 2]
    scores = {name: network["miou"] for name, network in result["networks"].items()}
    pairs = zip(scores["alone"], scores["distilled"], strict=True)
    assert result["gains"] == pytest.approx([100 * (with_teacher - alone) for alone, with_teacher in pairs])
    assert result["gain_points"] == pytest.approx(sum(result["gains"]) / 2)
    assert err.startswith("Few masks, many images")
    assert "│ student distilled" in err
    assert "Next, on your own images" in err
    page = Path(result["report"]).read_text()
    assert all(f"{name}-{seed}" in page for name in ("alone", "distilled") for seed in (0, 1))
    for name in ("picture", "exported"):
        assert Path(result[name]).stat().st_size > 1000
    certificate = json.loads(Path(result["certificate"]).read_text())
    assert certificate["verdict"]["shown"] is True
    assert certificate["image_count"] == 3

    assert cli.main(command) == 1
    assert "holds another run" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.integration
@pytest.mark.usefixtures("small", "in_this_process", "no_onnx")
def test_own_images_without_a_teacher_get_a_larger_network_first(tmp_path: Path) -> None:
    write_shapes(tmp_path / "mine", train=6, val=3, size=48)
    out = tmp_path / "out"
    config = DemoConfig(
        data=DataConfig(root=str(tmp_path / "mine")), steps=1, seeds=2, out=str(out), device="cpu"
    )
    result = demo(config)
    teacher = read_card(out / "teacher")
    assert teacher.width == plan.TEACHER_STUDENT.width
    assert read_card(out / "distilled-1").teacher["spec"] == str(out / "teacher")
    assert result["images"] == 3
    assert "exported" not in result
    assert not (out / "data").exists()


@pytest.mark.integration
@pytest.mark.usefixtures("small", "in_this_process", "no_onnx")
def test_from_scratch_the_teacher_is_trained_on_the_spot(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = demo(DemoConfig(steps=1, seeds=2, out=str(out), device="cpu"), from_scratch=True)
    drawn = json.loads((out / "teacher-data" / "shapes.json").read_text())
    assert (drawn["seed"], drawn["train"]) == (plan.TEACHER_SEED, 5)
    best = json.loads((out / "teacher" / "metrics.json").read_text())["best"]
    assert best["step"] == 4
    assert len(result["networks"]["teacher"]["miou"]) == 1
    assert read_card(out / "distilled-0").teacher["spec"] == str(out / "teacher")
