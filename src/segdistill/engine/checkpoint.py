"""Checkpoints to resume from: atomic files with a checksum beside them."""

import hashlib
import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch

from segdistill.files import read_json, refuse_bomb, write_atomic

KEEP = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: where they are; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, then drop all but the newest `KEEP` checkpoints."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        path = self.folder / f"step-{step:08d}.pt"
        write_atomic(path, data)
        # Last, and so the mark that the checkpoint is whole.
        write_atomic(path.with_suffix(".json"), json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
        for old in sorted(self.folder.glob("step-*.pt"))[:-KEEP]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest whole checkpoint, None without any; damaged ones are skipped."""
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            step = re.fullmatch(r"step-(\d+)", path.stem)
            if step is None:
                continue
            try:
                return int(step[1]), _read(path)
            except (
                OSError,
                ValueError,
                TypeError,
                LookupError,
                RuntimeError,
                pickle.UnpicklingError,
            ) as error:
                print(f"checkpoint {path} is damaged ({error}); trying the one before it", file=sys.stderr)
        return None

    @property
    def newest(self) -> Path | None:
        """The file of the newest checkpoint, whole or not."""
        return max(self.folder.glob("step-*.pt"), default=None)


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if read_json(path.with_suffix(".json"))["sha256"] != hashlib.sha256(data).hexdigest():
        raise ValueError("its checksum is wrong")
    buffer = io.BytesIO(data)
    refuse_bomb(buffer, path.name)
    return torch.load(buffer, map_location="cpu", weights_only=True)
