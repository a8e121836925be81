"""The settings of `segdistill search`."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from segdistill.config.amounts import BYTES, MILLISECONDS, TIMES, read_amount
from segdistill.config.train import DataConfig, TeacherConfig
from segdistill.config.values import require
from segdistill.config.yaml import read_groups

SearchRuntime = Literal["onnx", "openvino"]
SearchPrecision = Literal["fp32", "bf16", "int8"]
Family = Literal["dsunet", "timm", "teacher", "recipe"]

MAY_DIFFER = frozenset({"hours", "jobs", "latency_on", "out"})
"""Settings that a search may be continued with other values of."""


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Learning rates of the candidates, by the weights that they start from."""

    scratch: float = 2e-3
    """Of networks without pretrained weights."""
    encoder: float = 1e-3
    """Of pretrained encoders with a decoder from scratch."""
    network: float = 2e-4
    """Of networks that are pretrained as a whole, such as the teacher's own."""

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            require(rate > 0, f"lr.{name}", rate, "above 0")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A budget, and how the best student within it is looked for."""

    data: DataConfig = field(default_factory=DataConfig)
    """Data sets; without a root those of the recipe."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Teacher network; without a spec that of the recipe."""
    latency: str = ""
    """Longest median latency of one image, such as 10ms; or, such as 0.5x, a multiple of the baseline's."""
    baseline: str | None = None
    """Network whose latency at `size` is 1x, measured with random weights; null takes the teacher."""
    memory: str | None = None
    """Largest peak memory of the process that runs the network, such as 200MB; null sets no limit."""
    file_size: str | None = None
    """Largest exported file, such as 8MB; null sets no limit."""
    runtime: SearchRuntime = "onnx"
    """What runs the student: onnx (onnxruntime) or openvino."""
    precision: SearchPrecision = "fp32"
    """What it computes in: fp32, int8, or bf16 (openvino)."""
    size: int = 320
    """Long side of its input in pixels; smaller and larger ones are tried too, see `sizes`."""
    sizes: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.85, 1.0, 1.2])
    """Factors of `size` that are tried, each rounded to a multiple of 16 pixels."""
    threads: int = 1
    """Threads of the runtime."""
    recipe: str | None = None
    """A YAML file of `segdistill train`: how students are trained, and on which data from which teacher where
    no options name them. null takes a plain recipe."""
    lr: LearningRates = field(default_factory=LearningRates)
    """Learning rates of all candidates but the student of `recipe`, which has its own."""
    families: list[Family] = field(default_factory=lambda: ["dsunet", "timm", "teacher", "recipe"])
    """Of dsunet (widths and strides), timm (encoders with light decoders), teacher (its own network) and
    recipe (the student of `recipe`), which are tried."""
    encoders: dict[str, str] = field(default_factory=dict)
    """timm's encoders that are tried, each with its weights: a FILE, or imagenet. Empty takes a short list
    with imagenet."""
    candidates: str | None = None
    """A YAML file with further networks, see docs/search.md."""
    most: int = 16
    """Most candidates that are trained: of each family the slowest within the budget first."""
    choose_share: float = 0.1
    """Fraction of the training images that the choice is made on; no candidate trains on them."""
    hours: float | None = None
    """Time for all of it, over all machines together; null takes `steps`."""
    steps: int = 0
    """Steps of each candidate in the first rung; 0 derives them from `hours`, or from the recipe's steps."""
    rungs: int = 0
    """Most rungs before the last two get the full recipe; 0 halves until two are left."""
    final_steps: int = 0
    """Steps of the full recipe; 0 takes the recipe's, or what `hours` leaves time for."""
    jobs: int = 0
    """Candidates that are trained at a time, each in a process with one thread; 0 takes one per core. On an
    accelerator one at a time."""
    repeats: int = 20
    """Timed passes of each candidate, in turns with a reference."""
    latency_on: str | None = None
    """Folder for the exported candidates and a script that measures them on another machine."""
    max_loss: float = 1.0
    """Largest loss of mean IoU of the exported student, in points, that its certificate excludes."""
    seed: int = 0
    """Seeds weights, data order, crops and dropout."""
    device: str = "auto"
    """auto, cpu, cuda or mps: where candidates are trained."""
    out: str = "runs/search"
    """Folder of the search; started again with the same one, it goes on."""

    @property
    def most_milliseconds(self) -> float | None:
        """The budget of latency; None where it is a multiple of the baseline's."""
        return None if self.most_times else read_amount(self.latency, MILLISECONDS, "latency")

    @property
    def most_times(self) -> float | None:
        """The budget as a multiple of the baseline's latency; None where it is a time."""
        relative = self.latency.strip().endswith("x")
        return read_amount(self.latency, TIMES, "latency") if relative else None

    @property
    def most_bytes(self) -> dict[str, float]:
        """The budgets of `memory` and `file_size` that there are."""
        limits = {"memory": self.memory, "file_size": self.file_size}
        return {name: read_amount(text, BYTES, name) for name, text in limits.items() if text is not None}

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that a search is continued with the same values of."""
        return {name: value for name, value in asdict(self).items() if name not in MAY_DIFFER}

    def __post_init__(self) -> None:
        read_groups(self)
        if self.latency:  # without one, `search` refuses
            _ = self.most_milliseconds
            require(self.baseline is None or self.most_times is not None, "latency", self.latency,
                    "a multiple of the baseline's, such as 0.5x, where a baseline is named")  # fmt: skip
        _ = self.most_bytes
        require(self.precision != "bf16" or self.runtime == "openvino", "precision", self.precision,
                "fp32 or int8 for onnx: only openvino computes in bf16")  # fmt: skip
        require(self.size >= 32, "size", self.size, "32 or more")
        require(bool(self.sizes) and all(0 < s <= 4 for s in self.sizes), "sizes", self.sizes,
                "one or more factors, above 0 and up to 4")  # fmt: skip
        require(0 < self.choose_share < 1, "choose_share", self.choose_share, "between 0 and 1")
        require(self.hours is None or self.hours > 0, "hours", self.hours, "above 0, or null")
        require(self.most >= 2, "most", self.most, "2 or more")
        for name in ("threads", "repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("steps", "rungs", "final_steps", "jobs", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.max_loss >= 0, "max_loss", self.max_loss, "0 or more")
