"""Turns DeepLabV3-MobileNetV2 with folded batch norms into weights for the same network of the zoo.

    python benchmarks/voc_student.py deeplabv3_mobilenetv2_voc.safetensors --out voc_student.safetensors
    segdistill train --student timm:mobilenetv2_100 --student.decoder deeplab \
        --student.weights voc_student.safetensors --student.norm_eval true ...

So a student can start from the weights of such a teacher, and needs no code of its own afterwards. Batch
norms become the identity but for the bias; their statistics mean nothing, hence `norm_eval`. A run folder's
model.safetensors is taken too, where its network has the same tensors.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segdistill.config.architecture import Architecture
from segdistill.models.zoo import build_model

STATISTICS = {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
"""Of the RGB input in 0 to 1: the network was trained on values from -1 to 1."""


def ordered(state: dict[str, Tensor]) -> list[Tensor]:
    """Weights and biases in the order of the network; a file has them in the order of their names."""
    parts = ("stem", "blocks", "image_pooling", "aspp", "project", "classifier")

    def position(name: str) -> tuple[object, ...]:
        names = [part for part in name.split(".") if part != "inner"]
        numbers = [int(part) for part in names if part.isdigit()]
        return parts.index(names[0]), numbers, names[-1] == "bias"

    return [
        state[name] for name in sorted((n for n in state if n.endswith(("weight", "bias"))), key=position)
    ]


@torch.no_grad()
def unfold(network: nn.Module, tensors: list[Tensor]) -> None:
    """Give a network with batch norms the weights of one whose batch norms are folded."""
    given = iter(tensors)
    bias: Tensor | None = None
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert bias is None, "a convolution has neither a bias nor a batch norm"
            module.weight.copy_(next(given))
            bias = next(given)
            if module.bias is not None:
                module.bias.copy_(bias)
                bias = None
        elif isinstance(module, nn.BatchNorm2d):
            assert bias is not None
            module.running_mean.zero_()
            module.running_var.fill_(1)
            module.weight.fill_((1 + module.eps) ** 0.5)
            module.bias.copy_(bias)
            bias = None
    assert next(given, None) is None, "tensors are left"


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="a .safetensors file of the network with folded norms")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tensors = ordered(load_file(options.weights))
    network = build_model(Architecture(spec="timm:mobilenetv2_100", decoder="deeplab"), len(tensors[-1]))
    unfold(network, tensors)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), options.out, STATISTICS)


if __name__ == "__main__":
    main()
