"""Searches in forked processes, which tests kill, and what must not depend on kills."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file

from segdistill.config.search import SearchConfig
from segdistill.console import console
from segdistill.searching import search, worker
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.halving import ranking
from segdistill.searching.planning import make_plan
from segdistill.searching.recipes import read_recipe

Settings = Callable[..., SearchConfig]


class ForkedWorker:
    """What `start_worker` starts, without the seconds that a new interpreter takes to import everything."""

    pipes: ClassVar[list[int]] = []

    def __init__(self, folder: SearchFolder, rung: Rung) -> None:
        read, write = os.pipe()
        ForkedWorker.pipes.append(write)
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            self.stdin = os.fdopen(write, "wb")
            return
        code = 3
        try:
            for pipe in ForkedWorker.pipes:
                with contextlib.suppress(OSError):  # closed already
                    os.close(pipe)
            sys.stdin = os.fdopen(read)
            logs = folder.path / "logs"
            logs.mkdir(exist_ok=True)
            with (logs / f"{os.getpid()}.log").open("w") as output:
                console.file = output
                code = worker.run(folder, rung.number)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.05)
        return self.returncode or 0


def train(path: Path, settings: SearchConfig) -> None:
    """The trainings of a search, in a process that was forked."""
    if os.getpgid(0) != os.getpid():
        os.setsid()
    torch.set_num_threads(1)
    search.start_worker = ForkedWorker  # type: ignore[assignment]
    search.train_rungs(SearchFolder(path), Session(SearchFolder(path)), settings)


def start(folder: SearchFolder, settings: Settings) -> BaseProcess:
    process = get_context("fork").Process(target=train, args=(folder.path, settings(folder.path)))
    process.start()
    return process


def count_files(folder: SearchFolder) -> int:
    return sum(1 for _ in folder.path.rglob("*"))


def search_up_to_its_end(config: SearchConfig) -> None:
    """Everything but the conclusion of a search, in a process that was forked."""
    os.setsid()
    folder = SearchFolder(config.out)
    folder.prepare(config, read_recipe(config))
    session = Session(folder)
    search.find_candidates(folder, session)
    search.measure_candidates(folder, session, None)
    make_plan(folder, session, config)
    train(folder.path, config)


def outcome(folder: SearchFolder) -> dict[str, Any]:
    """Everything of the trainings that must not depend on kills."""
    found: dict[str, Any] = {}
    for rung in folder.rungs():
        members = sorted(rung.members)  # those of the first rung are in the order of their latency
        found[f"rung {rung.number}"] = (rung.steps, members, ranking(folder.results(rung)))
        for key in rung.members:
            result = folder.result(rung, key)
            assert result is not None
            weights = load_file(folder.run(rung, key).path / "model.safetensors")
            found[f"{key} {rung.number}"] = (
                result["miou"],
                {name: value.tolist() for name, value in weights.items()},
            )
    return found
