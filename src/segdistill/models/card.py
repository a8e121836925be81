"""model.json: what a student's weights need to be used again, and how both are read from a run folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from segdistill.config.architecture import Architecture, DecoderName
from segdistill.config.paths import CARD as CARD
from segdistill.config.paths import WEIGHTS as WEIGHTS
from segdistill.config.paths import require_model
from segdistill.config.values import require
from segdistill.data.depth import FULL, is_bits
from segdistill.data.labels import LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.files import read_json, write_together
from segdistill.models.hub_runs import find_run

MAX_WIDTH, MAX_SIDE, MAX_CHANNELS = 8, 2**14, 2**12
"""Of a card: its width, its sides in pixels and its decoder's channels, so that a few bytes cannot ask for
all memory."""

MAX_TEMPERATURE = 1000
"""Of a card, and its inverse the least: beyond, probabilities are of no use."""


@dataclass(frozen=True, kw_only=True)
class ModelCard(Architecture):
    """Describes the weights beside it, and the network that they belong to.

    Attributes:
        labels: what the logits are over.
        size: side of the training crops, in pixels.
        evaluate_size: long side of the images it was evaluated on, None for their own size.
        mean, std: of the RGB input in 0 to 1.
        metrics: scores of the weights on the validation split.
        teacher: spec and fingerprint of the teacher, None for a supervised student.
        version: of segdistill.
        temperature: what logits are divided by before probabilities are made of them; masks need none.
        huggingface: what an `hf:` network is rebuilt from, so that its folder is not needed; None for others.
        bits: per channel, of training images that had more than 8; None where their data set did not say.
    """

    labels: LabelSet
    size: int
    evaluate_size: int | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    metrics: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    version: str = ""
    temperature: float = 1.0
    huggingface: dict[str, Any] | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        sides = [side for side in (self.size, self.evaluate_size) if side is not None]
        super().__post_init__()
        require(isinstance(self.spec, str), "spec", self.spec, "the name of a network")
        require(_number(self.width) and 0 < self.width <= MAX_WIDTH, "width", self.width, f"0 to {MAX_WIDTH}")
        require(self.stride in (1, 2, 4), "stride", self.stride, "1, 2 or 4")
        require(self.decoder in get_args(DecoderName), "decoder", self.decoder, "a decoder's name")
        channels = self.channels
        whole = channels is None or (isinstance(channels, int) and 0 < channels <= MAX_CHANNELS)
        require(whole, "channels", channels, f"1 to {MAX_CHANNELS}")
        for name, values in {"mean": self.mean, "std": self.std}.items():
            require(len(values) == 3 and all(map(_number, values)), name, values, "three numbers")
        allowed = f"a number from 1 / {MAX_TEMPERATURE} to {MAX_TEMPERATURE}"
        require(is_temperature(self.temperature), "temperature", self.temperature, allowed)
        require(min(self.std) > 0, "std", self.std, "above 0")
        whole = all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides)
        require(whole and self.size is not None, "size and evaluate_size", sides, f"1 to {MAX_SIDE}")
        require(is_bits(self.bits), "bits", self.bits, f"9 to {FULL}")

    def to_json(self) -> str:
        """The content of model.json."""
        return json.dumps(asdict(self) | {"labels": self.labels.to_dict()}, indent=2) + "\n"


def is_temperature(value: object) -> bool:
    """Whether a value read from a file can be a temperature: a number that is neither tiny nor huge."""
    return _number(value) and 1 / MAX_TEMPERATURE <= float(value) <= MAX_TEMPERATURE  # type: ignore[arg-type]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def is_run(path: str | Path) -> bool:
    """Whether `path` is a run folder, or at least one that holds a model; of the hub too, see `find_run`."""
    return find_run(path) is not None


def read_card(run: Path) -> ModelCard:
    """Read a run folder's model.json.

    Raises:
        FileNotFoundError: it has none, so it is no run folder (or no evaluation has finished in it yet).
        ValueError: the file is not what segdistill writes.
    """
    require_model(run)
    path = run / CARD
    try:
        content = read_json(path)
        content["labels"] = label_set(content["labels"], str(path))
        content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
        return ModelCard(**content)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a model card of segdistill: {error}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, without pickle; weights stored in float16 come back as float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn or not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def save_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write weights and card into a folder, both or (but for a kill between two renames) neither."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_together({folder / WEIGHTS: save(plain), folder / CARD: card.to_json()})


def read_model(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and weights of a folder.

    Raises:
        FileNotFoundError: it holds no model.
        ValueError: a file is damaged.
    """
    return read_card(folder), read_weights(folder / WEIGHTS)
