"""The cached outputs of a crop: the points of their grid, and the weights that interpolate them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GridCrop(NamedTuple):
    """A network's outputs for one crop, or for N, at grid points, with the weights between these.

    The points of the grid take a hundredth of the memory of the crop's pixels.
    """

    values: Tensor
    """(N x) K x h x w float16 or float32, at the grid points of the whole image."""
    rows: Tensor
    """(N x) S x h float32, the weights of the grid points for each row of the crop; 0 on padding."""
    columns: Tensor
    """(N x) S x w float32, those for each column."""

    def interpolate(self) -> Tensor:
        """(N x) K x S x S float16, bilinear between the grid points."""
        across = self.columns.unsqueeze(-3).transpose(-1, -2)
        return (self.rows.unsqueeze(-3) @ self.values.float() @ across).half()

    def map(self, change: Callable[[Tensor], Tensor]) -> "GridCrop":
        """The same with each tensor changed: moved, say."""
        return GridCrop(*map(change, self))

    @classmethod
    def stack(cls, crops: Sequence["GridCrop"]) -> "GridCrop":
        """N of them as one; grids are padded to the largest, with points that weigh nothing."""
        height, width = (max(crop.values.shape[axis] for crop in crops) for axis in (1, 2))

        def pad(values: Tensor, *size: int) -> Tensor:
            missing = [(0, new - old) for old, new in zip(values.shape, size, strict=True)]
            return F.pad(values, [end for ends in reversed(missing) for end in ends])

        return cls(
            torch.stack([pad(crop.values, crop.values.shape[0], height, width) for crop in crops]),
            torch.stack([pad(crop.rows, crop.rows.shape[0], height) for crop in crops]),
            torch.stack([pad(crop.columns, crop.columns.shape[0], width) for crop in crops]),
        )
