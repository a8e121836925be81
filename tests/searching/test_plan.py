"""How a time becomes candidates and steps, and when the rungs end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill.config.search import SearchConfig
from segdistill.config.train import DataConfig, TeacherConfig, TrainConfig
from segdistill.searching import latency
from segdistill.searching.folder import SearchFolder, Session
from segdistill.searching.halving import count_rungs, first_rung, total_steps
from segdistill.searching.planning import final_steps, make_plan, open_rung
from segdistill.searching.recipes import full_recipe, read_recipe, rung_recipe
from segdistill.searching.search import find_candidates

pytestmark = pytest.mark.unit


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> SearchConfig:
    return SearchConfig(
        data=DataConfig(root=str(shapes)), latency="10ms", size=64, sizes=[1.0], families=["dsunet"], jobs=2,
        choose_share=0.3, device="cpu", out=str(tmp_path / "search"),
    )  # fmt: skip


def measured(config: SearchConfig) -> SearchFolder:
    """A folder in which all twelve candidates are within the budget, each slower than the one before."""
    folder = SearchFolder(config.out)
    folder.prepare(config, read_recipe(config))
    find_candidates(folder, Session(folder))
    records = {
        key: {"median_ms": 1.0 + number, "verdict": "within"} for number, key in enumerate(folder.candidates)
    }
    folder.write(folder.latency_file, {"machine": "m", "candidates": records})
    return folder


def test_a_short_time_leaves_candidates_out(config: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "step_seconds", lambda config, classes: 1.0)
    monkeypatch.setattr(latency, "START_SECONDS", 10.0)
    config = replace(config, hours=0.25)
    folder = measured(config)
    make_plan(folder, Session(folder), config)
    plan = folder.plan
    assert 2 < len(plan["members"]) < 12
    assert plan["steps"] >= 50
    assert plan["members"] == [*reversed(folder.candidates)][: len(plan["members"])]
    assert {entry["reason"] for entry in plan["left_out"]} == {"no time left for it"}
    assert len(plan["left_out"]) + len(plan["members"]) == 12
    count = len(plan["members"])  # each training takes 10 s beside its steps of a second
    assert total_steps(count, count_rungs(count), plan["steps"] + 10, jobs=2) <= 0.5 * 900


def test_what_cannot_make_a_step_is_left_out(config: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(training: TrainConfig, classes: int) -> float:
        if training.student.stride in strides:
            raise RuntimeError("no gradient\nand a page of more")
        return 1.0

    strides = [4]
    monkeypatch.setattr(latency, "step_seconds", estimate)
    config = replace(config, hours=10.0)
    folder = measured(config)
    make_plan(folder, Session(folder), config)
    assert len(folder.plan["members"]) == 8
    assert {entry["reason"] for entry in folder.plan["left_out"]} == {"cannot be trained: no gradient"}
    strides = [1, 2, 4]
    with pytest.raises(ValueError, match="none of the candidates within the budget can be trained; dsunet-"):
        make_plan(measured(replace(config, out=f"{config.out}-2")), Session(folder), config)


def test_without_a_time_steps_follow_from_the_recipe(config: SearchConfig) -> None:
    folder = measured(replace(config, most=8, final_steps=800))
    make_plan(folder, Session(folder), folder.config)
    assert (len(folder.plan["members"]), folder.plan["steps"]) == (8, 800 // 8)
    assert {entry["reason"] for entry in folder.plan["left_out"]} == {"not among the 8 that are trained"}


def test_time_that_is_spent_ends_the_rungs_and_sets_the_steps_of_the_full_recipe(
    config: SearchConfig,
) -> None:
    config = replace(config, hours=1.0, steps=100)
    folder = measured(config)
    keys = [*folder.candidates]
    folder.write(folder.plan_file, {"members": keys, "steps": 100, "left_out": [], "step_seconds": {}})
    rung = open_rung(folder, config)
    assert rung == first_rung(keys, 100)
    for number, key in enumerate(keys):
        folder.write_result(rung, key, {"miou": number / 20, "seconds": 100.0 + 100 * (number % 2)})
    assert open_rung(folder, config) is not None
    assert len(folder.rungs()[1].members) == 6
    folder = SearchFolder(folder.path)
    (folder.path / "rungs" / "01.json").unlink()
    # The next rung would take 6 * 100 steps of 1.5 s, on two processes 450 s; 1080 s are for the full recipe.
    folder.write(folder.path / "sessions" / "a.json", {"rung 1": 3600.0 - 1080 - 440})
    late = open_rung(folder, config)
    assert late is not None
    assert (late.final, late.members) == (True, (keys[11], keys[10]))
    assert late.steps == int(1520.0 / 2.0)  # of the slower of both, which are trained side by side
    (folder.path / "rungs" / "01.json").unlink()
    assert final_steps(folder, replace(config, jobs=1), late) == int(1520.0 / 4.0)
    folder.write(folder.path / "sessions" / "a.json", {"rung 1": 3600.0 - 1080 - 460})
    early = open_rung(folder, config)
    assert early is not None
    assert not early.final


def test_two_members_have_their_steps_from_the_estimate(config: SearchConfig) -> None:
    config = replace(config, hours=1.0)
    folder = measured(config)
    keys = [*folder.candidates][:2]
    seconds = {keys[0]: 2.0, keys[1]: 4.0}
    folder.write(folder.plan_file, {"members": keys, "steps": 50, "left_out": [], "step_seconds": seconds})
    rung = open_rung(folder, config)
    assert rung is not None
    assert (rung.final, rung.steps) == (True, 900)


def test_crops_and_objects_shrink_with_the_input_and_a_rung_is_open_ended(config: SearchConfig) -> None:
    recipe = read_recipe(config)
    folder = measured(replace(config, sizes=[0.5, 1.0]))
    half, whole = (
        full_recipe(recipe, folder.candidates[f"dsunet-w0.5-s1-{size}"], config, 0) for size in (32, 64)
    )
    assert (half.size, half.evaluate_size, whole.evaluate_size) == (32, 32, 64)
    assert (half.optim.lr, config.lr.scratch) == (2e-3, 2e-3)
    own = replace(folder.candidates["dsunet-w0.5-s1-32"], lr=None)
    assert full_recipe(recipe, own, config, 0).optim.lr == recipe.optim.lr == 1e-3
    assert half.augment.scale == pytest.approx([scale / 2 for scale in whole.augment.scale])
    once = replace(recipe, steps=90, evaluate_every=90)  # at the end, also where fewer steps fit
    assert full_recipe(once, folder.candidates["dsunet-w0.5-s1-64"], config, 20).evaluate_every == 20
    changing = replace(whole, objective=replace(whole.objective, alpha=(1.0, 0.5)), progressive=[(0.5, 32)])
    rung = rung_recipe(changing, 40, 20)
    assert not whole.open_ended
    assert rung.open_ended
    assert (rung.objective.alpha, rung.progressive, rung.optim.warmup) == (0.75, [], 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig()}, "name the data set with data.root"),
        ({"data": DataConfig(root="x", val_share=0.2)}, "data.val_share is 0.2, but a search holds"),
        ({"recipe": "absent.yaml"}, "absent.yaml does not exist"),
        ({"teacher": TeacherConfig(flip=True)}, "settings of the teacher need teacher.spec beside them"),
    ],
)
def test_recipes_that_cannot_be_searched_with(config: SearchConfig, changes: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_recipe(replace(config, **changes))
    assert message in str(error.value)


def test_settings_of_data_without_a_root_are_refused(config: SearchConfig, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {root: mydata}\n")
    with pytest.raises(ValueError, match=r"settings of data need data\.root beside them"):
        read_recipe(replace(config, recipe=str(recipe), data=DataConfig(long_side=64)))
