"""The teacher: a frozen network with logits over the student's classes, at the student's size."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.data.labels import LabelMap, LabelSet
from segdistill.models.trained import TrainedNetwork


class Teacher(nn.Module):
    """A frozen network: always in eval mode, without gradients, so two passes over a batch are identical.

    Args:
        network: the trained network.
        labels: the student's label set, onto which the network's is mapped by name.
        rename: network class -> student class, for names that differ.
        scale: upsampling of the student's crop before the network gets it.

    Raises:
        ValueError: the label sets do not map.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        labels: LabelSet,
        *,
        rename: Mapping[str, str] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.to_student = LabelMap(network.labels, labels, rename)
        self.scale = scale
        self.classes = len(labels)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Does nothing but keep eval mode: a teacher never trains."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def unscaled(self, image: Tensor) -> Tensor:
        """As `forward`, without the upsampling by `scale`: the image is at the network's own size already."""
        return self.to_student(self.network(image))

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, ImageNet-normalised -> N x K x H x W logits over the student's classes."""
        size = image.shape[2:]
        if self.scale != 1:
            scaled = [max(1, round(side * self.scale)) for side in size]
            image = F.interpolate(image, size=scaled, mode="bilinear", align_corners=False)
        logits = self.unscaled(image)
        if self.scale != 1:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits

    def fingerprint(self) -> str:
        """Equal for teachers of equal logits: the network's fingerprint, and where its classes go."""
        mapped = json.dumps([self.network.fingerprint(), self.to_student.sources])
        return hashlib.sha256(mapped.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a model card records of its student's teacher."""
        return {"spec": self.network.spec, "scale": self.scale, "fingerprint": self.network.fingerprint()}
