"""The verb `search`: from a budget of latency to the student within it that is best."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segdistill import api
from segdistill.config.keywords import with_keywords
from segdistill.config.naming import setting
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.console import log, progress
from segdistill.data.datasets import open_validation
from segdistill.data.formats.table import open_layout
from segdistill.engine.runtime import find_device, stop_signal
from segdistill.models.file_formats import FORMATS
from segdistill.profiling.device import copy_there, machine_of, read_latencies
from segdistill.results import FoundStudent
from segdistill.searching import latency
from segdistill.searching.budget import baseline_candidate, baseline_spec, resolve_budget
from segdistill.searching.candidates import BASELINE, list_candidates
from segdistill.searching.conclusion import conclude
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.planning import count_jobs, make_plan, open_rung
from segdistill.searching.recipes import full_recipe, read_recipe
from segdistill.searching.worker import trust_candidates

POLL = 0.5
"""Seconds between two looks at the processes that train."""

MOST_DEATHS = 2
"""Times that the process of a candidate may die before the candidate counts as failed."""

Record = dict[str, Any]


def search(config: SearchConfig | None = None, **settings: Any) -> FoundStudent:
    """Look for the best student within a budget, train it and export it.

    Started again with the same settings it goes on where it was, also after a kill; several processes, on
    several machines, may share the folder.

    Args:
        config: budget, data, teacher, time. Settings by name (`latency="10ms"`) win over it.

    Returns:
        `student` (a run folder), `file`, its scores and latency, and the `report`; or, where candidates are
        to be measured on another machine, `waiting_for` the file with the results.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: settings do not fit each other, no candidate meets the budget, the runtime is missing, or
            the folder is of another search.
        segdistill.engine.runtime.Stopped: SIGINT or SIGTERM came; the states are saved.
    """
    config = with_keywords(SearchConfig, config, settings)
    if not config.latency:
        raise ValueError(f"name the budget with {setting('latency')}, such as {setting('latency')} 10ms")
    folder = SearchFolder(config.out)
    with stop_signal(obey=True):
        recipe = read_recipe(config)
        baseline_candidate(config, recipe)  # which must be one
        FORMATS[config.runtime].import_runtime()
        open_validation(recipe.data)  # which the student is scored on at the end
        folder.prepare(config, recipe)
        session = Session(folder)
        find_candidates(folder, session)
        trust_candidates(folder)
        if not measure_candidates(folder, session, config.latency_on):
            waiting_for = Path(config.latency_on or "") / "measured.json"
            return FoundStudent(out=str(folder), waiting_for=str(waiting_for))
        make_plan(folder, session, config)
        train_rungs(folder, session, config)
        with folder.exclusively("conclusion"):
            session.enter("export and scores")
            return FoundStudent(conclude(folder, session))


def find_candidates(folder: SearchFolder, session: Session) -> None:
    """Write down what is tried."""
    with folder.exclusively("candidates"):
        if not folder.candidates_file.is_file():
            session.enter("candidates")
            found, left_out = list_candidates(folder.config, folder.recipe)
            folder.write(
                folder.candidates_file,
                {
                    "candidates": [candidate.to_dict() for candidate in found],
                    "left_out": [asdict(entry) for entry in left_out],
                },
            )
    networks = {candidate.network for candidate in folder.candidates.values()}
    log(f"{len(folder.candidates)} candidates: {len(networks)} networks in several sizes")
    for entry in folder.left_out:
        log(f"Left out: {entry['name']}: {entry['reason']}")


def measure_candidates(folder: SearchFolder, session: Session, elsewhere: str | None) -> bool:
    """Export and measure all candidates, here or in the folder `elsewhere`; False where it waits for that.

    Raises:
        ValueError: nothing is within the budget, or the runtime is missing.
    """
    with folder.exclusively("latency"):
        if folder.latency_file.is_file():
            return True
        config, recipe, candidates = folder.config, folder.recipe, folder.candidates
        measurable = baseline_candidate(config, recipe) | candidates
        place = Path(elsewhere) if elsewhere else folder.exports
        place.mkdir(parents=True, exist_ok=True)
        labels = open_layout(recipe.data.root, recipe.data.layout).labels
        session.enter("export of candidates")
        with progress() as bar:
            task = bar.add_task("export", total=len({c.network for c in measurable.values()}))

            def advance() -> None:
                bar.advance(task)
                session.tick()

            exported = latency.export_candidates(measurable, labels, recipe, config, place, advance)
        if "error" in exported.get(BASELINE, {}):
            raise ValueError(f"the baseline {baseline_spec(config, recipe)} {exported[BASELINE]['error']}")
        latency.write_measurement(measurable, exported, config, place)
        session.enter("latency")
        if not elsewhere:
            _run_script(place)
        measured = read_latencies(place)
        if measured is None and elsewhere:
            log(copy_there(place))
            return False
        if measured is None:
            raise ValueError(f"{place / 'measure.py'} has not measured everything: see its messages above")
        budget = resolve_budget(config, recipe, measured)
        if config.most_times is not None:
            log(f"The budget is {budget.text}")
        found = latency.judge(candidates, exported, measured, config, budget)
        latency.require_some(found, config, budget)
        folder.write(
            folder.latency_file,
            {"machine": machine_of(place), "budget": asdict(budget), "candidates": found},
        )
        return True


def _run_script(place: Path) -> None:
    """Measure in a process of its own, which takes nothing of this one's memory."""
    done = subprocess.run([sys.executable, str(place / "measure.py")], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise ValueError(f"{place / 'measure.py'} ended with {done.returncode}")


def train_rungs(folder: SearchFolder, session: Session, config: SearchConfig) -> None:
    """Train rung after rung until the last two have had the full recipe.

    Raises:
        ValueError: every candidate failed.
    """
    while True:
        with folder.exclusively("rung"):
            rung = open_rung(folder, config)
        if rung is None:
            return
        session.enter(rung.title)
        steps = f", {rung.steps} steps" if rung.steps else ""
        log(f"{rung.title.capitalize()}: {len(rung.members)} candidates{steps}: {', '.join(rung.members)}")
        fill_cache(folder, rung, session)
        train_members(folder, rung, session, count_jobs(config))


def fill_cache(folder: SearchFolder, rung: Rung, session: Session) -> None:
    """Compute the teacher's outputs once, before several processes want to read them."""
    recipe = folder.recipe
    if not recipe.teacher.specs:
        return
    with folder.exclusively("cache"):
        for config in _cached_recipes(folder, rung):
            done = folder.path / "cached" / f"{config.size if config.augment.stretch else 'all'}.json"
            if not done.is_file():
                session.enter("teacher's cache")
                folder.write(done, api.cache(config))
    session.enter(rung.title)


def _cached_recipes(folder: SearchFolder, rung: Rung) -> list[TrainConfig]:
    """Trainings that need a cache of their own: one, but for each crop size where images are stretched."""
    candidates = [folder.candidates[key] for key in rung.members]
    full = [full_recipe(folder.recipe, candidate, folder.config, 0) for candidate in candidates]
    cheap = [replace(config, student=replace(config.student, weights=None, init=None)) for config in full]
    return cheap if folder.recipe.augment.stretch else cheap[:1]


def train_members(folder: SearchFolder, rung: Rung, session: Session, jobs: int) -> None:
    """Train every member of a rung, and show how many are done."""
    with progress() as bar:
        task = bar.add_task(rung.title, total=len(rung.members))
        _train_members(folder, rung, session, jobs, lambda done: bar.update(task, completed=done))


def _train_members(
    folder: SearchFolder, rung: Rung, session: Session, jobs: int, show: Callable[[int], None]
) -> None:
    """Have processes train what nobody else trains, until every member has a result."""
    workers: list[subprocess.Popen[bytes]] = []
    deaths: dict[str, int] = {}
    try:
        shown = -1
        while (done := len(folder.results(rung))) < len(rung.members):
            if done != shown:
                show(done)
                shown = done
            ended = [worker for worker in workers if worker.poll() is not None]
            workers = [worker for worker in workers if worker not in ended]
            _close_pipes(ended)
            if any(worker.returncode not in (0, None) for worker in ended):
                _note_deaths(folder, rung, deaths, ended)
            free = _unclaimed(folder, rung)
            while free and len(workers) < min(jobs, len(rung.members)):
                workers.append(start_worker(folder, rung))
                free = free[1:]
            time.sleep(POLL)
            session.tick()
    finally:
        _close_pipes(workers)  # those that train end, with their state saved
        for worker in workers:
            worker.wait()


def _close_pipes(workers: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Close what workers watch."""
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()


def _unclaimed(folder: SearchFolder, rung: Rung) -> list[str]:
    """Members without a result that no process trains."""
    free = []
    for key in rung.members:
        if folder.result(rung, key) is None:
            with folder.claim(key) as mine:
                if mine:
                    free.append(key)
    return free


def start_worker(folder: SearchFolder, rung: Rung) -> "subprocess.Popen[bytes]":
    """A process that trains candidates, on a CPU with one thread, whose messages go into a file."""
    log_file = folder.path / "logs" / f"rung-{rung.number:02}-{os.getpid()}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    on_cpu = find_device(folder.recipe.device).type == "cpu"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") if on_cpu else {}
    with log_file.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "segdistill.searching.worker", str(folder), str(rung.number)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | threads,
        )


def _note_deaths(
    folder: SearchFolder, rung: Rung, deaths: dict[str, int], ended: Sequence["subprocess.Popen[bytes]"]
) -> None:
    """Count what died with its process; a candidate that has done so twice has failed.

    Raises:
        ValueError: a process failed for a reason that is no candidate's.
    """
    for worker in ended:
        if worker.returncode == 1:
            raise ValueError(f"a process failed: see the newest file of {folder.path / 'logs'}")
    for worker in ended:
        key = folder.claimed_by(worker.pid)
        if worker.returncode and key is None:
            raise ValueError(
                f"a process ended with {worker.returncode} before it trained anything: see the newest file "
                f"of {folder.path / 'logs'}"
            )
        if worker.returncode == 0 or key is None or folder.result(rung, key) is not None:
            continue
        deaths[key] = deaths.get(key, 0) + 1
        if deaths[key] >= MOST_DEATHS:
            folder.write_result(rung, key, {"failed": "its process died twice", "seconds": 0.0})
