"""Atomic files: checkpoints to resume from, and the student that a run folder ends with."""

import hashlib
import io
import json
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from segdistill.models.card import CARD, WEIGHTS, ModelCard

KEEP = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, also after a power cut, sees the old content or the new, whole."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_student(run: Path, student: nn.Module, card: ModelCard) -> None:
    """Write model.safetensors and model.json."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    write_atomic(run / WEIGHTS, save(state))
    write_atomic(run / CARD, card.to_json())


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
            if (
                json.loads(path.with_suffix(".json").read_text())["sha256"]
                != hashlib.sha256(data).hexdigest()
            ):
                raise ValueError("its checksum is wrong")
            return int(step[1]), torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            print(f"checkpoint {path} is damaged ({error}); trying the one before it", file=sys.stderr)
    return None
