"""Which network a student is: the settings that the shapes of its weights follow from."""

from dataclasses import dataclass
from typing import Literal

from segdistill.config.values import require

DecoderName = Literal["fpn", "lraspp", "deeplab"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of the zoo, before it has weights."""

    spec: str = "dsunet"
    """Any network of the zoo: a built-in name, timm:ENCODER, smp:ARCH/ENCODER, hf:ORG/NAME,
    file.py:function, package:function."""
    width: float = 1.0
    """Multiplies all channels of dsunet; other networks take 1 only."""
    stride: Literal[1, 2, 4] = 1
    """Of dsunet: an image is first cut into patches of this side, and its logits are upsampled; 2 is about a
    quarter of the arithmetic. Other networks take 1 only."""
    decoder: DecoderName = "fpn"
    """Of a timm:ENCODER: fpn (logits at stride 4), lraspp (8) or deeplab (16); for the last two the encoder's
    last stages dilate instead of striding, where it can, which costs more than an fpn."""
    channels: int | None = None
    """Of the decoder of a timm:ENCODER; null takes its own number (fpn 96, lraspp 128, deeplab 256)."""

    def __post_init__(self) -> None:
        require(self.width > 0, "student.width", self.width, "above 0")
        require(self.channels is None or self.channels > 0, "student.channels", self.channels, "above 0")
