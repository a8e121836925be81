"""Intermediate feature maps of a network, by the name of the module whose output they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class FeatureHook:
    """Holds the newest output of one module of a network.

    Args:
        network: any module.
        layer: dotted name of the module; None takes the network's own attribute `deepest`.
        option: the setting to name in errors.

    Raises:
        ValueError: the network has no such module, or has no attribute `deepest` where no layer is named.
    """

    def __init__(self, network: nn.Module, layer: str | None, option: str) -> None:
        name = layer or getattr(network, "deepest", None)
        modules = dict(network.named_modules())
        if not isinstance(name, str) or name not in modules:
            choices = ", ".join(n for n in modules if n and n.count(".") < 2)
            raise ValueError(f"{option} is {name!r}, but must name a module of the network: {choices}")
        self.value: Tensor | None = None
        self._handle = modules[name].register_forward_hook(self._store)

    def _store(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Of several outputs the last is the deepest (torchvision's dictionaries, smp's lists)."""
        if isinstance(output, Mapping):
            output = list(output.values())
        self.value = output[-1] if isinstance(output, Sequence) else output

    def pop(self) -> Tensor:
        """The feature map of the newest forward pass, N x C x h x w; the hook no longer holds it."""
        value, self.value = self.value, None
        assert value is not None, "no forward pass since the last pop"
        return value

    def remove(self) -> None:
        """Take the hook off the network."""
        self._handle.remove()
