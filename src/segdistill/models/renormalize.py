"""From ImageNet's statistics, with which batches are normalised, to those of a network."""

import torch
from torch import Tensor, nn

from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD


class Renormalize(nn.Module):
    """ImageNet-normalised images -> images normalised with other statistics; unchanged where they are alike.

    Args:
        mean, std: of RGB in 0 to 1.
    """

    gain: Tensor
    offset: Tensor

    def __init__(
        self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        # x is (rgb - imagenet_mean) / imagenet_std, wanted is (rgb - mean) / std = x * gain + offset.
        gain = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        offset = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("gain", gain.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.view(1, 3, 1, 1), persistent=False)
        self.changes = (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W."""
        return image * self.gain + self.offset if self.changes else image
