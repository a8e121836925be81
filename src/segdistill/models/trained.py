"""A trained network with its label set and its own normalisation, from any spec of the zoo."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from segdistill.config.naming import setting
from segdistill.config.prompts import PromptConfig
from segdistill.data.labels import VOC, LabelSet, label_set
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_bilinear, scaled_size
from segdistill.models.card import CARD, WEIGHTS, read_card
from segdistill.models.exported import ExportedNetwork
from segdistill.models.huggingface import (
    OPEN_VOCABULARY,
    HuggingFaceNetwork,
    build_huggingface,
    class_names,
    load_huggingface,
    open_config,
)
from segdistill.models.open_vocabulary import OpenVocabularyNetwork, load_open_vocabulary
from segdistill.models.renormalize import Renormalize
from segdistill.models.spec import Kind, NetworkSpec, parse_architecture, parse_spec, require_trust
from segdistill.models.state_files import load_state, read_state, read_statistics
from segdistill.models.zoo import (
    MainOutput,
    TorchvisionNetwork,
    build_model,
    call_function,
    input_statistics,
    output_classes,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What each precision computes in."""


class TrainedNetwork(nn.Module):
    """A network in eval mode with the label set of its logits and the statistics of its input.

    Args:
        module: maps normalised images to logits.
        labels: what the logits are over.
        spec: where it came from.
        mean, std: of the RGB input in 0 to 1 that `module` was trained with.
        size: long side, in pixels, of the images it is meant for; None for any.

    Attributes:
        dtype: what convolutions and products compute in; a file computes as it was opened.
        output_stride: images are resized so that both sides are a multiple of it, plus 1, and logits back;
            for a network that upsamples its logits by it with align_corners=True. None resizes nothing.
        temperature: divides the logits where probabilities are made of them; those of `forward` are raw.
        concurrent: whether several threads may call it at a time; code of its own may not be made for that.
        bits: per channel, as which images of more than 8 are read; None for what their files say.
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
    ) -> None:
        super().__init__()
        self.module, self.labels, self.spec, self.size = module.eval(), labels, spec, size
        self.dtype = torch.float32
        self.output_stride: int | None = None
        self.temperature = 1.0
        self.concurrent = False
        self.bits: int | None = None
        self.renormalize = Renormalize(mean, std)
        self.mean, self.std = self.renormalize.mean, self.renormalize.std

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, ImageNet-normalised -> N x K x H x W logits."""
        if self.output_stride is None:
            return self.unresized(image)
        size = image.shape[2:]
        resized = resize_bilinear(image, scaled_size(size, output_stride=self.output_stride))
        return resize_bilinear(self.unresized(resized), size)

    def unresized(self, image: Tensor) -> Tensor:
        """As `forward`, whatever `output_stride`: the module gets the image at its own size."""
        image = self.renormalize(image)
        if self.dtype == torch.float32:
            logits = self.module(image)  # in whatever precision the caller has chosen
        else:
            with torch.autocast(image.device.type, self.dtype):
                logits = self.module(image).float()
        return resize_bilinear(logits, image.shape[2:])

    @property
    def outputs_masks(self) -> bool:
        """Whether it is an exported file that outputs class indices, and no logits or probabilities."""
        return isinstance(self.module, ExportedNetwork) and self.module.card.output == "mask"

    def require_probabilities(self) -> None:
        """Raise a `ValueError` if it is an exported file that outputs masks."""
        if self.outputs_masks:
            raise ValueError(
                f"{self.spec} outputs masks: it has no probabilities (export it with {setting('output')} "
                "logits)"
            )

    @property
    def takes_prompts(self) -> bool:
        """Whether it segments what prompts name."""
        return isinstance(self.module, OpenVocabularyNetwork)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Most images and longest side, in pixels, that an exported file takes at once; None for any."""
        return self.module.largest if isinstance(self.module, ExportedNetwork) else None

    @property
    def largest_side(self) -> int | None:
        """Longest side, in pixels, that an exported file takes; None for any."""
        return None if self.largest is None else self.largest[1]

    def long_side(self, asked: int | None) -> int | None:
        """Long side, in pixels, that images are resized to: what is asked for, else `size`; None for any."""
        return asked or self.size

    def input_size(self, asked: int | None = None) -> int | None:
        """Long side, in pixels, of the images that it is scored on: `long_side`, at most `largest_side`."""
        sides = [side for side in (self.long_side(asked), self.largest_side) if side is not None]
        return min(sides, default=None)

    def open_streams(self, streams: int) -> None:
        """Open an exported file for as many passes at a time; else the first of them would.

        Raises:
            ValueError: its runtime cannot open it once more.
        """
        if isinstance(self.module, ExportedNetwork):
            self.module.open_streams(streams)

    @property
    def side(self) -> int | None:
        """Side, in pixels, of the one image that an exported file takes; None for free sizes."""
        return self.module.card.side if isinstance(self.module, ExportedNetwork) else None

    def fingerprint(self) -> str:
        """SHA-256 over spec, normalisation and every weight: equal networks, equal fingerprints."""
        digest = hashlib.sha256(json.dumps([self.spec, self.mean, self.std]).encode())
        if isinstance(self.module, ExportedNetwork):
            for content in self.module.content:
                digest.update(content)
        update_with_weights(digest, self.module)
        return digest.hexdigest()


def update_with_weights(digest: "hashlib._Hash", module: nn.Module) -> None:
    """Add every tensor of a module, with its name, to a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a trained network is loaded.

    Attributes:
        weights: a .safetensors or .pth state dict to load instead of the network's own.
        labels: its label set where the network names no classes. Without it, VOC's is taken for 21 logits.
        precision: what it computes in: fp32, bf16 or fp16; exported files in what their format allows.
        output_stride: see `TrainedNetwork`; None takes what the network declares.
        prompts: what an open-vocabulary network is to segment.
        provider: what of onnxruntime computes an .onnx file, see `OnnxSession`; None for other networks.
        isolated: a file whose runtime is not installed is run in an environment of its own, see `RunOptions`.
    """

    weights: Path | None = None
    labels: LabelSet | None = None
    precision: str = "fp32"
    output_stride: int | None = None
    prompts: PromptConfig = field(default_factory=PromptConfig)
    provider: str | None = None
    isolated: bool = False


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A module with its weights, and what its source declares of it; None where it declares nothing.

    Attributes:
        module: maps normalised images to logits.
        labels: a label set, its description, or class names.
        mean, std: of the RGB input in 0 to 1.
        size: long side, in pixels, of the images it is meant for.
        output_stride: see `TrainedNetwork`.
        temperature: of its probabilities.
        concurrent, bits: see `TrainedNetwork`.
    """

    module: nn.Module
    labels: LabelSet | Mapping[str, Any] | list[str] | tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    output_stride: int | None = None
    temperature: float = 1.0
    concurrent: bool = True
    bits: int | None = None


