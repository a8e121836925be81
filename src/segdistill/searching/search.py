"""The verb `search`: from a budget of latency to the student within it that is best."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segdistill import api
from segdistill.config.keywords import with_keywords
from segdistill.config.naming import setting
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import to_yaml
from segdistill.console import log, progress
from segdistill.data.datasets import open_validation
from segdistill.data.formats.table import open_layout
from segdistill.engine.runtime import find_device, stop_signal
from segdistill.files import usable_cores, write_atomic
from segdistill.profiling.device import copy_there, machine_of, read_latencies
from segdistill.searching import halving, latency
from segdistill.searching.candidates import list_candidates
from segdistill.searching.conclusion import conclude
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.recipes import full_recipe, read_recipe
from segdistill.searching.worker import trust_candidates

POLL = 0.5
"""Seconds between two looks at the processes that train."""

MOST_DEATHS = 2
"""Times that the process of a candidate may die before the candidate counts as failed."""

DEFAULT_STEPS = 5000
"""Steps of the full recipe that the rungs are planned for where it counts in epochs."""

Record = dict[str, Any]


def search(config: SearchConfig | None = None, **settings: Any) -> Record:
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
        open_validation(recipe.data)  # which the student is scored on at the end
        folder.prepare(config, recipe)
        session = Session(folder)
        find_candidates(folder, session)
        trust_candidates(folder)
        if not measure_candidates(folder, session, config.latency_on):
            return {"out": str(folder), "waiting_for": str(Path(config.latency_on or "") / "measured.json")}
        make_plan(folder, session, config)
        train_rungs(folder, session, config)
        with folder.exclusively("conclusion"):
            session.enter("export and scores")
            return conclude(folder, session)


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
        place = Path(elsewhere) if elsewhere else folder.exports
        place.mkdir(parents=True, exist_ok=True)
        labels = open_layout(recipe.data.root, recipe.data.layout).labels
        session.enter("export of candidates")
        with progress() as bar:
            task = bar.add_task("export", total=len({c.network for c in candidates.values()}), numbers="")

            def advance() -> None:
                bar.advance(task)
                session.tick()

            exported = latency.export_candidates(candidates, labels, recipe, config, place, advance)
        latency.write_measurement(candidates, exported, config, place)
        session.enter("latency")
        if not elsewhere:
            _run_script(place)
        measured = read_latencies(place)
        if measured is None and elsewhere:
            log(copy_there(place))
            return False
        if measured is None:
            raise ValueError(f"{place / 'measure.py'} has not measured everything: see its messages above")
        found = latency.judge(candidates, exported, measured, config)
        latency.require_some(found, config)
        folder.write(folder.latency_file, {"machine": machine_of(place), "candidates": found})
        return True


def _run_script(place: Path) -> None:
    """Measure in a process of its own, which takes nothing of this one's memory."""
    done = subprocess.run([sys.executable, str(place / "measure.py")], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise ValueError(f"{place / 'measure.py'} ended with {done.returncode}")


def make_plan(folder: SearchFolder, session: Session, config: SearchConfig) -> None:
    """Choose who is trained, and for how long in the first rung; write down the full recipe of each."""
    with folder.exclusively("plan"):
        if folder.plan_file.is_file():
            return
        session.enter("plan")
        settings, recipe = folder.config, folder.recipe
        members, rest = latency.choose_members(folder.candidates, folder.latencies, settings.most)
        left_out = [
            {"name": key, "reason": f"not among the {settings.most} that are trained"} for key in rest
        ]
        steps, seconds = settings.steps, _estimate_steps(folder, members, config)
        if not steps and seconds:
            count, steps = halving.affordable_steps(
                [seconds[key] for key in members],
                halving.HALVING_FRACTION * seconds_left(folder, config),
                settings.rungs,
                count_jobs(config),
                _estimate_scoring(folder, seconds),
            )
            left_out += [{"name": key, "reason": "no time left for it"} for key in members[count:]]
            members = members[:count]
        elif not steps:
            final = settings.final_steps or recipe.steps or DEFAULT_STEPS
            steps = max(1, final // 2 ** (halving.count_rungs(len(members), settings.rungs) + 1))
        for key in members:
            full = full_recipe(recipe, folder.candidates[key], settings, settings.final_steps)
            full = replace(full, out=f"{folder}-{key}")
            write_atomic(folder.path / "recipes" / f"{key}.yaml", to_yaml(full))
        folder.write(
            folder.plan_file,
            {"members": members, "steps": steps, "left_out": left_out, "step_seconds": seconds},
        )


def _estimate_steps(folder: SearchFolder, members: Sequence[str], config: SearchConfig) -> dict[str, float]:
    """Estimated seconds of a training step of each candidate, where `hours` decides about steps."""
    settings, recipe = folder.config, folder.recipe
    if config.hours is None or (settings.steps and settings.final_steps):
        return {}
    classes = len(open_layout(recipe.data.root, recipe.data.layout).labels)
    return {
        key: latency.step_seconds(full_recipe(recipe, folder.candidates[key], settings, 0), classes)
        for key in members
    }


def _estimate_scoring(folder: SearchFolder, step_seconds: Mapping[str, float]) -> list[float]:
    """Estimated seconds of what a training in a rung takes beside its steps."""
    full = {key: full_recipe(folder.recipe, folder.candidates[key], folder.config, 0) for key in step_seconds}
    images = len(open_validation(next(iter(full.values())).data))
    return [latency.scoring_seconds(full[key], step, images) for key, step in step_seconds.items()]


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


def open_rung(folder: SearchFolder, config: SearchConfig) -> Rung | None:
    """The rung that is to be trained, begun where the one before has ended; None at the end."""
    rungs, plan, settings = folder.rungs(), folder.plan, folder.config
    if not rungs:
        following = halving.first_rung(plan["members"], plan["steps"])
    else:
        results = folder.results(rungs[-1])
        if len(results) < len(rungs[-1].members):
            return rungs[-1]
        if not halving.ranking(results):
            reason = next(iter(results.values()))["failed"]
            raise ValueError(f"every candidate of rung {len(rungs)} failed; the first: {reason}")
        found = halving.next_rung(
            rungs[-1], results, last=bool(settings.rungs and len(rungs) >= settings.rungs)
        )
        if found is not None and not found.final and not _time_for(folder, config, found):
            found = halving.next_rung(rungs[-1], results, last=True)
        if found is None:
            return None
        following = found
    if following.final:
        following = replace(following, steps=final_steps(folder, config, following))
    folder.begin_rung(following)
    return following


def final_steps(folder: SearchFolder, config: SearchConfig, rung: Rung) -> int:
    """Steps of the full recipe: what the settings ask for, else what time is left for, else the recipe's."""
    if folder.config.final_steps or config.hours is None:
        return folder.config.final_steps
    seconds = step_seconds(folder)
    # Of the slower of both, as both are trained at once where there are processes for that.
    each = max((seconds[key] for key in rung.members if key in seconds), default=0.0)
    if not each:
        return 0
    rounds = -(-len(rung.members) // count_jobs(config))
    steps = int(seconds_left(folder, config) / (each * rounds))
    return max(1, min(steps, folder.recipe.steps or steps))


def _time_for(folder: SearchFolder, config: SearchConfig, rung: Rung) -> bool:
    """Whether another rung leaves enough time for the full recipe."""
    if config.hours is None:
        return True
    seconds = step_seconds(folder)
    added = rung.steps - folder.rungs()[-1].steps
    wanted = added * sum(seconds[key] for key in rung.members) / min(count_jobs(config), len(rung.members))
    return seconds_left(folder, config) - wanted >= halving.FINAL_FRACTION * 3600 * config.hours


def step_seconds(folder: SearchFolder) -> dict[str, float]:
    """Seconds of a step of each candidate that is still there: as its last rung took, else as estimated.

    What a training takes beside its steps is shared out among them.
    """
    before, estimated = folder.rungs(), folder.plan["step_seconds"]
    if not before:
        return estimated
    results = folder.results(before[-1])
    return {  # an interrupted training counts its last session alone, hence the estimate
        key: max(result["seconds"] / _steps_made(before, key), estimated.get(key, 0.0))
        for key, result in results.items()
    }


def _steps_made(rungs: Sequence[Rung], key: str) -> int:
    """Steps of a candidate in the last of some rungs alone."""
    own = [rung.steps for rung in rungs if key in rung.members]
    return own[-1] - (own[-2] if len(own) > 1 else 0)


def seconds_left(folder: SearchFolder, config: SearchConfig) -> float:
    """Seconds of `hours` that are not spent; 1 at least."""
    assert config.hours is not None
    return max(1.0, 3600 * config.hours - sum(folder.spent().values()))


def count_jobs(config: SearchConfig) -> int:
    """Candidates that are trained at a time."""
    if find_device(config.device).type != "cpu":
        return 1
    return config.jobs or usable_cores()


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
        task = bar.add_task(rung.title, total=len(rung.members), numbers="")
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
