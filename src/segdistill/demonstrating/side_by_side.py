"""Trainings side by side: each process takes some of them, one after the other, with its part of the cores.

Two small trainings with a thread each take about half the time of one after the other with two threads each.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from segdistill.api import train
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.console import WARNING, progress, verbosity, warn
from segdistill.demonstrating.plan import process_count
from segdistill.engine.run_folder import RunFolder
from segdistill.files import read_text, usable_cores, write_atomic

SECONDS_TO_SAVE = 60.0
"""For a training that is stopped; then it is killed."""


def train_side_by_side(configs: Sequence[TrainConfig], folder: Path) -> None:
    """Run trainings in processes of their own; earlier runs in their folders are deleted.

    Args:
        configs: the trainings.
        folder: gets the settings of each as a YAML file, and what the processes print.

    Raises:
        ValueError: a training failed.
    """
    started = time.time()
    count = process_count(len(configs))
    files = []
    for config in configs:
        files.append(folder / f"{Path(config.out).name}.yaml")
        write_atomic(files[-1], to_yaml(config))
    logs = [folder / f"process-{index}.log" for index in range(count)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // count)),
        "PYTHONIOENCODING": "utf-8",
    }
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes)
        for index, log in enumerate(logs):
            command = [
                sys.executable,
                "-m",
                "segdistill.demonstrating.side_by_side",
                *map(str, files[index::count]),
            ]
            output = stack.enter_context(log.open("wb"))
            processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        bar = stack.enter_context(progress())
        task = bar.add_task("train", total=sum(config.steps for config in configs))
        while any(process.poll() is None for process in processes) and not any(_codes(processes)):
            time.sleep(0.25)
            bar.update(task, completed=sum(_step(config, started) for config in configs))
        failed = [bool(code) for code in _codes(processes)]  # before those that still run are ended
    texts = [read_text(log) for log in logs]
    for warning in dict.fromkeys(line for text in texts for line in text.splitlines() if WARNING in line):
        warn(warning.partition(WARNING)[2])  # each once: all trainings read the same images
    if any(failed):
        index = failed.index(True)
        lines = texts[index].strip().splitlines() or [f"exit code {processes[index].returncode}"]
        raise ValueError(f"a training failed: {lines[-1]} (all that it printed is in {logs[index]})")


def _codes(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    return [process.poll() for process in processes]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop all that still run, after one failed or the user stopped them."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _step(config: TrainConfig, started: float) -> int:
    """Steps that a training has logged since `started` (seconds since 1970)."""
    folder = RunFolder(config.out)
    try:
        if folder.history_file.stat().st_mtime < started:  # of an earlier run
            return 0
        steps, _ = folder.history()
    except (OSError, ValueError):  # not there yet, or being deleted
        return 0
    return int(steps[-1]["step"]) if steps else 0


def main(files: Sequence[str]) -> int:
    """Train what the YAML files describe, one after the other; returns the exit code."""
    for file in files:
        try:
            with verbosity(quiet=True):
                train(load(TrainConfig, Path(file)), overwrite=True, report=False)
        except (ValueError, OSError) as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
