"""Pictures of some validation images, their masks and what is predicted, drawn while they are evaluated.

H, W: rows and columns of a picture, K: classes.
"""

import numpy as np
from PIL import Image
from torch import Tensor

from segdistill.data.labels import LabelSet
from segdistill.data.samples import FileSamples, Sample
from segdistill.data.transforms import resize_long_side
from segdistill.inference.segment import largest_class

COUNT = 4
"""Images that are drawn, evenly spaced and the same ones each time."""
LONG_SIDE = 320
"""Pixels of the longer side of each."""
GAP = 4
"""White columns between image, ground truth and prediction."""


class ExamplePictures:
    """Draws some of the images that one process evaluates, each beside its mask and its prediction.

    Args:
        samples: the validation images.
        world: processes that share them, of which this is the first.
        count: how many are drawn.

    Attributes:
        drawn: H x W x 3 uint8 pictures by the image's id.
    """

    def __init__(self, samples: FileSamples, world: int = 1, count: int = COUNT) -> None:
        own = range(0, len(samples), world)
        self.ids = {str(samples.ids[own[i * len(own) // count]]) for i in range(count)} if own else set()
        self.labels = samples.labels
        self.drawn: dict[str, np.ndarray] = {}

    def observe(self, sample: Sample, logits: Tensor) -> None:
        """Draw an image, if it is one of those; its logits are K x H x W at its mask's size."""
        if sample.id in self.ids:
            self.drawn[sample.id] = draw_row(sample, largest_class(logits), self.labels)


def draw_row(sample: Sample, prediction: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Image, ground truth and prediction (H x W uint8) beside each other, as H x W x 3 uint8."""
    height, width = sample.mask.shape
    image = resize_long_side(sample.image, LONG_SIDE) if max(height, width) > LONG_SIDE else sample.image
    shown = (image.shape[1], image.shape[2])
    palette = np.array(labels.file_palette, dtype=np.uint8).reshape(-1, 3)
    truth, predicted = (palette[_resized(mask, shown)] for mask in (sample.mask.numpy(), prediction))
    gap = np.full((shown[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([image.permute(1, 2, 0).numpy(), gap, truth, gap, predicted], axis=1)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask in another size (rows, columns), with nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
