"""The settings of `segdistill verify`."""

from dataclasses import dataclass, field
from typing import Literal

from segdistill.config.evaluate import EvaluationDataConfig, Provider
from segdistill.config.values import require
from segdistill.config.yaml import read_groups


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """How a network is certified to be as good as another one."""

    against: str = ""
    """The network that it is compared with: a run folder, an exported file, or any network spec."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """Images with masks; without a root the validation set of a run among the two."""
    images: int = 0
    """How many of these images, evenly spaced; 0 takes all."""
    size: int | list[int | None] | None = None
    """Long side, in pixels, that images are resized to, for both networks or '[384, null]', one for each;
    null takes the network's own, else the image's."""
    output_stride: int | list[int | None] | None = None
    """Output stride of networks that align corners, for both or one for each (see `segdistill evaluate`)."""
    flip: bool = False
    """Average the probabilities with those of the mirrored image."""
    max_loss: float = 1.0
    """Largest loss of mean IoU, in points (hundredths), that the whole interval must stay above."""
    resamples: int = 10_000
    """Data sets that the bootstrap draws from the images."""
    seed: int = 0
    """Seeds the bootstrap."""
    repeats: int = 20
    """Timed passes of each network, in turns; 0 measures no latency."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the networks compute in; of exported files only OpenVINO's can be run in bf16."""
    provider: Provider | None = None
    """Of .onnx files: onnxruntime's cpu, cuda, tensorrt or directml; null takes cuda, else cpu."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str = "certificate.json"
    """The certificate; the page beside it has the suffix .html."""

    def __post_init__(self) -> None:
        read_groups(self)
        for name in ("size", "output_stride"):
            value = getattr(self, name)
            values = value if isinstance(value, list) else [value]
            require(all(one is None or one > 0 for one in values), name, value, "above 0, or null")
        require(self.max_loss >= 0, "max_loss", self.max_loss, "0 or more")
        require(self.resamples >= 100, "resamples", self.resamples, "100 or more")
        for name in ("images", "seed", "repeats"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.out.endswith(".json"), "out", self.out, "a file that ends with .json")
