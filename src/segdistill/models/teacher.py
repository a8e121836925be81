"""The teacher: frozen networks with logits over the student's classes, at the student's size.

N: images, K: the student's classes, H, W: rows and columns of an image.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from segdistill.data.label_map import LabelMap, aliases
from segdistill.data.labels import LabelSet
from segdistill.data.transforms import resize_bilinear, scaled_size
from segdistill.models.averaging import mean_probability
from segdistill.models.trained import TrainedNetwork


@dataclass(frozen=True)
class View:
    """One of the passes whose probabilities a teacher averages.

    Attributes:
        network: N x 3 x h x w ImageNet-normalised images -> N x K x h x w logits over the student's classes.
        size: h, w that the image is resized to.
        weight: relative to the other views.
    """

    network: Callable[[Tensor], Tensor]
    size: tuple[int, int]
    weight: float


class Teacher(nn.Module):
    """A frozen network: always in eval mode, without gradients, so two passes over a batch are identical.

    It may be several networks, get the image at several sizes and mirrored too: their probabilities are
    averaged. The logits of each are resized to the size of the largest input first.

    Args:
        networks: the trained network, or several.
        labels: the student's label set, onto which each network's own is mapped by name.
        rename: network class -> student class, for names that differ.
        scales: factors by which the student's crop is upsampled before a network gets it.
        flip: average with the mirrored image.
        mix: relative weight of each network; empty for equal ones.
        shared_only: classes that the networks lack get no probability, else they are an error. All networks
            must lack the same ones.

    Attributes:
        network: the first one, whose features losses compare.
        shared: indices of the student's classes that the networks have; None where these are all.
        output_stride: that of the size at which probabilities are averaged, see `input_size`.

    Raises:
        ValueError: a label set does not map.
    """

    def __init__(
        self,
        networks: TrainedNetwork | Sequence[TrainedNetwork],
        labels: LabelSet,
        *,
        rename: Mapping[str, str] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        mix: Sequence[float] = (),
        shared_only: bool = False,
    ) -> None:
        super().__init__()
        several = [networks] if isinstance(networks, TrainedNetwork) else list(networks)
        weights = list(mix) or [1.0] * len(several)
        assert several
        assert len(weights) == len(several)
        self.networks = nn.ModuleList(network.eval().requires_grad_(False) for network in several)
        self.to_student = [
            _label_map(network, several, labels, rename or {}, partial=shared_only) for network in several
        ]
        shared = self.to_student[0].shared
        for network, to_student in zip(several, self.to_student, strict=True):
            if to_student.shared != shared:
                one, other = (
                    ", ".join(labels.names[index] for index in range(len(labels)) if index not in present)
                    for present in (shared, to_student.shared)
                )
                raise ValueError(
                    "networks that are averaged must lack the same of the data set's classes, but "
                    f"{several[0].spec} lacks {one or 'none'} and {network.spec} lacks {other or 'none'}: "
                    "leave one out, or pair more names"
                )
        self.shared = shared if len(shared) < len(labels) else None
        self.weights = [weight / sum(weights) for weight in weights]
        self.scales, self.flip = tuple(scales), flip
        strides = [network.output_stride for network in several]
        self.output_stride = next(filter(None, strides), None)
        self.classes = len(labels)
        self.eval()

    @property
    def network(self) -> TrainedNetwork:
        """The first network; for its features its plain pass at the first scale counts."""
        return self.members[0]

    @property
    def members(self) -> list[TrainedNetwork]:
        """All networks."""
        return [cast(TrainedNetwork, network) for network in self.networks]

    @property
    def averages(self) -> bool:
        """Whether there is more than one pass to average."""
        return self.flip or len(self.networks) * len(self.scales) > 1

    def of_shared(self, logits: Tensor) -> Tensor:
        """N x K x H x W logits -> those of the classes that the networks have."""
        return logits if self.shared is None else logits[:, self.shared]

    def train(self, mode: bool = True) -> Self:
        """Does nothing but keep eval mode: a teacher never trains."""
        del mode
        return super().train(False)

    def input_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The largest input for an image of H x W pixels: there probabilities are averaged."""
        return scaled_size(size, max(self.scales), self.output_stride)

    def views(self, size: tuple[int, ...]) -> list[View]:
        """What is averaged for an image of H x W pixels, mirrored images apart.

        The first network's pass at the first scale comes last: a hook holds the features of the newest pass.
        """
        views = [
            View(partial(self._logits, index), scaled_size(size, scale, network.output_stride), weight)
            for index, (network, weight) in enumerate(zip(self.members, self.weights, strict=True))
            for scale in self.scales
        ]
        return views[::-1]

    @torch.no_grad()
    def _logits(self, index: int, image: Tensor) -> Tensor:
        """One network's logits over the student's classes."""
        return self.to_student[index](self.members[index](image))

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, ImageNet-normalised -> N x K x H x W logits over the student's classes."""
        return resize_bilinear(mean_probability(self._passes(image)), image.shape[2:])

    def _passes(self, image: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Weight and logits of each pass, at the size of the largest input."""
        size = self.input_size(image.shape[2:])
        for view in self.views(image.shape[2:]):
            resized = resize_bilinear(image, view.size)
            if self.flip:  # the plain pass comes after it, for hooks
                yield view.weight, resize_bilinear(view.network(resized.flip(3)).flip(3), size)
            yield view.weight, resize_bilinear(view.network(resized), size)

    def fingerprint(self) -> str:
        """Equal for teachers of equal logits: the networks, where their classes go, and what is averaged."""
        networks = [
            [network.fingerprint(), sources.sources, weight, network.output_stride]
            for network, sources, weight in zip(self.members, self.to_student, self.weights, strict=True)
        ]
        averaged = json.dumps([networks, self.scales, self.flip])
        return hashlib.sha256(averaged.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a model card records of its student's teacher; lists where it is several networks."""
        each: dict[str, list[Any]] = {
            "spec": [network.spec for network in self.members],
            "fingerprint": [network.fingerprint() for network in self.members],
            "output_stride": [network.output_stride for network in self.members],
        }
        return {
            **{name: values if len(values) > 1 else values[0] for name, values in each.items()},
            "mix": self.weights,
            "scales": list(self.scales),
            "flip": self.flip,
        }


def _label_map(
    network: TrainedNetwork, networks: Sequence[TrainedNetwork], labels: LabelSet, rename: Mapping[str, str],
    *, partial: bool,
) -> LabelMap:  # fmt: skip
    """Where the classes of one of the networks go. A name that only another one has is none of its own."""
    known, foreign = (
        {alias for one in of for name in one.labels.names for alias in aliases(name)}
        for of in ([network], networks)
    )
    try:
        return LabelMap(network.labels, labels, rename, partial=partial, others=foreign - known)
    except ValueError as error:
        raise ValueError(f"{network.spec}: {error}" if len(networks) > 1 else str(error)) from None
