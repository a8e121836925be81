"""Trains the candidates of a rung that nobody else has claimed: `python -m segdistill.searching.worker`."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import torch

from segdistill import api
from segdistill.config.train import TrainConfig
from segdistill.console import log, warn
from segdistill.engine.runtime import find_device
from segdistill.files import first_line
from segdistill.models.spec import parse_architecture, remember_call
from segdistill.searching.folder import Rung, SearchFolder, is_full
from segdistill.searching.recipes import full_recipe, rung_recipe


def work(folder: SearchFolder, rung: Rung) -> None:
    """Train each member of a rung that has no result and that no other process trains."""
    for key in rung.members:
        with folder.claim(key) as mine:
            if mine and folder.result(rung, key) is None:
                folder.note_claim(key)
                train_member(folder, rung, key)


def train_member(folder: SearchFolder, rung: Rung, key: str) -> None:
    """Train one candidate, or go on with it, and write its result down: its score, or why it has none."""
    config = member_config(folder, rung, key)
    run = folder.run(rung, key)
    started = time.monotonic()
    try:
        api.train(config, resume=run.config_file.is_file(), report=rung.final)
        evaluation = run.best if rung.final else run.metrics["last"]
        assert evaluation is not None
        result = {name: evaluation[name] for name in ("miou", "step")}
        if result["miou"] is None:
            result = {"failed": "no class of the images that the choice is made on was found"}
    except Exception as error:  # a network raises anything
        if is_full(error):
            raise  # which is not its fault
        warn(f"{key} failed: {first_line(error)}")
        result = {"failed": first_line(error)[:500]}
    folder.write_result(rung, key, result | {"seconds": time.monotonic() - started})


def member_config(folder: SearchFolder, rung: Rung, key: str) -> TrainConfig:
    """The settings of a candidate's training in a rung; on a CPU it loads its images in its own process."""
    candidate = folder.candidates[key]
    full = full_recipe(folder.recipe, candidate, folder.config, rung.steps if rung.final else 0)
    config = full if rung.final else rung_recipe(full, rung.steps, folder.rungs()[0].steps)
    if find_device(config.device).type == "cpu":
        config = replace(config, data=replace(config.data, workers=0))
    return replace(config, out=str(folder.run(rung, key)))


def trust_candidates(folder: SearchFolder) -> None:
    """Functions that are students count as named by the user of the search, who did name them."""
    for candidate in folder.candidates.values():
        spec = parse_architecture(candidate.student.spec)
        if spec.is_code:
            remember_call(spec)


def stop_with_parent() -> None:
    """End this process as on SIGTERM, with its state saved, once the process that started it is gone.

    The pipe is read without `sys.stdin`, whose lock a loader process that is forked meanwhile would wait for.
    """
    pipe = sys.stdin.fileno()

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run(folder: SearchFolder, number: int) -> int:
    """Train what is free of a rung, in a process that is there for nothing else; returns its exit code."""
    stop_with_parent()
    if find_device(folder.recipe.device).type == "cpu":
        torch.set_num_threads(1)
    trust_candidates(folder)
    folder.forget_claim()
    try:
        work(folder, folder.rungs()[number])
    except (ValueError, OSError) as error:
        log(f"error: {first_line(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(SearchFolder(sys.argv[1]), int(sys.argv[2])))
