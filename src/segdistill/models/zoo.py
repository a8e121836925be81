"""The zoo: spec strings become modules from N x 3 x H x W images to N x K x H x W logits.

N: images, K: classes, H, W: rows and columns.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config.architecture import Architecture
from segdistill.models.card import ModelCard
from segdistill.models.grid import pad_to_multiple
from segdistill.models.huggingface import build_huggingface
from segdistill.models.recorded import rebuild
from segdistill.models.spec import CHOICES, Kind, NetworkSpec, parse_architecture, remember_call
from segdistill.models.student import DSUNet

PROBE_SIDE = 64
"""Side, in pixels, of the image that a network is probed with."""


class MainOutput(nn.Module):
    """A network that outputs a dictionary; of it the logits, which are its entry `out` or `logits`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        deepest = getattr(inner, "deepest", None)
        self.deepest = None if deepest is None else f"inner.{deepest}"

    def forward(self, image: Tensor) -> Tensor:
        output = self.inner(image)
        return output["out"] if "out" in output else output["logits"]


class TorchvisionNetwork(MainOutput):
    """A torchvision segmentation network, with random weights.

    Args:
        name: torchvision's.
        num_classes: K, the number of classes.
        auxiliary: with an auxiliary classifier, as published weights have it; they load in no other network.
    """

    def __init__(self, name: str, num_classes: int, *, auxiliary: bool = False) -> None:
        import torchvision  # not above: it takes seconds

        options = {"aux_loss": True} if auxiliary and not name.startswith("lraspp") else {}
        inner = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=num_classes, **options
        )
        super().__init__(inner)
        self.deepest = "inner.backbone"


class PaddedNetwork(nn.Module):
    """A network that needs sides divisible by `multiple`: pads right and below, and cuts the logits back."""

    deepest = "inner.encoder"

    def __init__(self, inner: nn.Module, multiple: int = 32) -> None:
        super().__init__()
        self.inner, self.multiple = inner, multiple
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        logits = self.inner(pad_to_multiple(image, self.multiple))
        return logits.narrow(2, 0, height).narrow(3, 0, width)


def build_model(network: Architecture | str, num_classes: int) -> nn.Module:
    """A network of the zoo with fresh weights.

    Args:
        network: the architecture, or its spec alone: a built-in name, `timm:ENCODER`,
            `smp:ARCHITECTURE/ENCODER` (segmentation_models.pytorch), `hf:ORG/NAME` or `hf:FOLDER`
            (transformers), `path/to/file.py:function` or `package.module:function`. The function is called
            with `num_classes` where it takes such an argument, and runs with this process's rights.
        num_classes: K, the number of classes.

    Returns:
        A module from N x 3 x H x W images to N x K x H x W logits. Images are normalised with its `mean` and
        `std` where it has these attributes, else with ImageNet's.

    Raises:
        ValueError: the spec is unknown, or the network does not take the other settings.
        FileNotFoundError: the file of a function does not exist.
    """
    architecture = Architecture(spec=network) if isinstance(network, str) else network
    spec = parse_architecture(architecture.spec)
    _refuse_unused(architecture, spec)
    return BUILDERS[spec.kind](spec, architecture, num_classes)


def _refuse_unused(architecture: Architecture, spec: NetworkSpec) -> None:
    """Raise a `ValueError` for a setting that this kind of network does not take."""
    owners = {"width": "builtin", "stride": "builtin", "decoder": "timm", "channels": "timm"}
    names = {"builtin": "dsunet", "timm": "timm:ENCODER"}
    for name, kind in owners.items():
        value = getattr(architecture, name)
        if kind != spec.kind and value != getattr(Architecture(), name):
            raise ValueError(f"{name} is {value}, but only {names[kind]} takes one, not {spec.text}")


