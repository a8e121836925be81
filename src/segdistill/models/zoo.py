"""Names networks: a spec string becomes an `nn.Module` from N x 3 x H x W images to N x K x H x W logits."""

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from segdistill.models.student import DSUNet


class TorchvisionNetwork(nn.Module):
    """A torchvision segmentation network; of its dictionary of outputs the main logits."""

    deepest = "inner.backbone"

    def __init__(self, name: str, num_classes: int, *, auxiliary: bool = False) -> None:
        super().__init__()
        # Published weights carry an auxiliary classifier, which a state dict can only be loaded with.
        more = {"aux_loss": True} if auxiliary and not name.startswith("lraspp") else {}
        self.inner = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=num_classes, **more
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)["out"]


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


TORCHVISION = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
BUILT_IN: tuple[str, ...] = ("dsunet", *TORCHVISION)
FORMS = (
    f"a built-in ({', '.join(BUILT_IN)}), smp:ARCHITECTURE/ENCODER, path/to/file.py:function, "
    "package.module:function, an exported file (.onnx, .xml, .pt2, .pte), or a run folder"
)


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
    if spec == "dsunet":
        return DSUNet(num_classes, width)
    if spec not in TORCHVISION and ":" not in spec:
        raise unknown(spec)
    if width != 1.0:
        raise ValueError(f"width is {width}, but only dsunet can be made wider or narrower, not {spec}")
    if spec in TORCHVISION:
        return TorchvisionNetwork(spec, num_classes)
    if spec.startswith("smp:"):
        return _smp(spec, num_classes)
    return call_function(spec, num_classes)


def unknown(spec: str) -> ValueError:
    """The error for a spec that names nothing, with the nearest name that does."""
    near = difflib.get_close_matches(spec, BUILT_IN, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return ValueError(f"there is no network {spec!r}{hint} A network is {FORMS}")


def load_function(spec: str) -> Callable[..., Any]:
    """The function of `path/to/file.py:function` or `package.module:function`; importing runs its code."""
    source, _, name = spec.rpartition(":")
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist (network {spec!r})")
        module_spec = importlib.util.spec_from_file_location(f"segdistill_network_{path.stem}", path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[module_spec.name] = module
        module_spec.loader.exec_module(module)
    elif not source or source.startswith("."):
        raise unknown(spec)
    else:
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"network {spec!r}: {error}. A network is {FORMS}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"network {spec!r}: {source} has no function {name!r}")
    return function


def require_trust(spec: str, source: Path) -> None:
    """Refuse to run code only because a file names it, whoever made that file.

    Args:
        spec: of a network, as `source` names it.
        source: a model.json or config.yaml, which may be a stranger's.

    Raises:
        ValueError: the spec names a function which nobody named in this process, and the environment variable
            `SEGDISTILL_TRUST` is not 1.
    """
    code = ":" in spec and not spec.startswith("smp:")
    if code and spec not in _named and os.environ.get("SEGDISTILL_TRUST") != "1":
        raise ValueError(
            f"{source} names the network {spec!r}, whose code would run with your rights: if you trust it, "
            "set the environment variable SEGDISTILL_TRUST=1"
        )


_named: set[str] = set()
"""Specs of functions that were called in this process: somebody named them."""


def call_function(spec: str, num_classes: int | None) -> nn.Module:
    """The network that the function of a spec returns; it is told K where it takes `num_classes`."""
    function = load_function(spec)
    _named.add(spec)
    takes_classes = num_classes is not None and "num_classes" in inspect.signature(function).parameters
    module = function(num_classes=num_classes) if takes_classes else function()
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"network {spec!r}: the function returned a {type(module).__name__}, not an nn.Module"
        )
    return module


def _smp(spec: str, num_classes: int) -> nn.Module:
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ModuleNotFoundError:
        raise ValueError(f"{spec} needs segmentation-models-pytorch: install segdistill[zoo]") from None
    architecture, _, encoder = spec.removeprefix("smp:").partition("/")
    try:
        inner = smp.create_model(
            architecture, encoder or "resnet34", encoder_weights=None, classes=num_classes
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"there is no network {spec!r}: {error.args[0]}") from None
    return PaddedNetwork(inner)


def output_classes(network: nn.Module, spec: str, *, device: torch.device | None = None) -> int:
    """K of a network, found by showing it one grey 64 x 64 image; the mode it was in is restored.

    Raises:
        ValueError: it does not turn images into N x K x H x W logits.
    """
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, 64, 64, device=device))
    finally:
        network.train(training)
    if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != 1:
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"network {spec!r} answers a 1x3x64x64 image with {kind}, not with 1xKxHxW logits")
    return logits.shape[1]
