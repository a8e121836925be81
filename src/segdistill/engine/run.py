"""The run folder: made, refused where another run lives in it, or continued."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from segdistill.config import TrainConfig, load, to_yaml
from segdistill.engine.checkpoint import write_atomic
from segdistill.engine.runtime import environment

CONFIG = "config.yaml"
MAY_CHANGE = frozenset(
    {
        "data.workers",
        "data.cache",
        "data.cache_gb",
        "device",
        "trackers",
        "log_every",
        "checkpoint_every",
        "out",
    }
)
"""Settings that a resumed run may have other values of: they change no weight."""


def check_run(run: Path, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse a run folder that training must not write into; writes nothing.

    Raises:
        ValueError: the folder holds another run, or something else, or a resumed run had other settings.
    """
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite deletes it: choose one")
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file, not a folder; name another with --out")
    content = list(run.iterdir()) if run.is_dir() else []
    if not content:
        if resume:
            raise ValueError(f"there is no run in {run} to resume")
        return
    if not (run / CONFIG).is_file():
        raise ValueError(f"{run} holds files but no run; name another folder with --out")
    if resume:
        changed = differences(asdict(load(TrainConfig, run / CONFIG)), asdict(config))
        changed = [line for line in changed if line.split()[0] not in MAY_CHANGE]
        if changed:
            raise ValueError(f"{run} was started with other settings: {'; '.join(changed)}")
    elif not overwrite:
        raise ValueError(f"{run} holds another run: --resume continues it, --overwrite deletes it")


def make_run(
    run: Path, config: TrainConfig, accelerator: Accelerator, *, resume: bool, overwrite: bool
) -> None:
    """Make the run folder with config.yaml and environment.json; an overwritten run is deleted first."""
    if accelerator.is_main_process:
        if overwrite and (run / CONFIG).is_file():
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
        if not resume:
            write_atomic(run / CONFIG, to_yaml(config))
        write_atomic(run / "environment.json", json.dumps(environment(accelerator), indent=2) + "\n")
    accelerator.wait_for_everyone()


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """`key before -> after` for each setting that differs between two nested mappings."""
    lines = []
    for key, old in before.items():
        new = after.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and key != "map":
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} {old} -> {new}")
    return lines
