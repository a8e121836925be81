"""The folder of a search: the one module that knows its file names, their schemas and its locks.

Every record is a file of its own, written once and whole. So what a search does next follows from the files
that are there: after a kill, and for several machines that share the folder.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segdistill.config.naming import setting
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import differences, load, to_yaml
from segdistill.console import log
from segdistill.engine.run_folder import RunFolder
from segdistill.files import read_json, write_atomic
from segdistill.searching.candidates import Candidate

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Trainings that are made before the next choice.

    Attributes:
        number: from 0.
        steps: of each member in all, after this rung; 0 takes the recipe's.
        members: keys of candidates, the best of the rung before first.
        final: the full recipe, from scratch.
    """

    number: int
    steps: int
    members: tuple[str, ...]
    final: bool = False

    @property
    def title(self) -> str:
        """What people call it."""
        return "full recipe" if self.final else f"rung {self.number + 1}"


class SearchFolder:
    """Everything that is known of a search.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.settings_file = self.path / "search.yaml"
        self.recipe_file = self.path / "recipe.yaml"
        self.candidates_file = self.path / "candidates.json"
        self.exports = self.path / "latency"
        self.latency_file = self.path / "latency.json"
        self.plan_file = self.path / "plan.json"
        self.result_file = self.path / "search.json"
        self.report_file = self.path / "report.html"
        self.locks = self.path / "locks"

    def __str__(self) -> str:
        return str(self.path)

    def prepare(self, config: SearchConfig, recipe: TrainConfig) -> None:
        """Make the folder, or check that it is of the same search.

        Raises:
            ValueError: it holds something else, or a search with other settings.
        """
        begun = {self.locks.name, self.recipe_file.name}  # what there is before the settings
        content = list(self.path.iterdir()) if self.path.is_dir() else []
        foreign = any(path.name not in begun and path.suffix != ".tmp" for path in content)
        if self.path.is_file() or (foreign and not self.settings_file.is_file()):
            raise ValueError(f"{self} holds files but no search; name another folder with {setting('out')}")
        with self.exclusively("settings"):
            if self.settings_file.is_file():
                before = load(SearchConfig, self.settings_file)
                changed = differences(_plain(before.fixed), _plain(config.fixed))
                changed += differences(_plain(asdict(self.recipe)), _plain(asdict(recipe)), "recipe.")
                if changed:
                    raise ValueError(
                        f"{self} is the folder of another search: {'; '.join(changed)}; "
                        f"name another with {setting('out')}"
                    )
                return
            write_atomic(self.recipe_file, to_yaml(recipe))
            write_atomic(self.settings_file, to_yaml(config))

    @cached_property
    def config(self) -> SearchConfig:
        """The settings that the search was started with."""
        return load(SearchConfig, self.settings_file)

    @cached_property
    def recipe(self) -> TrainConfig:
        """The full recipe, without a student."""
        return load(TrainConfig, self.recipe_file)

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """All candidates by key, in their order."""
        found = map(Candidate.from_dict, read_json(self.candidates_file)["candidates"])
        return {candidate.key: candidate for candidate in found}

    @property
    def left_out(self) -> list[Record]:
        """`name` and `reason` of what is no candidate."""
        return read_json(self.candidates_file)["left_out"]

    @property
    def latencies(self) -> dict[str, Record]:
        """What was measured of each candidate, and the verdict, by key."""
        return read_json(self.latency_file)["candidates"]

    @property
    def plan(self) -> Record:
        """The `members` of the first rung, its `steps`, and what is not trained, with the reasons."""
        return read_json(self.plan_file)

    def write(self, file: Path, record: Record) -> None:
        """Write a record."""
        write_atomic(file, json.dumps(record, indent=1) + "\n")

    # Rungs and their results

    def rungs(self) -> list[Rung]:
        """The rungs that were begun, in order."""
        files = sorted((self.path / "rungs").glob("*.json"))
        return [Rung(**record | {"members": tuple(record["members"])}) for record in map(read_json, files)]

    def begin_rung(self, rung: Rung) -> None:
        """Write down who is trained for how long."""
        self.write(self.path / "rungs" / f"{rung.number:02}.json", asdict(rung))

    def run(self, rung: Rung, key: str) -> RunFolder:
        """The run folder of a candidate: of all rungs the same one, of the full recipe another."""
        return RunFolder(self.path / ("finals" if rung.final else "runs") / key)

    def result(self, rung: Rung, key: str) -> Record | None:
        """The `miou`, or why it `failed`, and the `seconds` of a candidate in a rung; None before its end."""
        file = self._result_file(rung, key)
        return read_json(file) if file.is_file() else None

    def results(self, rung: Rung) -> dict[str, Record]:
        """The results that there are, by key."""
        found = {key: self.result(rung, key) for key in rung.members}
        return {key: result for key, result in found.items() if result is not None}

    def write_result(self, rung: Rung, key: str, result: Record) -> None:
        """Write what a training has ended with."""
        self.write(self._result_file(rung, key), result)

    def _result_file(self, rung: Rung, key: str) -> Path:
        return self.path / "results" / f"{key}.{rung.number:02}.json"

    # Locks and time

    @contextmanager
    def exclusively(self, what: str) -> Iterator[None]:
        """Wait until no other process of the search does the same."""
        self.locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.locks / f"{what}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log(f"Another process of this search is at: {what}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether this process, and no other one, may train a candidate now."""
        self.locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.locks / f"train-{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def note_claim(self, key: str) -> None:
        """Write down what this process trains, for the one that started it."""
        self.write(self._claim_file(os.getpid()), {"key": key})

    def claimed_by(self, process: int) -> str | None:
        """What a process trained last."""
        file = self._claim_file(process)
        return read_json(file)["key"] if file.is_file() else None

    def forget_claim(self) -> None:
        """Delete what an earlier process with this one's number has noted."""
        self._claim_file(os.getpid()).unlink(missing_ok=True)

    def _claim_file(self, process: int) -> Path:
        return self.path / "claims" / f"{socket.gethostname()}-{process}.json"

    def spent(self) -> dict[str, float]:
        """Seconds of all sessions together, by what they were spent on."""
        total: dict[str, float] = {}
        for file in (self.path / "sessions").glob("*.json"):
            for stage, seconds in read_json(file).items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total


def is_full(error: Exception) -> bool:
    """Whether an error says that nothing can be written any more, and so is no candidate's."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Session:
    """One process's time for a search, written down as it passes.

    Args:
        folder: of the search.
    """

    def __init__(self, folder: SearchFolder) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.json"
        self.folder, self.file = folder, folder.path / "sessions" / name
        self.seconds: dict[str, float] = {}
        self.stage, self.since = "", time.monotonic()

    def enter(self, stage: str) -> None:
        """From now on time counts for this stage."""
        self.tick()
        self.stage = stage

    def tick(self) -> None:
        """Write down the time up to now."""
        now = time.monotonic()
        if self.stage:
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
            self.folder.write(self.file, self.seconds)
        self.since = now


def _plain(settings: Record) -> Record:
    return json.loads(json.dumps(settings))
