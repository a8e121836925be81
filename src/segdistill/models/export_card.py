"""What an exported file says of itself.

N: images, H, W: rows and columns, K: classes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from segdistill.config.values import require
from segdistill.data.depth import FULL, is_bits
from segdistill.data.labels import LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.models.card import is_temperature

ENTRY = "segdistill"
"""Under this name a file that has room for one text keeps its card."""


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """Describes an exported file, in the file's own metadata and in the JSON file beside it.

    Attributes:
        labels: what the logits are over; None where the metadata of a foreign file lack it.
        mean, std: of the RGB input in 0 to 1.
        size: long side, in pixels, of the images it is meant for; None for any.
        output_stride: its input is resized so that both sides are a multiple of it, plus 1; None for any.
        side: of the one square image, in pixels, that it takes; smaller ones are padded with the mean on the
            right and below, and so much is cut off from the output. None for free sizes.
        input: `image` for N x H x W x 3 uint8 RGB, `tensor` for N x 3 x H x W normalised floats.
        temperature: what logits, which are raw, are divided by before probabilities are made of them.
        output: `logits` N x K x H x W, or `mask` N x H x W uint8 class indices.
        source: name of what it was made from, see `display_name`.
        version: of segdistill.
        bits: per channel, of training images that had more than 8, see `ModelCard`.
    """

    labels: LabelSet | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None
    output_stride: int | None = None
    side: int | None = None
    input: Literal["image", "tensor"] = "tensor"
    output: Literal["logits", "mask"] = "logits"
    source: str = ""
    version: str = ""
    temperature: float = 1.0
    bits: int | None = None

    @property
    def input_size(self) -> int | None:
        """Long side, in pixels, that its images are resized to: `size`, as far as they fit into `side`."""
        return self.size if self.side is None else min(self.size or self.side, self.side)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, read back by `read`."""
        labels = None if self.labels is None else self.labels.to_dict()
        return {**vars(self), "labels": labels, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def read(cls, texts: Mapping[str, str], path: Path) -> Self:
        """The card in the metadata of a file, each value a JSON text; a foreign file may have a part of it.

        Raises:
            ValueError: a value is not what segdistill, or docs/own-networks.md, would write.
        """
        try:
            values = {key: json.loads(texts[key]) for key in cls.__dataclass_fields__ if key in texts}
            if values.get("labels") is not None:
                labels = values["labels"]
                description = labels if isinstance(labels, dict) else {"names": list(labels)}
                values["labels"] = label_set(description, str(path))
            for key in {"mean", "std"} & values.keys():
                values[key] = tuple(map(float, values[key]))
            for key in ("output_stride", "side"):
                number = values.get(key)
                require(
                    number is None or (isinstance(number, int) and number > 0),
                    key,
                    number,
                    "above 0, or null",
                )
            require(is_bits(values.get("bits")), "bits", values.get("bits"), f"9 to {FULL}, or null")
            if not is_temperature(values.get("temperature", 1.0)):
                raise ValueError(f"temperature is {values['temperature']!r}, but must be a number above 0")
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the metadata of {path} cannot be read: {error}") from None
