"""A batch of training crops: collated by the loader, moved and normalised on the device."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms.v2 import functional as F

from segdistill.data.colour import recolour
from segdistill.data.transforms import normalise


@dataclass(frozen=True)
class Batch:
    """N views, as the training loop sees them."""

    image: Tensor
    """N x 3 x H x W float32, ImageNet-normalised (uint8 RGB until `to` has moved it to the device)."""
    mask: Tensor
    """N x H x W int64, class index or 255 = void."""
    valid: Tensor
    """N x H x W bool, False where augmentation padded."""
    id: list[str]
    """The sample ids."""
    teacher_logits: Tensor | None = None
    """N x K x H x W, the teacher's logits where they come from a cache."""
    target_b: Tensor | None = None
    """N x H x W int64, the mask of the image that was blended in (MixUp)."""
    lam: Tensor | None = None
    """N float32, the weight of `mask` against `target_b`, from 0 to 1."""
    teacher_features: Tensor | None = None
    """N x C x h x w, the teacher's features where they come from a cache."""
    colour: Tensor | None = None
    """N x 4, the colours that `to` gives the images."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def normalized(self, memory_format: torch.memory_format = torch.contiguous_format) -> "Batch":
        """A uint8 batch as the networks take it: in its drawn colours, ImageNet-normalised float32."""
        image = F.to_dtype(self.image, torch.float32, scale=True)
        if self.colour is not None:
            image = recolour(image, self.colour)
        image = normalise(image).contiguous(memory_format=memory_format)
        return replace(self, image=image, mask=self.mask.long(), colour=None)


class TrainingSample(NamedTuple):
    """A view of one sample."""

    image: Tensor
    """3 x S x S uint8."""
    mask: Tensor
    """S x S uint8."""
    valid: Tensor
    """S x S bool."""
    id: str
    teacher_logits: Tensor | None
    """K x S x S float16 logits of the teacher, where there is a cache."""
    teacher_features: Tensor | None
    """C x s x s float16 teacher_features of the teacher, where losses compare them and there is a cache."""
    colour: Tensor
    """4, the colours that the image is to get on the device."""


def collate(views: list[TrainingSample]) -> Batch:
    """N views of one size -> a uint8 `Batch`."""
    known = [view.teacher_logits for view in views if view.teacher_logits is not None]
    teacher_features = [view.teacher_features for view in views if view.teacher_features is not None]
    batch = Batch(
        torch.stack([view.image for view in views]),
        torch.stack([view.mask for view in views]),
        torch.stack([view.valid for view in views]),
        [view.id for view in views],
        torch.stack(known) if known else None,
        teacher_features=torch.stack(teacher_features) if teacher_features else None,
        colour=torch.stack([view.colour for view in views]),
    )
    share_memory(*vars(batch).values())
    return batch


def share_memory(*parts: object) -> None:
    """In a loader process, move the tensors among `parts` to shared memory, where they go anyway.

    Left to the queue between the processes, this happens in a thread of its own, in which an error (there is
    no memory left) is lost together with the batch: training would wait for it forever.
    """
    if get_worker_info() is not None:
        for part in parts:
            if isinstance(part, Tensor):
                part.share_memory_()  # type: ignore[no-untyped-call]