def load_network(spec: str, options: LoadOptions | None = None) -> TrainedNetwork:
    """A trained network, in eval mode.

    Args:
        spec: a run folder, an exported file, a torchvision name (whose published weights torchvision
            downloads and checks), a function that returns a trained network, or any other spec together with
            `weights`.
        options: weights, precision, ...

    Label set, normalisation and output stride come from the run folder, from torchvision's or the file's
    metadata, or from attributes `labels` (class names or a label set), `mean`, `std` and `output_stride` of a
    function's module.

    Raises:
        ValueError: the spec names nothing, the weights do not fit, the classes are unknown, or a file cannot
            be run in this precision or by this provider.
        FileNotFoundError: a file does not exist.
    """
    options = options or LoadOptions()
    parsed = parse_spec(spec)
    if options.provider is not None and parsed.kind != "file":
        raise ValueError(
            f"{spec} is run by PyTorch, but {setting('provider')} is for .onnx files: leave it out"
        )
    loaded = LOADERS.get(parsed.kind, _load_with_weights)(parsed, options)
    network = TrainedNetwork(
        loaded.module,
        _label_set(loaded, spec, options.labels),
        parsed.text,
        mean=loaded.mean or IMAGENET_MEAN,
        std=loaded.std or IMAGENET_STD,
        size=loaded.size,
    )
    network.output_stride = options.output_stride or loaded.output_stride
    network.temperature, network.concurrent, network.bits = loaded.temperature, loaded.concurrent, loaded.bits
    if parsed.kind != "file":
        network.dtype = DTYPES[options.precision]
    return network.eval()


def require_prompted(networks: Sequence[TrainedNetwork], config: PromptConfig) -> None:
    """Raise a `ValueError` for prompts that none of the networks takes."""
    if config.prompts and not any(network.takes_prompts for network in networks):
        specs = ", ".join(network.spec for network in networks)
        raise ValueError(f"prompts are for open-vocabulary networks (hf: CLIPSeg), not for {specs}")


