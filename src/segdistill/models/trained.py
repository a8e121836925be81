"""A trained network with its label set and its own normalisation, from any spec of the zoo."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from segdistill.data.labels import VOC, LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.files import refuse_bomb
from segdistill.models.card import CARD, WEIGHTS, is_run, read_card, read_weights
from segdistill.models.exported import FORMATS, ExportedNetwork, first_line
from segdistill.models.zoo import (
    TORCHVISION,
    TorchvisionNetwork,
    build_model,
    call_function,
    output_classes,
    require_trust,
    unknown,
)

KNOWN = ("labels", "mean", "std")
"""What a network may say of itself: class names (or a label set), and its input's statistics."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What each precision computes in."""


class TrainedNetwork(nn.Module):
    """A network in eval mode that knows what its logits mean and what input it wants.

    Args:
        module: maps normalised images to logits.
        labels: what the logits are over; None takes the module's own, see `load_network`.
        spec: where it came from.
        mean, std: of the RGB input in 0 to 1 that `module` was trained with.
        size: long side, in pixels, of the images it is meant to see; None for any.
        dtype: what convolutions and products compute in; a file computes as it was opened.
    """

    def __init__(
        self,
        module: nn.Module,
        labels: LabelSet,
        spec: str,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        size: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.module, self.labels, self.spec, self.size = module.eval(), labels, spec, size
        self.dtype = dtype
        self.mean, self.std = tuple(mean), tuple(std)
        # x is (rgb - imagenet_mean) / imagenet_std; the module wants (rgb - mean) / std = x * gain + offset.
        gain = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        offset = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("gain", gain.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.view(1, 3, 1, 1), persistent=False)
        self.renormalises = (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, ImageNet-normalised -> N x K x H x W logits."""
        if self.renormalises:
            image = image * cast(Tensor, self.gain) + cast(Tensor, self.offset)
        if self.dtype == torch.float32:
            logits = self.module(image)  # in whatever precision the caller has chosen
        else:
            with torch.autocast(image.device.type, self.dtype):
                logits = self.module(image).float()
        if logits.shape[2:] != image.shape[2:]:
            logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
        return logits

    @property
    def answers_masks(self) -> bool:
        """Whether it is an exported file that knows the class of a pixel, and no logits or probabilities."""
        return isinstance(self.module, ExportedNetwork) and self.module.card.output == "mask"

    @property
    def largest(self) -> tuple[int, int] | None:
        """Most images and longest side, in pixels, that an exported file takes at once; None for any."""
        return self.module.largest if isinstance(self.module, ExportedNetwork) else None

    @property
    def largest_side(self) -> int | None:
        """Longest side, in pixels, that an exported file takes; None for any."""
        return None if self.largest is None else self.largest[1]

    def fingerprint(self) -> str:
        """SHA-256 over spec, normalisation and every weight: equal networks, equal fingerprints."""
        digest = hashlib.sha256(json.dumps([self.spec, self.mean, self.std]).encode())
        if isinstance(self.module, ExportedNetwork):
            for content in self.module.content:
                digest.update(content)
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load_network(
    spec: str,
    *,
    weights: str | Path | None = None,
    labels: LabelSet | None = None,
    precision: str = "fp32",
) -> TrainedNetwork:
    """A trained network of the zoo, in eval mode.

    Args:
        spec: a run folder, an exported file (.onnx, .xml, .pt2, .pte), a torchvision name (whose published
            weights torchvision downloads and checks), a function that returns a trained network, or any other
            spec together with `weights`.
        weights: a .safetensors or .pth state dict to load instead.
        labels: its label set where the network names no classes. Without it, VOC's is taken for 21 logits.
        precision: what it computes in: fp32, bf16 or fp16; OpenVINO's files fp32 or bf16, other files fp32.

    Label set and normalisation come from the run folder, from torchvision's or the file's metadata, or
    from attributes `labels` (class names or a label set), `mean` and `std` of a function's module.

    Raises:
        ValueError: the spec names nothing, the weights do not fit, the classes are unknown, or a file cannot
            be run in this precision.
        FileNotFoundError: a file does not exist.
    """
    dtype = DTYPES[precision]
    known: Mapping[str, Any] = {}
    size = None
    if is_run(spec):
        card = read_card(Path(spec))
        require_trust(card.spec, Path(spec) / CARD)
        module = build_model(card.spec, len(card.labels), width=card.width)
        load_state(module, Path(weights) if weights else Path(spec) / WEIGHTS)
        known = {"labels": card.labels, "mean": card.mean, "std": card.std}
        size = card.evaluate_size
    elif Path(spec).suffix in FORMATS:
        module = ExportedNetwork(Path(spec), precision=precision)
        dtype = torch.float32
        said, size = module.card, module.card.size
        known = {"labels": said.labels, "mean": said.mean, "std": said.std}
    elif spec in TORCHVISION:
        module, categories = _torchvision(spec, weights)
        known = {"labels": categories}
    elif ":" in spec and not spec.startswith("smp:"):
        module = call_function(spec, len(labels) if labels else None)
        own = {key: getattr(module, key, None) for key in KNOWN}
        known = {key: value for key, value in own.items() if isinstance(value, list | tuple | LabelSet)}
        if weights:
            load_state(module, Path(weights))
    elif Path(spec).is_dir():
        read_card(Path(spec))  # raises: the folder holds no model
        raise AssertionError
    else:
        module = _built_in(spec, weights, labels)
    classes = _classes(module.eval(), spec, known.get("labels"), labels)
    statistics = {key: tuple(map(float, known[key])) for key in ("mean", "std") if key in known}
    return TrainedNetwork(module, classes, spec, size=size, dtype=dtype, **statistics).eval()


def _classes(module: nn.Module, spec: str, named: Any, given: LabelSet | None) -> LabelSet:
    """The label set of a network: the one it names, else the given one, else VOC's. It must fit."""
    outputs = output_classes(module, spec)
    if isinstance(named, LabelSet):
        labels = named
    elif named:
        labels = label_set(named if isinstance(named, Mapping) else {"names": list(named)}, spec)
    elif given is not None:
        labels = given
    elif outputs == len(VOC):
        labels = VOC
    else:
        raise ValueError(f"network {spec!r} names no classes for its {outputs} logits; set --teacher.labels")
    if outputs != len(labels):
        raise ValueError(f"network {spec!r} gives {outputs} logits per pixel for {len(labels)} classes")
    return labels


def _torchvision(name: str, weights: str | Path | None) -> tuple[nn.Module, list[str]]:
    """A torchvision network and its class names, with published weights or those of a file."""
    published = torchvision.models.get_model_weights(name).DEFAULT
    if weights:
        state = read_state(Path(weights))
    else:
        try:
            state = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
        except (URLError, OSError) as error:
            raise ValueError(
                f"the weights of {name} could not be downloaded ({error}). Download {published.url} "
                "elsewhere and pass the file with --teacher.weights FILE"
            ) from None
    module = TorchvisionNetwork(
        name, len(published.meta["categories"]), auxiliary=any("aux_classifier" in key for key in state)
    )
    load_state(module.inner, Path(weights or published.url), state)
    return module, published.meta["categories"]


def _built_in(spec: str, weights: str | Path | None, labels: LabelSet | None) -> nn.Module:
    """A network of the zoo that nobody publishes weights for, with those of a file."""
    if spec != "dsunet" and not spec.startswith("smp:"):
        raise unknown(spec)
    if not weights:
        raise ValueError(
            f"{spec} has no published weights: name a run folder, or a state dict with its weights"
        )
    module = build_model(spec, len(labels or VOC))
    load_state(module, Path(weights))
    return module


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


def load_state(module: nn.Module, path: Path, state: dict[str, Tensor] | None = None) -> None:
    """Load a state dict that was read from `path`, or is read now; a `ValueError` where it does not fit."""
    try:
        module.load_state_dict(read_state(path) if state is None else state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights of {path} do not fit the network: {reason}") from None
