"""State dicts from files, read without running what a pickle could hold."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from segdistill.config.values import require
from segdistill.files import first_line, refuse_bomb
from segdistill.models.card import read_weights


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file, or from a .pth file without running what a pickle could hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn, is not a state dict, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            refuse_bomb(file, str(path))
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} is not a state dict: {first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict of tensors alone")
    return state


def read_statistics(path: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of the RGB input in 0 to 1 in the metadata of a .safetensors file, or None each.

    They are lists in JSON: `{"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}`.

    Raises:
        ValueError: they are something else.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None, None
    with safe_open(path, "pt") as file:
        declared = file.metadata() or {}
    try:
        mean, std = (tuple(map(float, json.loads(declared.get(key, "[]")))) for key in ("mean", "std"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"mean and std in the metadata of {path} are no lists of numbers: {error}") from None
    require(
        len(mean) == len(std) and len(mean) in (0, 3), f"mean and std of {path}", (mean, std), "three each"
    )
    return mean or None, std or None


def load_state(module: nn.Module, path: Path, state: dict[str, Tensor] | None = None) -> None:
    """Load a state dict that was read from `path`, or is read now; a `ValueError` where it does not fit."""
    try:
        module.load_state_dict(read_state(path) if state is None else state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights of {path} do not fit the network: {reason}") from None
