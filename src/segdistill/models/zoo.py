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
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

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
        num_classes: K.
        auxiliary: with an auxiliary classifier, as published weights have it; they load in no other network.
    """

    def __init__(self, name: str, num_classes: int, *, auxiliary: bool = False) -> None:
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

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        # OpenVINO converts no remainders of sizes, and its division rounds negative numbers upwards.
        more = self.multiple - 1
        right, below = ((side + more) // self.multiple * self.multiple - side for side in (width, height))
        return self.inner(F.pad(image, (0, right, 0, below))).narrow(2, 0, height).narrow(3, 0, width)


def build_model(spec: str, num_classes: int, *, width: float = 1.0) -> nn.Module:
    """A network of the zoo with fresh weights.

    Args:
        spec: a built-in name, `smp:ARCHITECTURE/ENCODER` (segmentation_models.pytorch),
            `path/to/file.py:function` or `package.module:function`. The function is called with
            `num_classes` where it takes such an argument, and runs with this process's rights.
        num_classes: K.
        width: multiplies the channels of dsunet.

    Returns:
        A module from N x 3 x H x W ImageNet-normalised images to N x K x H x W logits.

    Raises:
        ValueError: the spec is unknown, or the network takes no `width`.
        FileNotFoundError: the file of a function does not exist.
    """
    parsed = parse_architecture(spec)
    if parsed.kind == "builtin":
        return DSUNet(num_classes, width)
    if width != 1.0:
        raise ValueError(f"width is {width}, but only dsunet can be made wider or narrower, not {spec}")
    return BUILDERS[parsed.kind](parsed, num_classes)


def _build_torchvision(spec: NetworkSpec, num_classes: int) -> nn.Module:
    return TorchvisionNetwork(spec.architecture, num_classes)


def _build_smp(spec: NetworkSpec, num_classes: int) -> nn.Module:
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
    return PaddedNetwork(inner)


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


BUILDERS: dict[Kind, Callable[[NetworkSpec, int], nn.Module]] = {
    "torchvision": _build_torchvision,
    "smp": _build_smp,
    "function": call_function,
}
"""What builds each kind of spec with fresh weights; the built-in dsunet takes a width too."""


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
