"""The run folder: its file names, lock, records and checkpoints."""

import fcntl
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import save
from torch import nn

from segdistill.config.paths import LOCK, SETTINGS, require_writable
from segdistill.config.train import TrainConfig
from segdistill.config.yaml import load, to_yaml
from segdistill.engine.runtime import environment
from segdistill.files import read_json, refuse_bomb, remove_temporaries, write_atomic, write_together
from segdistill.models.card import CARD, WEIGHTS, ModelCard, read_card, read_weights

CONFIG = SETTINGS

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


def check_run(run: Path, config: TrainConfig, *, resume: bool, overwrite: bool, locked: bool = False) -> None:
    """Refuse a run folder that training must not write into; writes nothing.

    Raises:
        ValueError: the folder holds another run, or something else, or a resumed run had other settings, or
            another process trains in it.
    """
    if not locked:  # by this very process
        RunLock(run, shared=True).close()
    require_writable(run, resume=resume, overwrite=overwrite)
    if resume:
        changed = differences(asdict(load(TrainConfig, run / CONFIG)), asdict(config))
        changed = [line for line in changed if line.split()[0] not in MAY_CHANGE]
        if changed:
            raise ValueError(f"{run} was started with other settings: {'; '.join(changed)}")


class RunLock:
    """The right to write into a run folder, held by one process until it closes it or ends.

    Args:
        run: the folder.
        shared: only look whether another process holds it; without a folder nobody does.

    Raises:
        ValueError: another process holds it.
    """

    def __init__(self, run: Path, *, shared: bool = False) -> None:
        self.file: IO[bytes] | None = None
        if shared and not (run / LOCK).is_file():
            return
        self.file = (run / LOCK).open("rb" if shared else "ab")
        try:
            fcntl.flock(self.file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ValueError(
                f"another process trains in {run}: wait until it ends, or name another folder with --out"
            ) from None
        _held.add(self.file)

    def close(self) -> None:
        """Let go of it."""
        if self.file is not None:
            _held.discard(self.file)
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: set[IO[bytes]] = set()


def _release_in_child() -> None:
    """In a forked process: a loader that outlives its parent for a moment must not keep the lock."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_release_in_child)


def make_run(
    run: Path, config: TrainConfig, accelerator: Accelerator, *, resume: bool, overwrite: bool
) -> AbstractContextManager[object]:
    """Make the run folder with config.yaml and environment.json; an overwritten run is deleted first.

    Returns:
        The lock on the folder, to be left at the end; the first process holds it for all.

    Raises:
        ValueError, OSError: as `check_run`, or the folder cannot be written; in all processes alike.
    """
    lock, problem = None, ""
    if accelerator.is_main_process:
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock = RunLock(run)
            check_run(run, config, resume=resume, overwrite=overwrite, locked=True)
            if overwrite:
                empty(run)
            if not resume:
                write_atomic(run / CONFIG, to_yaml(config))
            remove_temporaries(run)
            write_atomic(run / "environment.json", json.dumps(environment(accelerator), indent=2) + "\n")
        except (OSError, ValueError) as error:
            if lock is not None:
                lock.close()
            problem = str(error)
    [problem] = broadcast_object_list([problem])
    if problem:
        raise ValueError(problem)
    return lock or nullcontext()


def empty(run: Path) -> None:
    """Delete a run but for its lock: checkpoints first and settings last, so that a kill leaves a run."""
    last = {"checkpoints": 0, CONFIG: 2}
    for path in sorted(run.iterdir(), key=lambda path: last.get(path.name, 1)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


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


__all__ = ["KEEP", "load_checkpoint", "save_checkpoint", "save_student", "write_atomic"]

KEEP = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""


def save_student(run: Path, student: nn.Module, card: ModelCard) -> None:
    """Write model.safetensors and model.json, both or (but for a kill between two renames) neither."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    write_together({run / WEIGHTS: save(state), run / CARD: card.to_json()})


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, then drop all but the newest `KEEP` checkpoints."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    write_atomic(path, data)
    # Last, and so the mark that the checkpoint is whole.
    write_atomic(path.with_suffix(".json"), json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest whole checkpoint, None without any; a damaged one is passed over."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        step = re.fullmatch(r"step-(\d+)", path.stem)
        if step is None:
            continue
        try:
            data = path.read_bytes()
            if read_json(path.with_suffix(".json"))["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("its checksum is wrong")
            buffer = io.BytesIO(data)
            refuse_bomb(buffer, path.name)
            return int(step[1]), torch.load(buffer, map_location="cpu", weights_only=True)
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, pickle.UnpicklingError) as error:
            print(f"checkpoint {path} is damaged ({error}); trying the one before it", file=sys.stderr)
    return None
