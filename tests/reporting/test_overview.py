"""The first screen says what was trained from what, the result with its interval, and which classes fell."""

from dataclasses import replace

import pytest

from segdistill.engine.bootstrap import Interval
from segdistill.engine.run_folder import RunFolder
from segdistill.reporting.comparison import MINUS
from segdistill.reporting.intervals import RunIntervals, run_intervals
from segdistill.reporting.overview import falls, network_in_words, origins, results
from segdistill.reporting.records import Records, read_records

pytestmark = pytest.mark.unit


def read(*runs) -> list[Records]:
    return [read_records(RunFolder(run.path), run.path.name) for run in runs]


def with_iou(run: Records, **iou: float | None) -> Records:
    """A run whose best evaluation has these scores of its classes."""
    return replace(run, best=(run.best or {}) | {"iou": iou})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dsunet", "a U-Net of depthwise separable blocks (dsunet)"),
        ("fcn_resnet50", "fcn_resnet50 of torchvision"),
        ("timm:efficientnet_lite0", "efficientnet_lite0 of timm with a light decoder"),
        ("smp:unet/resnet18", "unet on resnet18 of segmentation_models.pytorch"),
        ("hf:nvidia/segformer-b0", "nvidia/segformer-b0 of Hugging Face"),
        ("weights/voc_teacher.py:build", "build of voc_teacher.py"),
        ("runs/teacher", "the network teacher"),
    ],
)
def test_networks_in_words(spec, words):
    assert network_in_words(spec) == words


def test_a_run_says_what_it_was_trained_from(make_run):
    [text], common = origins(read(make_run("run")))
    assert common == ""
    assert text == (
        "A student of 2.28\u00a0M parameters, a U-Net of depthwise separable blocks (dsunet), distilled from "
        "fcn_resnet50 of torchvision (35.3\u00a0M parameters). Trained on the data set drawn with 5 classes "
        "(background, <b>x, $cat$, _犬, never). 40 steps of 8 crops of 256\u00d7256 pixels. "
        "Scored on 8 validation images (split val); the weights of step 30 were kept."
    )


def test_what_runs_have_in_common_is_said_once(make_run):
    own, common = origins(read(make_run("alone", teacher=False), make_run("distilled")))
    assert own[0].endswith("(dsunet), trained without a teacher.")
    assert own[1].endswith("distilled from fcn_resnet50 of torchvision (35.3\u00a0M parameters).")
    assert common.startswith("All of them: trained on the data set drawn")


def test_a_run_without_any_record_is_still_a_sentence(make_run):
    run = make_run("bare")
    [records] = read(run)
    bare = replace(records, config={}, card=None, cost=None, best=None, last=None)
    assert origins([bare]) == (["A student."], "")


def test_one_run_has_its_score_with_an_interval(make_run):
    records = read(make_run("run", noise=2.0))
    found = run_intervals(records)
    [result] = results(records, found)
    interval = found[0].alone["miou"]
    assert interval.low < records[0].scores["miou"] < interval.high
    assert result.number == f"{100 * records[0].scores['miou']:.1f}\u00a0%"
    assert result.sentence == (
        f"Mean IoU over 4 classes on 8 images (95\u00a0% interval {100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f}); its latency is 6.2\u00d7 lower than its teacher's."
    )


def test_a_resolved_difference_is_coloured_and_another_is_not(make_run):
    records = read(make_run("alone", noise=2.0, teacher=False), make_run("distilled", noise=1.0))
    [result] = results(records, run_intervals(records))
    assert result.tone == "better"
    assert "within the spread" not in result.sentence
    unsure = RunIntervals(difference={"miou": Interval(value=0.02, low=-0.01, high=0.05)})
    [result] = results(records, [RunIntervals(), unsure])
    assert result.tone == ""
    assert f"95\u00a0% interval {MINUS}1.0 to +5.0: within the spread" in result.sentence
    [result] = results(records, [RunIntervals(), RunIntervals()])
    assert result.tone == ""
    assert "cannot be computed" in result.sentence


def test_scores_on_different_images_are_not_compared(make_run):
    records = read(make_run("first"), make_run("few", images=6))
    assert [result.tone for result in results(records, run_intervals(records))] == ["", ""]
    assert results(records, run_intervals(records))[1].sentence.startswith("few: mean IoU")
    assert falls(records, run_intervals(records)) == []


def test_classes_that_fell_under_distillation_are_named(make_run):
    alone, distilled = read(make_run("alone", teacher=False), make_run("distilled"))
    alone = with_iou(alone, cat=0.50, dog=0.60, cow=0.70, sheep=None)
    distilled = with_iou(distilled, cat=0.45, dog=0.575, cow=0.63, sheep=0.1)
    found = RunIntervals(
        classes={
            "cow": Interval(value=-0.07, low=-0.112, high=-0.03),
            "cat": Interval(value=-0.05, low=-0.12, high=0.02),
        }
    )
    assert falls([alone, distilled], [RunIntervals(), found]) == [
        "Under distillation, 2 classes fell by 3 points of IoU or more (distilled against alone): "
        f"cow {MINUS}7.0 ({MINUS}11.2 to {MINUS}3.0); "
        f"cat {MINUS}5.0 ({MINUS}12.0 to +2.0, within the spread)."
    ]
    # In the other order it is the same loss, whose interval is mirrored.
    mirrored = RunIntervals(classes={"cow": Interval(value=0.07, low=0.03, high=0.112)})
    [line] = falls([distilled, alone], [RunIntervals(), mirrored])
    assert f"(distilled against alone): cow {MINUS}7.0 ({MINUS}11.2 to {MINUS}3.0); cat {MINUS}5.0." in line


def test_a_fall_against_a_first_run_needs_no_teacher(make_run):
    first, second = read(make_run("first", teacher=False), make_run("second", teacher=False))
    first, second = with_iou(first, cat=0.5, dog=0.5), with_iou(second, cat=0.46, dog=0.6)
    empty = [RunIntervals(), RunIntervals()]
    assert falls([first, second], empty) == [
        f"One class fell by 3 points of IoU or more (second against first): cat {MINUS}4.0."
    ]
    assert falls([second, second], empty) == []
