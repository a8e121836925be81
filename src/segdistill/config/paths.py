"""Refuses paths that settings name and that cannot be used, before the seconds that PyTorch takes to load.

What opens the files checks them again, and more of them; here is only what the names alone tell.
"""

from collections.abc import Iterable
from pathlib import Path

from segdistill.config.naming import setting

SETTINGS = "config.yaml"
"""Of a run folder: the settings of the training, there from its first moment on."""
CARD = "model.json"
"""Of a run folder: describes the trained student, there from the first evaluation on."""
WEIGHTS = "model.safetensors"
"""Of a run folder: the weights that the card describes."""
HUB = "hf:"
"""Before the name of a repository on the Hugging Face Hub, or of a folder that was downloaded from it."""
LOCK = ".lock"
"""Of a run folder: held by the process that trains in it, and left behind by it."""


def require_paths(paths: Iterable[str | Path | None]) -> None:
    """Raise a `FileNotFoundError` for the first path that does not exist; None and "" stand for no path."""
    for path in paths:
        if path and not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist")


def require_runs(runs: Iterable[str | Path]) -> None:
    """Raise a `FileNotFoundError` for the first that is no run folder, with a trained student or without."""
    for run in runs:
        if not (Path(run) / SETTINGS).is_file() and not (Path(run) / CARD).is_file():
            raise FileNotFoundError(
                f"{run} is not a run folder: it has neither a {SETTINGS} nor a {CARD} "
                "(`segdistill train --out FOLDER` makes one)"
            )


def require_model(run: str | Path) -> None:
    """Raise a `FileNotFoundError` unless `run` is a run folder with a trained student."""
    if not (Path(run) / CARD).is_file():
        raise FileNotFoundError(
            f"{run} is not a run folder with a trained model: it has no {CARD} "
            "(one is written at the first evaluation of `segdistill train`)"
        )


def require_network(spec: str) -> None:
    """Raise a `FileNotFoundError` for a spec that is a folder without a student, or the path of nothing."""
    path = Path(spec)
    if path.is_dir():
        require_model(path)
    elif len(path.parts) > 1 and ":" not in spec and not path.exists():
        raise FileNotFoundError(f"{spec} does not exist: it is neither a run folder nor an exported file")


def require_writable(run: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder whose content training must not touch.

    Args:
        run: the folder, which need not exist.
        resume: the run in it is to be continued.
        overwrite: the run in it is to be deleted.

    Raises:
        ValueError: it is a file, or holds another run, or no run where one is to be continued, or files that
            are no run.
    """
    if resume and overwrite:
        raise ValueError(
            f"{setting('resume')} continues a run and {setting('overwrite')} deletes it: choose one"
        )
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file, not a folder; name another with {setting('out')}")
    left = {LOCK, f".{SETTINGS}.tmp"}  # by a training that was killed before it wrote its settings
    if not run.is_dir() or all(path.name in left for path in run.iterdir()):
        if resume:
            raise ValueError(f"there is no run in {run} to resume")
    elif not (run / SETTINGS).is_file():
        raise ValueError(f"{run} holds files but no run; name another folder with {setting('out')}")
    elif not resume and not overwrite:
        raise ValueError(
            f"{run} holds another run: {setting('resume')} continues it, {setting('overwrite')} deletes it"
        )
