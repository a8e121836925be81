"""A batch of training crops: collated by the loader, moved to the device, coloured and normalised there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms.v2 import functional as F

from segdistill.data.cache.grid_crop import GridCrop
from segdistill.data.colour import recolour
from segdistill.data.transforms import normalise


@dataclass(frozen=True)
class Batch:
    """N crops, as the training loop gets them."""

    image: Tensor
    """N x 3 x H x W float32, ImageNet-normalised (uint8 RGB until `normalized`)."""
    mask: Tensor
    """N x H x W int64, class index or 255 = void (uint8 until `normalized`)."""
    valid: Tensor
    """N x H x W bool, False where augmentation padded."""
    id: list[str]
    """The sample ids."""
    teacher_logits: Tensor | None = None
    """N x K x H x W, the teacher's logits where they come from a cache (once `normalized`)."""
    target_b: Tensor | None = None
    """N x H x W int64, the mask of the image that was blended in (MixUp)."""
    lam: Tensor | None = None
    """N float32, the weight of `mask` against `target_b`, from 0 to 1."""
    teacher_features: Tensor | None = None
    """N x C x h x w, the teacher's features where they come from a cache."""
    colour: Tensor | None = None
    """N x 4, the colours that `normalized` gives the images."""
    teacher_grid: GridCrop | None = None
    """The cached logits before they are interpolated, which `normalized` does."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which a copy to a GPU does not wait; loaders call it."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with each of its tensors changed."""
        changed: dict[str, Any] = {
            name: value.map(change) if isinstance(value, GridCrop) else change(value)
            for name, value in vars(self).items()
            if isinstance(value, Tensor | GridCrop)
        }
        return replace(self, **changed)

    def normalized(self, memory_format: torch.memory_format = torch.contiguous_format) -> "Batch":
        """A batch of bytes as floats: in its random colours, ImageNet-normalised, masks as int64.

        The teacher's logits are interpolated from their grid too. On the device: bytes and grids travel
        faster than floats, and loaders have less to do.
        """
        assert self.image.dtype == torch.uint8, "this batch is normalised already"
        image = F.to_dtype(self.image, torch.float32, scale=True)
        if self.colour is not None:
            image = recolour(image, self.colour)
        image = normalise(image).contiguous(memory_format=memory_format)
        grid = self.teacher_grid
        teacher_logits = self.teacher_logits if grid is None else grid.interpolate()
        return replace(
            self,
            image=image,
            mask=self.mask.long(),
            colour=None,
            teacher_logits=teacher_logits,
            teacher_grid=None,
        )


class TrainingSample(NamedTuple):
    """A crop of one sample."""

    image: Tensor
    """3 x S x S uint8."""
    mask: Tensor
    """S x S uint8."""
    valid: Tensor
    """S x S bool."""
    id: str
    teacher_grid: GridCrop | None
    """K x h x w, where they come from a cache."""
    teacher_features: Tensor | None
    """C x s x s float16, where they come from a cache and losses compare them."""
    colour: Tensor
    """4, the colours that the image is to get on the device."""


def collate(crops: list[TrainingSample]) -> Batch:
    """N crops of one size -> a uint8 `Batch`."""
    grids = [crop.teacher_grid for crop in crops if crop.teacher_grid is not None]
    teacher_features = [crop.teacher_features for crop in crops if crop.teacher_features is not None]
    batch = Batch(
        torch.stack([crop.image for crop in crops]),
        torch.stack([crop.mask for crop in crops]),
        torch.stack([crop.valid for crop in crops]),
        [crop.id for crop in crops],
        teacher_features=torch.stack(teacher_features) if teacher_features else None,
        colour=torch.stack([crop.colour for crop in crops]),
        teacher_grid=GridCrop.stack(grids) if grids else None,
    )
    share_memory(*vars(batch).values(), *(batch.teacher_grid or ()))
    return batch


def share_memory(*values: object) -> None:
    """In a loader process, move the tensors among `values` to shared memory, where they go anyway.

    Left to the queue between the processes, this happens in a thread of its own, in which an error (there is
    no memory left) is lost together with the batch: training would wait for it forever.
    """
    if get_worker_info() is not None:
        for value in values:
            if isinstance(value, Tensor):
                value.share_memory_()  # type: ignore[no-untyped-call]
