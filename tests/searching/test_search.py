"""A search as a whole: its rungs, its resumption after kills, sharing, another machine, its end."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from forked_search import Settings, count_files, outcome, search_up_to_its_end, start

from segdistill import api, cli
from segdistill.config.search import SearchConfig
from segdistill.config.yaml import to_yaml
from segdistill.data.datasets import open_split, open_training, open_validation
from segdistill.data.formats.table import open_layout
from segdistill.engine.checkpoint import Checkpoints
from segdistill.models.card import read_card
from segdistill.profiling.device import read_latencies
from segdistill.searching import search as module
from segdistill.searching import worker
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.halving import first_rung, next_rung, ranking
from segdistill.searching.planning import make_plan
from segdistill.searching.recipes import read_recipe
from segdistill.searching.search import find_candidates, measure_candidates, search
from segdistill.searching.worker import member_config, work

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def straight(measured: Path, tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> SearchFolder:
    """A search whose trainings nothing interrupted."""
    folder = SearchFolder(shutil.copytree(measured, tmp_path_factory.mktemp("straight") / "search"))
    make_plan(folder, Session(folder), settings(folder.path))
    process = start(folder, settings)
    process.join()
    assert process.exitcode == 0
    return folder


def test_rungs_halve_and_double(straight: SearchFolder) -> None:
    assert [(len(rung.members), rung.steps, rung.final) for rung in straight.rungs()] == [
        (5, 8, False),
        (3, 16, False),
        (2, 0, True),
    ]
    first, second, final = straight.rungs()
    assert second.members == tuple(ranking(straight.results(first))[:3])
    assert final.members == tuple(ranking(straight.results(second))[:2])
    for key in second.members:
        run = straight.run(second, key)
        steps, evaluations = run.history()
        assert [record["step"] for record in steps] == [*range(1, 17)]
        assert [record["step"] for record in evaluations] == [8, 16]
        assert run.config.steps == 16
    assert straight.run(final, final.members[0]).config.optim.schedule == "cosine"


def test_a_rung_goes_on_where_the_one_before_ended(planned: SearchFolder, tmp_path: Path) -> None:
    key = planned.plan["members"][0]
    one, two = Rung(number=0, steps=2, members=(key,)), Rung(number=1, steps=4, members=(key,))
    for rung in (one, two):
        planned.begin_rung(rung)
        work(planned, rung)
    whole = api.train(member_config(planned, two, key), out=str(tmp_path / "whole"), report=False)
    ours = Checkpoints(planned.run(two, key).path / "checkpoints").load()
    theirs = Checkpoints(Path(whole) / "checkpoints").load()
    assert ours is not None
    assert theirs is not None
    assert ours[0] == theirs[0] == 4
    assert all(ours[1]["student"][k].equal(v) for k, v in theirs[1]["student"].items())


def test_no_choice_is_made_on_the_validation_images(planned: SearchFolder) -> None:
    rung = first_rung(planned.plan["members"], 2)
    planned.begin_rung(rung)
    held_out = set()
    for key in rung.members:
        config = member_config(planned, rung, key)
        chosen_on = {*open_validation(config.data).ids}
        held_out.add(frozenset(chosen_on))
        assert not chosen_on & {sample.id for sample in open_training(config.data)}
        assert chosen_on < {*open_split(open_layout(config.data.root), "train").ids}
    assert len(held_out) == 1


def test_a_candidate_that_fails_is_recorded_and_the_search_goes_on(
    planned: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = planned.plan["members"][:2]
    train = api.train

    def fail(config: Any, **options: Any) -> Any:
        if bad in config.out:
            raise ValueError("step 1: the hard loss is nan\nand more")
        return train(config, **options)

    monkeypatch.setattr(worker.api, "train", fail)
    rung = Rung(number=0, steps=2, members=(bad, good))
    planned.begin_rung(rung)
    work(planned, rung)
    results = planned.results(rung)
    assert results[bad]["failed"] == "step 1: the hard loss is nan"
    assert 0 <= results[good]["miou"] <= 1
    following = next_rung(rung, results)
    assert following is not None
    assert following.members == (good,)


def test_what_is_claimed_or_done_is_not_trained(
    planned: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = first_rung(planned.plan["members"], 2)
    claimed, done, *free = rung.members
    planned.begin_rung(rung)
    planned.write_result(rung, done, {"miou": 0.5, "seconds": 1.0})
    trained: list[str] = []
    monkeypatch.setattr(worker, "train_member", lambda folder, rung, key: trained.append(key))
    with planned.claim(claimed) as mine:
        assert mine
        work(SearchFolder(planned.path), rung)
    assert trained == free


def test_two_processes_share_a_search(
    planned: SearchFolder, straight: SearchFolder, settings: Settings
) -> None:
    both = [start(planned, settings), start(planned, settings)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert outcome(planned) == outcome(straight)
    logs = "".join(file.read_text() for file in (planned.path / "logs").iterdir())
    for rung in planned.rungs():
        for key in rung.members:
            folder = planned.path / ("finals" if rung.final else "runs") / key
            times = sum(key in each.members and each.final == rung.final for each in planned.rungs())
            assert logs.count(f"the run folder is {folder}\n") == times


def test_workers_that_do_nothing_are_no_endless_loop(
    planned: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: SearchFolder, rung: Rung) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE)

    monkeypatch.setattr(module, "start_worker", broken)
    rung = first_rung(planned.plan["members"], 8)
    planned.begin_rung(rung)
    with pytest.raises(ValueError, match=r"ended with 3 before it trained anything"):
        module.train_members(planned, rung, Session(planned), 1)


FORK = """
import multiprocessing, time
from segdistill.searching.worker import stop_with_parent
stop_with_parent()
time.sleep(0.5)
child = multiprocessing.get_context("fork").Process(target=int)
child.start()
child.join(60)
print(child.exitcode, flush=True)
time.sleep(600)
"""


def test_a_worker_forks_loaders_and_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait() == -signal.SIGTERM


def test_a_search_that_is_killed_at_five_moments_has_the_same_outcome(
    straight: SearchFolder, settings: Settings, tmp_path: Path
) -> None:
    folder = SearchFolder(tmp_path / "search")
    draw = random.Random(0)
    goals = sorted(draw.sample(range(1, count_files(straight)), 5))  # from the first file to the last
    for number, goal in enumerate([*goals, None]):
        process = get_context("fork").Process(target=search_up_to_its_end, args=(settings(folder.path),))
        process.start()
        while goal is not None and process.is_alive() and count_files(folder) < goal:
            time.sleep(0.01)
        if goal is not None:
            with contextlib.suppress(ProcessLookupError):  # it has no group of its own, yet or any more
                if number % 2:
                    os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            process.kill()
        process.join()
    assert process.exitcode == 0
    assert outcome(folder) == outcome(straight)


def test_candidates_are_measured_on_another_machine(
    measured: Path, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "device"
    elsewhere.mkdir()
    for file in (measured / "latency").iterdir():
        if file.suffix == ".onnx" or file.name.endswith(".record.json"):
            shutil.copy(file, elsewhere)
    config = settings(tmp_path / "search", latency_on=str(elsewhere))
    result = search(config)
    assert result == {"out": config.out, "waiting_for": str(elsewhere / "measured.json")}
    assert "python measure.py" in " ".join(capsys.readouterr().err.split())
    moved = Path(shutil.copytree(elsewhere, tmp_path / "there"))
    subprocess.run([sys.executable, "-I", str(moved / "measure.py")], check=True)
    shutil.copy(moved / "measured.json", elsewhere)
    folder = SearchFolder(config.out)
    assert measure_candidates(folder, Session(folder), str(elsewhere))
    assert {record["verdict"] for record in folder.latencies.values()} == {"within"}
    assert all(r["low_ms"] <= r["median_ms"] <= r["high_ms"] for r in folder.latencies.values())


def test_the_budget_is_a_multiple_of_what_the_teacher_takes(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "search", latency="100x")
    folder = SearchFolder(config.out)
    folder.prepare(config, read_recipe(config))
    find_candidates(folder, Session(folder))
    assert measure_candidates(folder, Session(folder), None)
    budget = json.loads(folder.latency_file.read_text())["budget"]
    assert budget["text"] in " ".join(capsys.readouterr().err.split())
    jobs = json.loads((folder.exports / "jobs.json").read_text())
    assert (jobs["networks"][0]["name"], jobs["most_times"]) == ("baseline-32", 100.0)
    measured = read_latencies(folder.exports)
    assert measured is not None
    assert budget["milliseconds"] == pytest.approx(100 * measured["baseline-32"].median_ms)
    assert measured.keys() == {"baseline-32"} | folder.latencies.keys()


def test_the_end_is_a_student_its_file_its_certificate_and_a_page(
    straight: SearchFolder, settings: Settings
) -> None:
    config = settings(straight.path)
    result = search(config)
    final = straight.rungs()[-1]
    assert result["student"] == str(straight.run(final, result["candidate"]))
    assert Path(result["file"]).is_file()
    assert Path(result["certificate"]).is_file()
    record = json.loads(straight.result_file.read_text())
    assert record["sizes"].keys() == {*final.members}
    best = {}
    for key, scores in record["sizes"].items():
        assert scores.keys() == straight.candidates.keys()  # one network in five sizes
        assert [*scores.values()] == sorted(scores.values(), reverse=True)
        assert scores[key] == pytest.approx(straight.results(final)[key]["miou"])
        best[key] = next(iter(scores.values()))
        used = straight.candidates[next(iter(scores))]
        assert read_card(straight.run(final, key).path).evaluate_size == used.size
    assert best[result["candidate"]] == max(best.values())
    assert result["size"] == read_card(Path(result["student"])).evaluate_size
    assert record["validation"].keys() == {*final.members}
    assert record["correlations"][0] is not None
    assert set(record["spent"]) >= {"rung 1", "rung 2", "full recipe", "export and scores"}
    page = straight.report_file.read_text()
    for candidate in record["candidates"]:
        assert candidate["key"] in page
    for command in record["commands"].values():
        assert Path(command.split()[-1]).is_file()
    before = straight.result_file.stat().st_mtime_ns
    assert search(config) == result
    assert straight.result_file.stat().st_mtime_ns == before


def arguments(config: SearchConfig, *more: str) -> list[str]:
    file = Path(config.out).with_suffix(".yaml")
    file.write_text(to_yaml(config))
    return ["search", "--config", str(file), *more]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--latency", ""], 1, "name the budget with --latency"),
        (["--latency", "10"], 1, "latency is '10', but must be a number above 0 with a unit"),
        (["--latency", "0x"], 1, "latency is '0x', but must be a number above 0"),
        (["--baseline", "fcn_resnet50"], 1, "must be a multiple of the baseline's, such as 0.5x"),
        (["--latency", "1x", "--baseline", "fcn_resnet5"], 1, "did you mean fcn_resnet50"),
        (["--memory", "8"], 1, "memory is '8', but must be"),
        (["--precision", "bf16"], 1, "precision is 'bf16', but must be fp32 or int8 for onnx"),
        (["--recipe", "absent.yaml"], 1, "absent.yaml does not exist"),
        (["--candidates", "absent.yaml"], 1, "absent.yaml does not exist"),
        (["--runtime", "tensorrt"], 2, "runtime"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], more: list[str], code: int,
    message: str,
) -> None:  # fmt: skip
    assert cli.main(arguments(settings(tmp_path / "search"), *more)) == code
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "search").exists()


def test_a_folder_of_another_search_is_refused(
    measured: Path, settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(measured, tmp_path / "search")
    assert cli.main(arguments(settings(tmp_path / "search"), "--latency", "5s")) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is the folder of another search: latency 10s -> 5s" in line
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    assert cli.main(arguments(settings(other))) == 1
    assert "holds files but no search" in capsys.readouterr().err


def test_a_missing_runtime_is_named(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(arguments(settings(tmp_path / "search"))) == 1
    assert "onnx needs onnxruntime: install segdistill[onnx]" in capsys.readouterr().err


def test_a_budget_that_nothing_meets_names_the_fastest_before_any_training(
    measured: Path, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "search", latency="0.001us")
    folder = SearchFolder(config.out)
    folder.prepare(config, read_recipe(config))
    find_candidates(folder, Session(folder))
    shutil.copytree(measured / "latency", folder.exports)
    assert cli.main(arguments(config)) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no candidate meets the budget (latency 0.001us): the fastest is dsunet-w0.1-s4-" in line
    assert not (folder.path / "runs").exists()
