"""Trains a named grid of settings over seeds and prints one table: the accuracy of each, mean and deviation.

    python benchmarks/accuracy.py benchmarks/grids/voc-animals.yaml --out runs/accuracy

Each run is a process of its own with a run folder of its own. What is finished is not run again, what was
interrupted is resumed, and `--minutes` stops in time on a machine that one has for minutes: call it
again, and it goes on. The first setting is the one that the others are compared with.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

SCORES = {
    "miou_of_classes": "mIoU of the classes",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_iou": "boundary IoU",
}
GRACE = 60.0
"""Seconds before the end of `--minutes` that a training is asked to save and stop."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One setting with one seed."""

    setting: str
    seed: int
    config: dict[str, Any]
    folder: Path

    @property
    def scores(self) -> Path:
        """Where the scores of the finished run are."""
        return self.folder / "scores.json"


def read_grid(path: Path, out: Path, overrides: list[str]) -> tuple[list[Run], dict[str, Any]]:
    """The runs of a grid file, one seed of all settings after the other, and how they are evaluated.

    A grid has `base` (a configuration), `seeds`, `settings` (name -> {dotted.key: value}) and `evaluate`
    (options of `segdistill evaluate`); `overrides` are `dotted.key=value` for every run, and win.
    """
    grid = yaml.safe_load(path.read_text())
    common = grid.get("common", {})
    forced = {key: yaml.safe_load(value) for key, _, value in (o.partition("=") for o in overrides)}
    runs = []
    for seed in grid["seeds"]:
        for name, changes in grid["settings"].items():
            folder = out / name / f"seed-{seed}"
            config = yaml.safe_load(Path(grid["base"]).read_text())
            for key, value in {
                **common,
                **(changes or {}),
                **forced,
                "seed": seed,
                "out": str(folder),
            }.items():
                put(config, key, value)
            runs.append(Run(setting=name, seed=seed, config=config, folder=folder))
    return runs, grid.get("evaluate", {})


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a nested mapping."""
    *groups, last = key.split(".")
    for group in groups:
        config = config.setdefault(group, {})
    config[last] = value


def carry_out(run: Run, evaluate: dict[str, Any], deadline: float) -> bool:
    """Train, or go on training, and score; whether it is finished."""
    if run.scores.is_file():
        return True
    if deadline - time.monotonic() < 2 * GRACE:
        return False
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    settings = run.folder.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(run.config, sort_keys=False))
    begun = (run.folder / "config.yaml").is_file()
    command = [*segdistill("train"), "--config", str(settings), *(["--resume"] if begun else [])]
    started = time.monotonic()
    code = run_until(command, deadline - GRACE)
    clock = run.folder.with_suffix(".seconds")
    before = float(clock.read_text()) if clock.is_file() else 0.0
    clock.write_text(str(before + time.monotonic() - started))
    if code == 143:  # stopped in time; its state is saved
        return False
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    options = [f"--{key}={value}" for key, value in evaluate.items()]
    subprocess.run(
        [*segdistill("evaluate"), str(run.folder), *options, f"--out={run.scores}"], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return True


def segdistill(verb: str) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "segdistill.cli", verb]


def run_until(command: list[str], deadline: float) -> int:
    """Run a command, at the deadline ask it to stop (SIGTERM) and wait; returns its exit code."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        return process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        return process.wait()
    except KeyboardInterrupt:  # the child got the signal too, and saves
        process.wait()
        raise


def table(runs: list[Run]) -> Table:
    """Mean and standard deviation over the finished seeds of each setting."""
    made = Table(caption="mean ± standard deviation over seeds; difference to the first row in points")
    columns = ("setting", "seeds", *SCORES.values(), "difference", "steps", "minutes", "images/s")
    for column in columns:
        made.add_column(column, justify="left" if column == "setting" else "right")
    first: float | None = None
    for setting in dict.fromkeys(run.setting for run in runs):
        done = [run for run in runs if run.setting == setting and run.scores.is_file()]
        if not done:
            continue
        scores = [json.loads(run.scores.read_text()) for run in done]
        cells = [spread([s[name] for s in scores if s.get(name) is not None]) for name in SCORES]
        main = statistics.mean(s.get("miou_of_classes") or s["miou"] for s in scores)
        first = main if first is None else first
        minutes = statistics.mean(float(r.folder.with_suffix(".seconds").read_text()) / 60 for r in done)
        made.add_row(
            setting, str(len(done)), *cells, f"{100 * (main - first):+.1f}",
            str(max(last_step(run) for run in done)), f"{minutes:.1f}",
            f"{statistics.median(speed for run in done for speed in speeds(run)):.0f}",
        )  # fmt: skip
    return made


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`, the latter from two values on."""
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def records(run: Run) -> list[dict[str, Any]]:
    """The lines of a run's history."""
    return [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]


def last_step(run: Run) -> int:
    """Optimiser steps that a run has done."""
    return max(record["step"] for record in records(run))


def speeds(run: Run) -> list[float]:
    """Images per second, one figure for each line that has one."""
    return [r["images_per_second"] for r in records(run) if "images_per_second" in r]


def main() -> None:
    """Carry out what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="holds a run folder per setting and seed")
    parser.add_argument("--only", default="", help="settings to run, comma-separated; all where absent")
    parser.add_argument("--seeds", default="", help="seeds to run, comma-separated; all where absent")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop, resumably, before this long")
    parser.add_argument("overrides", nargs="*", help="dotted.key=value, for every run")
    options = parser.parse_intermixed_args()
    deadline = time.monotonic() + 60 * options.minutes
    runs, evaluate = read_grid(options.grid, options.out, options.overrides)
    wanted = options.only.split(",") if options.only else list(dict.fromkeys(run.setting for run in runs))
    unknown = set(wanted) - {run.setting for run in runs}
    if unknown:
        sys.exit(f"{options.grid} has no setting called {', '.join(sorted(unknown))}")
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else {run.seed for run in runs}
    chosen = [run for run in runs if run.setting in wanted and run.seed in seeds]
    finished = [carry_out(run, evaluate, deadline) for run in chosen]
    Console(width=150).print(table(runs))
    if not all(finished):
        sys.exit(f"{finished.count(False)} of {len(finished)} runs are not finished: call this again")


if __name__ == "__main__":
    main()
