"""Intervals and seeds of several runs, against numbers computed here."""

import numpy as np
import pytest

from segdistill.engine.bootstrap import bootstrap, miou_of
from segdistill.engine.run_folder import RunFolder
from segdistill.reporting.comparison import DASH
from segdistill.reporting.evidence import differences
from segdistill.reporting.intervals import run_intervals
from segdistill.reporting.overview import results
from segdistill.reporting.records import read_records
from segdistill.reporting.seeds import gains, over_seeds, seed_groups, trainings

pytestmark = pytest.mark.unit


def read(*runs):
    return [read_records(RunFolder(run.path), run.path.name) for run in runs]


def test_a_difference_has_the_interval_of_a_paired_bootstrap(make_run):
    records = read(make_run("first", noise=2.0), make_run("second"))
    rows = differences(run_intervals(records))
    assert [row.title for row in rows] == ["mean IoU", "pixel accuracy"]
    [cell] = rows[0].cells
    tables = [np.stack([run.image_counts[name] for name in sorted(run.image_counts)]) for run in records]
    expected = bootstrap(np.stack(tables), {"miou": miou_of}).differences[0]["miou"]
    assert cell.text == f"+{100 * expected.value:.2f}"
    assert cell.delta == f"+{100 * expected.low:.2f} to +{100 * expected.high:.2f}"
    assert cell.tone == "better"
    assert expected.value == pytest.approx(records[1].scores["miou"] - records[0].scores["miou"])


def test_what_is_not_resolved_has_no_colour(make_run):
    [row, _] = differences(run_intervals(read(make_run("first"), make_run("same"))))
    assert (row.cells[0].text, row.cells[0].delta, row.cells[0].tone) == ("±0.00", "±0.00 to ±0.00", "")


def test_worse_is_worse(make_run):
    [row, _] = differences(run_intervals(read(make_run("first"), make_run("noisy", noise=2.0))))
    assert row.cells[0].tone == "worse"


def test_a_run_without_counts_or_of_other_images_has_no_interval(make_run):
    first, old, few = make_run("first", noise=2.0), make_run("old"), make_run("few", images=6)
    (old.path / "image_counts.safetensors").unlink()
    second = make_run("second")
    [row, _] = differences(run_intervals(read(first, old, few, second)))
    assert [cell.text == DASH for cell in row.cells] == [True, True, False]
    assert differences(run_intervals(read(first, old))) == []
    assert differences(run_intervals(read(old, first))) == []
    assert differences(run_intervals(read(first))) == []


def test_counts_of_another_evaluation_are_not_used(make_run):
    run = make_run("killed")
    folder = RunFolder(run.path)
    assert folder.image_counts.keys() == run.summary["images"].keys()
    metrics = folder.metrics
    folder.write_evaluation(metrics["best"] | {"step": 35}, best=True)  # whose counts were not written
    assert folder.image_counts == {}


def test_counts_that_do_not_fit_the_classes_are_damage(make_run):
    run = make_run("damaged")
    folder = RunFolder(run.path)
    best = folder.best
    best["iou"].pop("never")
    folder.write_evaluation(best, best=True)
    with pytest.raises(
        ValueError, match=r"image_counts\.safetensors is damaged: counts of shape \(8, 3, 5\)"
    ):
        _ = folder.image_counts


def test_runs_that_differ_in_their_seed_alone_have_a_mean_and_a_deviation(make_run):
    runs = [make_run(f"seed{seed}", seed=seed, noise=1 + seed / 4) for seed in range(3)]
    other = make_run("other", seed=7, teacher=False)
    scores = [100 * run.summary["miou"] for run in runs]
    [line] = over_seeds(read(*runs, other))
    assert line == (
        "seed0, seed1, seed2 differ in their seed alone (0, 1, 2): mean IoU "
        f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}\u00a0% "
        "(mean and standard deviation over 3 seeds)."
    )
    assert np.std(scores, ddof=1) > 0.1


def test_the_same_seed_twice_or_other_images_are_no_seeds(make_run):
    first, again = make_run("first"), make_run("again")
    assert over_seeds(read(first, again)) == []
    assert over_seeds(read(first)) == []
    assert over_seeds(read(first, make_run("few", seed=1, images=6))) == []


def test_each_class_has_an_interval_of_its_difference(make_run):
    records = read(make_run("first", noise=2.0), make_run("second"))
    first, second = run_intervals(records)
    assert first.classes == {}
    assert list(second.classes) == list(records[0].class_names)
    for name in ("background", "$cat$"):
        found = second.classes[name]
        expected = records[1].best["iou"][name] - records[0].best["iou"][name]
        assert found.value == pytest.approx(expected)
        assert found.low < found.value < found.high
        assert second.resolved_class(name) == (found.low > 0)
    assert second.classes["never"].value is None
    assert not second.resolved_class("never")
    assert not first.resolved("miou")
    assert second.resolved("miou")
    assert second.alone["miou"].value == pytest.approx(records[1].scores["miou"])


def test_trainings_with_the_same_seeds_are_compared_over_them(make_run):
    alone = [make_run(f"alone-{seed}", seed=seed, noise=2 + seed / 4, teacher=False) for seed in range(3)]
    taught = [make_run(f"taught-{seed}", seed=seed, noise=1 + seed / 4) for seed in range(3)]
    runs = read(*alone, *taught)
    first, other = seed_groups(runs)
    assert trainings(runs) == [first, other]
    assert (first.title, other.name) == ("alone (seeds 0, 1, 2)", "taught")
    each = [
        after.summary["miou"] - before.summary["miou"] for before, after in zip(alone, taught, strict=True)
    ]
    assert gains(first, other) == pytest.approx(each)
    [result] = results(runs, run_intervals(runs))
    assert result.number == f"+{100 * np.mean(each):.1f} ± {100 * np.std(each, ddof=1):.1f} points"
    assert "Mean IoU of taught against alone, mean and standard deviation over 3 seeds" in result.sentence
    assert result.tone == "better"
    assert [len(group.runs) for group in trainings(read(*alone, taught[0]))] == [1, 1, 1, 1]
    [result] = results(read(*alone), run_intervals(read(*alone)))
    scores = [100 * run.summary["miou"] for run in alone]
    assert result.number == f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}\u00a0%"
    assert result.tone == ""
    swapped = read(alone[0], taught[0], alone[1], taught[1])
    assert [[run.name for run in group.runs] for group in seed_groups(swapped)] == [
        ["alone-0", "alone-1"],
        ["taught-0", "taught-1"],
    ]