def _load_run(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """The student of a run folder."""
    assert spec.path is not None
    card = read_card(spec.path)
    require_trust(card.spec, spec.path / CARD)
    module = build_model(card, len(card.labels))
    load_state(module, options.weights or spec.path / WEIGHTS)
    return Loaded(
        module=module,
        labels=card.labels,
        mean=card.mean,
        std=card.std,
        size=card.evaluate_size,
        temperature=1.0 if options.weights else card.temperature,  # which is that of the run's own weights
        concurrent=not parse_architecture(card.spec).is_code,
        bits=card.bits,
    )


def _load_file(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """An exported file, in its own runtime."""
    assert spec.path is not None
    module = ExportedNetwork(
        spec.path, precision=options.precision, provider=options.provider, isolated=options.isolated
    )
    card = module.card
    return Loaded(
        module=module,
        labels=card.labels,
        mean=card.mean,
        std=card.std,
        size=card.input_size,
        output_stride=card.output_stride,
        temperature=card.temperature,
        concurrent=module.concurrent,
        bits=card.bits,
    )


def _load_torchvision(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """A torchvision network and its class names, with published weights or those of a file."""
    import torchvision  # not above: it takes seconds

    name = spec.architecture
    published = torchvision.models.get_model_weights(name).DEFAULT
    if options.weights:
        state = read_state(options.weights)
    else:
        try:
            state = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
        except (URLError, OSError) as error:
            raise ValueError(
                f"the weights of {name} could not be downloaded ({error}). Download {published.url} "
                f"elsewhere and copy it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
            ) from None
    categories = published.meta["categories"]
    module = TorchvisionNetwork(
        name, len(categories), auxiliary=any("aux_classifier" in key for key in state)
    )
    load_state(module.inner, options.weights or Path(published.url), state)
    return Loaded(module=module, labels=categories)


def _load_hf(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """A network of Hugging Face, with the names of its classes or those of the prompts."""
    source = spec.architecture
    config = open_config(source)
    module: HuggingFaceNetwork | OpenVocabularyNetwork
    names: list[str] | None
    if config.model_type == OPEN_VOCABULARY:
        module = load_open_vocabulary(source, config, options.prompts)
        names = module.names
    else:
        names = class_names(config)
        module = build_huggingface(source, None) if options.weights else load_huggingface(source, config)
    if options.weights:
        load_state(module.model, options.weights)
    form = module.form
    return Loaded(module=module, labels=names, mean=form.mean, std=form.std, size=form.long_side)


def _load_function(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """What a function returns, with its attributes `labels`, `mean`, `std` and `output_stride`."""
    module = call_function(spec, len(options.labels) if options.labels else None)
    inner = module.inner if isinstance(module, MainOutput) else module
    if options.weights:
        load_state(inner, options.weights)
    labels = getattr(inner, "labels", None)  # of another type they are something of the module's own
    labels = labels if isinstance(labels, list | tuple | LabelSet) else None
    mean, std = input_statistics(module)
    stride = getattr(inner, "output_stride", None)
    stride = stride if isinstance(stride, int) and stride > 0 else None
    return Loaded(module=module, labels=labels, mean=mean, std=std, output_stride=stride, concurrent=False)


def _load_with_weights(spec: NetworkSpec, options: LoadOptions) -> Loaded:
    """A network of the zoo that nobody publishes weights for, with those of a file."""
    if not options.weights:
        raise ValueError(
            f"{spec.text} has no published weights: name a run folder, or a state dict with its weights"
        )
    module = build_model(spec.text, len(options.labels or VOC))
    load_state(module, options.weights)
    mean, std = input_statistics(module)
    own_mean, own_std = read_statistics(options.weights)
    return Loaded(module=module, mean=own_mean or mean, std=own_std or std)


LOADERS: dict[Kind, Callable[[NetworkSpec, LoadOptions], Loaded]] = {
    "run": _load_run,
    "file": _load_file,
    "torchvision": _load_torchvision,
    "hf": _load_hf,
    "function": _load_function,
}
"""What loads each kind of spec; any other kind is built, and loads a state dict that is named beside it."""


def _label_set(loaded: Loaded, spec: str, given: LabelSet | None) -> LabelSet:
    """The label set of a network: the one it declares, else the given one, else VOC's. It must fit."""
    outputs = output_classes(loaded.module, spec)
    declared = loaded.labels
    if isinstance(declared, LabelSet):
        labels = declared
    elif declared:
        description = declared if isinstance(declared, Mapping) else {"names": list(declared)}
        labels = label_set(description, spec)
    elif given is not None:
        labels = given
    elif outputs == len(VOC):
        labels = VOC
    else:
        raise ValueError(
            f"network {spec!r} names no classes for its {outputs} logits; set {setting('teacher.labels')}"
        )
    if outputs != len(labels):
        raise ValueError(f"network {spec!r} gives {outputs} logits per pixel for {len(labels)} classes")
    return labels
