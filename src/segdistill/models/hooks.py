"""Reads intermediate feature maps of a network by the name of the module that makes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class FeatureHook:
    """Keeps the newest output of one module of a network.

    Args:
        network: any module.
        layer: dotted name of the module to listen to; None takes the network's own attribute `deepest`.
        option: the setting to name in errors.

    Raises:
        ValueError: the network has no such module, or does not say which one is deepest.
    """

    def __init__(self, network: nn.Module, layer: str | None, option: str) -> None:
        name = layer or getattr(network, "deepest", None)
        modules = dict(network.named_modules())
        if not isinstance(name, str) or name not in modules:
            choices = ", ".join(n for n in modules if n and n.count(".") < 2)
            raise ValueError(f"{option} is {name!r}, but must name a module of the network: {choices}")
        self.value: Tensor | None = None
        self._hook = modules[name].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Of several outputs the last is the deepest (torchvision's dictionaries, smp's lists)."""
        if isinstance(output, Mapping):
            output = list(output.values())
        self.value = output[-1] if isinstance(output, Sequence) else output

    def take(self) -> Tensor:
        """The feature map of the newest forward pass, N x C x h x w; it is let go of."""
        value, self.value = self.value, None
        assert value is not None, "no forward pass since the last take"
        return value

    def remove(self) -> None:
        """Listen no longer."""
        self._hook.remove()
