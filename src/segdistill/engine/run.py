"""The run folder: made, refused where another run lives in it, continued, or packed for use elsewhere."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save

from segdistill.config import TrainConfig, load, to_yaml
from segdistill.engine.checkpoint import write_atomic
from segdistill.engine.runtime import environment
from segdistill.models.card import CARD, WEIGHTS, read_card, read_weights

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


def pack(run: Path, out: Path) -> Path:
    """Copy of a run folder what using its student takes: weights in float16, card and settings.

    Args:
        run: a run folder with a trained student.
        out: a folder that is not there, or is empty.

    Returns:
        `out`, a run folder of half a float32 one's weight, without records, checkpoints and report.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: its files are damaged, `out` holds something, or a weight is beyond float16's range.
    """
    card, state = read_card(run), read_weights(run / WEIGHTS)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already; name another folder with --out")
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    lost = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if lost:
        raise ValueError(f"{run}: {', '.join(lost)} holds values beyond float16's range")
    write_atomic(out / WEIGHTS, save(half))
    write_atomic(out / CARD, card.to_json())
    write_atomic(out / CONFIG, to_yaml(load(TrainConfig, run / CONFIG)))
    return out