def _build_dsunet(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    del spec
    return DSUNet(num_classes, architecture.width, stride=architecture.stride)


def _build_torchvision(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    del architecture
    return TorchvisionNetwork(spec.architecture, num_classes)


def _build_timm(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    from segdistill.models.timm_encoder import build_timm  # not above: torchvision comes with it

    return build_timm(spec.encoder, num_classes, architecture.decoder, architecture.channels)


def _build_function(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    del architecture
    return call_function(spec, num_classes)


def _build_smp(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    del architecture
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ModuleNotFoundError:
        raise ValueError(f"{spec.text} needs segmentation-models-pytorch: install segdistill[zoo]") from None
    try:
        inner = smp.create_model(
            spec.architecture, spec.encoder or "resnet34", encoder_weights=None, classes=num_classes
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"there is no network {spec.text!r}: {error.args[0]}") from None
    network = PaddedNetwork(inner)
    network.mean, network.std = _timm_statistics(spec.encoder)
    return network


def _timm_statistics(encoder: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of the weights of `tu-NAME` and `timm-NAME`, which smp takes from timm; None of others."""
    prefix, _, name = encoder.partition("-")
    if prefix not in {"tu", "timm"}:
        return None, None
    import timm  # not above: torchvision comes with it

    config = timm.get_pretrained_cfg(name)
    return (None, None) if config is None else (tuple(config.mean), tuple(config.std))


def _build_hf(spec: NetworkSpec, architecture: Architecture, num_classes: int) -> nn.Module:
    if isinstance(architecture, ModelCard) and architecture.huggingface is not None:
        return rebuild(architecture.huggingface, num_classes)
    return build_huggingface(spec.architecture, num_classes)


def call_function(spec: NetworkSpec, num_classes: int | None) -> nn.Module:
    """The network that the function of a spec returns, called with K where it takes `num_classes`.

    Raises:
        ValueError: there is no such function, or it returns something else.
        FileNotFoundError: its file does not exist.
    """
    function = load_function(spec)
    remember_call(spec)
    takes_classes = num_classes is not None and "num_classes" in inspect.signature(function).parameters
    module = function(num_classes=num_classes) if takes_classes else function()
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"network {spec.text!r}: the function returned a {type(module).__name__}, not an nn.Module"
        )
    output = probe(module)
    named = isinstance(output, Mapping) and not {"out", "logits"}.isdisjoint(output)
    return MainOutput(module) if named else module


BUILDERS: dict[Kind, Callable[[NetworkSpec, Architecture, int], nn.Module]] = {
    "builtin": _build_dsunet,
    "torchvision": _build_torchvision,
    "timm": _build_timm,
    "smp": _build_smp,
    "hf": _build_hf,
    "function": _build_function,
}
"""What builds each kind of spec with fresh weights."""


def load_function(spec: NetworkSpec) -> Callable[..., Any]:
    """The function of `path/to/file.py:function` or `package.module:function`; importing runs its code."""
    module = _load_module(spec)
    function = getattr(module, spec.function, None)
    if not callable(function):
        source = spec.path or spec.module
        raise ValueError(f"network {spec.text!r}: {source} has no function {spec.function!r}")
    return function


def _load_module(spec: NetworkSpec) -> ModuleType:
    path = spec.path
    if path is None:
        try:
            return importlib.import_module(spec.module)
        except ModuleNotFoundError as error:
            raise ValueError(f"network {spec.text!r}: {error}. {CHOICES}") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist (network {spec.text!r})")
    module_spec = importlib.util.spec_from_file_location(f"segdistill_network_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    return module


def input_statistics(network: nn.Module) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of the RGB input in 0 to 1 that a network declares as attributes, or None each."""
    inner = network.inner if isinstance(network, MainOutput) else network
    mean, std = (
        tuple(map(float, values)) if isinstance(values, list | tuple) else None
        for values in (getattr(inner, "mean", None), getattr(inner, "std", None))
    )
    return mean, std


@torch.no_grad()
def probe(network: nn.Module) -> Any:
    """What a network outputs for one black 64 x 64 image on its own device; all modes are restored."""
    tensor = next(chain(network.parameters(), network.buffers()), None)
    image = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=None if tensor is None else tensor.device)
    modes = [(module, module.training) for module in network.modules()]
    try:
        return network.eval()(image)
    finally:
        for module, training in modes:
            module.training = training


def output_classes(network: nn.Module, spec: str) -> int:
    """K of a network, found by a forward pass of one small image.

    Raises:
        ValueError: it does not turn images into N x K x H x W logits.
    """
    logits = probe(network)
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != 1:
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"network {spec!r} turns a 1x3x64x64 image into {kind}, not into 1xKxHxW logits")
    return logits.shape[1]
