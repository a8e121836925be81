"""The run folder: made, refused where another run lives in it, continued, or packed for use elsewhere."""

import fcntl
import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import save

from segdistill.config import TrainConfig, load, to_yaml
from segdistill.engine.runtime import environment
from segdistill.files import remove_temporaries, write_atomic
from segdistill.models.card import CARD, WEIGHTS, read_card, read_weights

CONFIG = "config.yaml"
LOCK = ".lock"
"""Of a run folder: the process that trains in it holds a lock on this file, which the system lets go of
when that process ends, however it ends."""
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
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite deletes it: choose one")
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file, not a folder; name another with --out")
    if not locked:  # by this very process
        RunLock(run, shared=True).close()
    ours = {LOCK, f".{CONFIG}.tmp"}  # what a process leaves that was killed before it wrote its settings
    content = [path for path in run.iterdir() if path.name not in ours] if run.is_dir() else []
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


def _let_go() -> None:
    """In a forked process: a loader that outlives its parent for a moment must not keep the lock."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


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
