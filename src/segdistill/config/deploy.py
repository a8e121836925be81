"""The settings of `segdistill predict`, `label`, `export`, `push`, `benchmark` and `serve`."""

from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Literal

from segdistill.config.evaluate import EvaluationDataConfig, Provider
from segdistill.config.prompts import PromptConfig
from segdistill.config.values import require
from segdistill.config.yaml import read_groups

TILE = 1024
"""Side, in pixels, of the tiles that a large image is cut into by default."""

LONGEST_SIDE = 1024
"""Of the input of a network without a size of its own, in pixels, in a page and on a server."""

LEAST_SIDE = 64
"""Side, in pixels, of the smallest square that a file may take: networks are tried with an image of it."""

Format = Literal["onnx", "openvino", "pt2", "executorch", "litert", "ncnn", "coreml"]
"""Formats of files that segdistill runs again."""
RuntimeName = Literal["auto", "openvino", "onnx", "pytorch"]

WEB_SUFFIX = ".html"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How a network is opened, and what it gets of an image."""

    size: int | None = None
    """Long side, in pixels, that images are resized to; null takes the size of its run's evaluation."""
    output_stride: int | None = None
    """Output stride of a network that upsamples its logits with align_corners=True, as DeepLab does: both
    sides of its input become a multiple of it, plus 1. null takes what it declares, else any size."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the network computes in; of exported files only OpenVINO's can be run in bf16."""
    provider: Provider | None = None
    """Of an .onnx file: onnxruntime's cpu, cuda, tensorrt or directml; null takes cuda, else cpu."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        require(self.size is None or self.size > 0, "size", self.size, "above 0")
        stride = self.output_stride
        require(stride is None or stride > 0, "output_stride", stride, "above 0, or null")


@dataclass(frozen=True, kw_only=True)
class PromptedNetworkConfig(NetworkConfig, PromptConfig):
    """How a network is opened that may be an open-vocabulary one."""

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        PromptConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class LoadConfig(PromptedNetworkConfig):
    """How images are segmented by a network that is held in memory."""

    flip: bool = False
    """Average the probabilities with those of the mirrored image."""
    runtime: RuntimeName = "pytorch"
    """What computes a run folder: pytorch; openvino or onnx, with a file that is made once, checked and kept
    in the folder; auto takes the fastest that is installed. A file has its own runtime."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LoadConfig):
    """How pictures are segmented."""

    out: str = "predictions"
    """Folder for masks and overlays."""
    probabilities: bool = False
    """Also write the class probabilities (float16, .npz)."""
    tile: int = 0
    """Side, in pixels, of the tiles that images are cut into; 0 cuts only those above 16 megapixels,
    or larger than an exported file takes."""
    overlap: int = 128
    """Pixels by which neighbouring tiles overlap; in the middle quarter of them one fades into the other."""
    mask_video: bool = False
    """Of a video, also write the masks: a lossless grey video whose values are class indices."""
    streams: int = 0
    """Images on their way at a time on a CPU, each on an equal part of the cores; 1 gives each image all of
    them. 0 takes one per core, at most 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.streams >= 0, "streams", self.streams, "0 or more")
        require(self.tile >= 0, "tile", self.tile, "0 or more")
        side = self.tile or TILE
        require(0 <= self.overlap < side, "overlap", self.overlap, f"from 0 to below the tile's {side}")


@dataclass(frozen=True, kw_only=True)
class LabelConfig(PromptedNetworkConfig):
    """How a network's masks become a data set."""

    out: str = "labels"
    """Folder for the data set; what an earlier call with the same settings wrote there is kept."""
    confidence: float = 0.0
    """Pixels whose class has a lower probability, at the network's temperature, are void; 0 leaves none."""
    map: dict[str, str] = field(default_factory=dict)
    """Network class -> class of the masks: several onto one are added up, and those onto `ignore` are void;
    others stay."""
    flip: bool = False
    """Average the probabilities with those of the mirrored image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.confidence < 1, "confidence", self.confidence, "from 0 to below 1")

    def for_masks(self, folder: str) -> PredictConfig:
        """The settings of the prediction that writes the masks into `folder`."""
        shared = {setting.name: getattr(self, setting.name) for setting in fields(PromptedNetworkConfig)}
        return PredictConfig(out=folder, flip=self.flip, **shared)


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """How a page that segments pictures in a browser is made; only for the format web."""

    folder: bool = False
    """Write the parts beside each other into the folder `out`, for a server of static files, not one file."""
    gpu: bool = True
    """Bring the runtime for WebGPU too (9 MB of one file), used where it gives the self-test's masks."""
    runtime: str | None = None
    """Folder with the built files of onnxruntime-web; null has npm bring its package once."""
    check: bool = True
    """Run the self-test in headless Chromium; without it nobody has seen the page work."""
    same_class_int8: float = 0.9
    """Smallest fraction of the self-test's pixels that must have PyTorch's class in an int8 page."""

    def __post_init__(self) -> None:
        same = self.same_class_int8
        require(0 <= same <= 1, "web.same_class_int8", same, "a fraction from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a run becomes a file for another runtime."""

    format: Format | Literal["web"] = "onnx"
    """onnx, openvino (.xml with .bin), pt2 (torch.export), executorch (.pte, XNNPACK), litert (.tflite), ncnn
    (.ncnn.param with .ncnn.bin), coreml (.mlpackage), or web (.html): a page that segments pictures, videos
    and the camera in a browser."""
    quantize: Literal["float16", "int8"] | None = None
    """float16 halves the file and computes in float32 (onnx, web); int8 for 8-bit weights and feature maps
    (onnx, web, openvino, calibrated on images; litert, which needs none)."""
    input: Literal["image", "tensor"] = "image"
    """image: N x H x W x 3 uint8 RGB; tensor: N x 3 x H x W floats, already normalised."""
    output: Literal["logits", "mask"] = "logits"
    """logits: N x K x H x W floats; mask: N x H x W uint8 class indices."""
    side: int | None = None
    """Side, in pixels, of the square image that litert, ncnn and coreml files take; null takes the network's
    size. Smaller images are padded."""
    out: str = ""
    """The file; `model` with the format's suffix in the run folder where absent."""
    web: WebConfig = field(default_factory=WebConfig)
    """The page."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    """Images with masks on which file and network are scored; without a root the run's validation set."""
    images: int = 0
    """How many of these images, evenly spaced; 0 takes all."""
    calibration: str | None = None
    """Folder of images for int8; the run's own training images where absent."""
    calibration_images: int = 200
    """How many of these images, evenly spaced."""
    same_class: float = 0.999
    """Smallest fraction of pixels that must have PyTorch's class in a float file."""
    max_loss: float = 1.0
    """Largest loss of mean IoU that int8 may cost, in points (hundredths)."""

    def __post_init__(self) -> None:
        read_groups(self)
        require(self.images >= 0, "images", self.images, "0 or more")
        require(
            self.side is None or self.side >= LEAST_SIDE, "side", self.side, f"{LEAST_SIDE} or more, or null"
        )
        require(self.calibration_images >= 1, "calibration_images", self.calibration_images, "1 or more")
        require(0 <= self.same_class <= 1, "same_class", self.same_class, "a fraction from 0 to 1")
        require(self.max_loss >= 0, "max_loss", self.max_loss, "0 or more")
        if self.format == "web":
            require(self.input == "image", "input", self.input, "image for web: the page resizes it")
            require(self.output == "logits", "output", self.output, "logits for web: the page resizes them")
        else:
            require(self.web == WebConfig(), "web", "set", f"left alone for {self.format}: it is for web")


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """How a run becomes a repository of the Hugging Face Hub."""

    private: bool = False
    """A new repository is private."""
    license: str | None = None
    """The hub's name of the license, such as apache-2.0, cc-by-4.0 or other."""
    datasets: list[str] = field(default_factory=list)
    """The data that it was trained on, as the hub calls them, where it has them."""
    dry_run: str | None = None
    """Folder that gets what would be sent; nothing is sent."""

    def __post_init__(self) -> None:
        require(self.dry_run is None or bool(self.dry_run), "dry_run", self.dry_run, "null or a folder")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """How targets are measured side by side."""

    forms: list[str] = field(default_factory=lambda: ["eager"])
    """Of targets that PyTorch runs: eager (freed memory handed back), kept (and not), fused, compiled."""
    precisions: list[str] = field(default_factory=lambda: ["fp32"])
    """fp32 and bf16; of exported files only OpenVINO's can be run in bf16."""
    size: int | tuple[int, int] = 256
    """Side of the square image, or its height and width, in pixels."""
    batch: int = 1
    """Images per pass."""
    threads: int = 0
    """Threads of each runtime (ExecuTorch takes all cores); 0 takes PyTorch's default."""
    repeats: int = 30
    """Timed passes of each, after the warm-up."""
    warmup: int = 3
    """Passes that are not timed."""
    classes: int = 21
    """K of a network of the zoo without weights of its own."""
    provider: Provider | None = None
    """Of .onnx files: onnxruntime's cpu, cuda, tensorrt or directml; null takes cuda, else cpu."""
    device: str = "cpu"
    """cpu or cuda; exported files are run on the CPU, .onnx files by their provider."""
    device_file: str | None = None
    """FOLDER/measured.json of another machine. Until it is there, FOLDER gets the files and a script,
    measure.py, which writes it there with Python, NumPy and the runtime alone."""

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the image, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __post_init__(self) -> None:
        choices = {"eager", "kept", "fused", "compiled"}
        require(
            bool(self.forms) and {*self.forms} <= choices,
            "forms",
            self.forms,
            "of eager, kept, fused, compiled",
        )
        require(
            bool(self.precisions) and {*self.precisions} <= {"fp32", "bf16"},
            "precisions",
            self.precisions,
            "of fp32, bf16",
        )
        require(min(self.height_width) > 0, "size", self.size, "above 0")
        for name in ("batch", "repeats"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("threads", "warmup"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.classes >= 2, "classes", self.classes, "2 or more")
        require(self.device in {"cpu", "cuda"}, "device", self.device, "cpu or cuda")
        file = self.device_file
        require(file is None or PurePath(file).name == "measured.json", "device_file", file,
                "null, or a file called measured.json")  # fmt: skip
        require(file is None or len(self.precisions) == 1, "precisions", self.precisions,
                "one precision with device_file")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServeConfig(NetworkConfig):
    """How a network is served over HTTP, and which requests are refused."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine only."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    token: str | None = None
    """Clients must send `Authorization: Bearer TOKEN`; null takes SEGDISTILL_TOKEN of the environment."""
    size: int | None = None
    """Long side of the network's input in pixels; null takes its run's, else the image's up to 1024."""
    runtime: RuntimeName = "pytorch"
    """What computes a run folder: pytorch; openvino or onnx, with a file that is made once, checked and kept
    in the folder; auto takes the fastest that is installed. A file has its own runtime."""
    streams: int = 0
    """Images in the network at a time on a CPU, each on an equal part of the cores; one that is alone has all
    of them. 0 takes one per core, at most 8."""
    max_batch: int | None = None
    """Most images of one size that go through the network together; null takes 1 on a CPU, else 8."""
    max_wait_ms: float = 5.0
    """Milliseconds that an image waits for others of its size."""
    queue: int = 64
    """Requests in progress at a time; one more is answered 503, or evicts that of a slow client."""
    connections: int = 256
    """Open connections; one more replaces one that is idle, else its requests are answered 503."""
    max_bytes: int = 16 * 2**20
    """Largest body of a request in bytes; 413 above."""
    max_pixels: int = 32_000_000
    """Most pixels of an image, checked before it is decoded; 413 above."""
    max_header_bytes: int = 16 * 2**10
    """Most bytes of a request's header; 431 above."""
    timeout_s: float = 30.0
    """Seconds that a request may take: 408 where its body did not arrive in time, else 504."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.port <= 65535, "port", self.port, "from 0 to 65535")
        require(self.token is None or bool(self.token), "token", self.token, "null or not empty")
        require(self.streams >= 0, "streams", self.streams, "0 or more")
        require(self.max_batch is None or self.max_batch > 0, "max_batch", self.max_batch, "above 0, or null")
        for name in ("queue", "connections", "max_bytes", "max_pixels", "timeout_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.max_header_bytes >= 1024, "max_header_bytes", self.max_header_bytes, "1024 or more")
        require(0 <= self.max_wait_ms <= 1000, "max_wait_ms", self.max_wait_ms, "from 0 to 1000")
