"""The settings of an evaluation: `segdistill evaluate`, and what else scores a network."""

from dataclasses import dataclass, field
from typing import Literal

from segdistill.config.prompts import PromptConfig
from segdistill.config.train import Precision, TeacherConfig
from segdistill.config.values import require
from segdistill.config.yaml import read_groups

Provider = Literal["cpu", "cuda", "tensorrt", "directml"]
"""What of onnxruntime computes an .onnx file, see `segdistill.models.onnx_session`."""


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True, kw_only=True)
class EvaluationDataConfig:
    """The images and masks of an evaluation."""

    root: str = ""
    """Folder of the labelled data set; for a run folder its own validation set where absent."""
    layout: str | None = None
    """A dataset.yaml kept elsewhere, for data that has none of its own."""
    split: str = "val"
    """The split."""
    workers: int = 2
    """Loader processes."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PromptConfig):
    """How a network is scored."""

    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """Data set."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """A second network, whose agreement with the first is measured."""
    weights: str | None = None
    """A state dict for the target, where it has no weights of its own."""
    size: int | None = None
    """Long side, in pixels, that images are resized to; null takes the run's own, else the image's."""
    flip: bool = False
    """Average the probabilities with those of the mirrored image."""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Average the probabilities over the image resized by each of these factors."""
    output_stride: int | None = None
    """Output stride of a network that upsamples its logits with align_corners=True, as DeepLab does: both
    sides of its input become a multiple of it, plus 1. null takes what it declares, else any size."""
    map: dict[str, str] = field(default_factory=dict)
    """The network's class -> the data set's class, for names that differ; "*" stands for all others, and
    `ignore` leaves a class out."""
    shared_only: bool = False
    """Score a network that lacks classes of the data set: it predicts none of them, so their IoU is 0;
    `classes` gives the mean over the others. Without it they are an error."""
    classes: str = ""
    """Comma-separated class names: their mean IoU is reported too."""
    precision: Precision = "fp32"
    """fp32, bf16, fp16, or auto."""
    provider: Provider | None = None
    """Of an .onnx file: onnxruntime's cpu, cuda, tensorrt or directml; null takes cuda, else cpu."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """A JSON file for every score; null writes none."""

    @property
    def class_names(self) -> list[str]:
        """The names in `classes`."""
        return split_names(self.classes)

    def __post_init__(self) -> None:
        read_groups(self)
        super().__post_init__()
        require(self.size is None or self.size > 0, "size", self.size, "above 0")
        stride = self.output_stride
        require(stride is None or stride > 0, "output_stride", stride, "above 0, or null")
        require(bool(self.scales) and min(self.scales) > 0, "scales", self.scales, "one or more, above 0")
        features_only = self.teacher.features_only
        require(not features_only, "teacher.features_only", features_only, "false: agreement takes logits")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """How the temperature of a run's probabilities is fitted again."""

    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """Data set."""
    precision: Precision = "fp32"
    """fp32, bf16, fp16, or auto."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        read_groups(self)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How networks are compared on the same images."""

    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """Data set."""
    size: int | list[int | None] | None = None
    """Long side, in pixels, that images are resized to, for all networks or '[384, null]', one for each; null
    takes the network's own, else the image's."""
    output_stride: int | list[int | None] | None = None
    """Output stride of networks that align corners, for all or one for each (see `segdistill evaluate`)."""
    flip: bool = False
    """Average the probabilities with those of the mirrored image."""
    classes: str = ""
    """Comma-separated class names: their mean IoU is compared too."""
    resamples: int = 10_000
    """Data sets that the bootstrap draws from the images."""
    seed: int = 0
    """Seeds the bootstrap."""
    precision: Precision = "fp32"
    """fp32, bf16, fp16, or auto."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """A JSON file for every score, difference and interval; null writes none."""

    @property
    def class_names(self) -> list[str]:
        """The names in `classes`."""
        return split_names(self.classes)

    def __post_init__(self) -> None:
        read_groups(self)
        for name in ("size", "output_stride"):
            value = getattr(self, name)
            values = value if isinstance(value, list) else [value]
            require(all(one is None or one > 0 for one in values), name, value, "above 0, or null")
        require(self.resamples >= 100, "resamples", self.resamples, "100 or more")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
