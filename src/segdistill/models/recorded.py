"""Rebuilds a network of Hugging Face from a run's model.json, which may be a stranger's."""

from collections.abc import Mapping
from typing import Any

import torch

from segdistill.config.values import require
from segdistill.files import first_line
from segdistill.models.hub import import_transformers
from segdistill.models.huggingface import HuggingFaceNetwork, fresh_model, segmentation_kinds
from segdistill.models.image_processor import InputForm

MAX_PARAMETERS, MAX_LAYERS, MAX_NUMBER = 2**30, 256, 2**18
"""So that a few bytes cannot ask for all memory: of all parameters, of layers, and of any other number."""
LAYERS = ("layers", "depth", "blocks", "repeats")
"""What the names of settings that count layers contain."""


def rebuild(recorded: Mapping[str, Any], num_classes: int) -> HuggingFaceNetwork:
    """The network of `HuggingFaceNetwork.recorded`, with fresh weights; its own files are not needed.

    Raises:
        ValueError: the record is damaged, or asks for too much.
    """
    transformers = import_transformers()
    try:
        require_bounded(recorded)
        values = dict(recorded["config"])
        kind, kinds = values["model_type"], segmentation_kinds()
        require(kind in kinds, "model_type", kind, f"one of {', '.join(kinds)}")
        config = transformers.CONFIG_MAPPING[kind].from_dict(values)
        with torch.device("meta"):  # where parameters take no memory
            count = sum(p.numel() for p in fresh_model(config, num_classes).parameters())
        require(count <= MAX_PARAMETERS, "the number of parameters", count, f"{MAX_PARAMETERS} at most")
        form = InputForm(**recorded["form"])
        return HuggingFaceNetwork(fresh_model(config, num_classes), form)
    except Exception as error:  # transformers raises nearly anything for a damaged configuration
        raise ValueError(f"the recorded hf: network cannot be built: {first_line(error)}") from None


def require_bounded(value: Any, name: str = "") -> None:
    """Raise a `ValueError` for a number in a JSON value that is too large for what it is called."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            require_bounded(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            require_bounded(inner, name)
    elif isinstance(value, int | float):
        limit = MAX_LAYERS if any(word in name for word in LAYERS) else MAX_NUMBER
        require(abs(value) <= limit, name, value, f"{limit} at most")
