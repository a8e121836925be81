"""Checkpoints to resume from, and the student that a run folder ends with: all atomic files."""

import hashlib
import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from segdistill.files import read_json, refuse_bomb, write_atomic, write_together
from segdistill.models.card import CARD, WEIGHTS, ModelCard

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
