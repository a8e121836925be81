"""How often each class occurs in the training masks, and weights that make up for it."""

import numpy as np
import torch
from torch import Tensor

from segdistill.data.check import survey
from segdistill.data.samples import Samples

MOST_IMAGES = 2000


def class_weights(samples: Samples, classes: int, exponent: float) -> Tensor | None:
    """Weights in proportion to frequency ** -exponent, whose mean over labelled pixels is 1.

    Args:
        samples: what training reads.
        classes: K.
        exponent: 0.5 is the usual square root; 0 weighs all alike.

    Returns:
        K float32, 0 for classes that do not occur; None where the exponent is 0, and no mask is read.

    Raises:
        ValueError: no mask has a labelled pixel.
    """
    if not exponent:
        return None
    frequencies = class_frequencies(samples, classes)
    if not frequencies.any():
        raise ValueError(f"objective.class_weights is {exponent}, but no training mask has a labelled pixel")
    occurs = frequencies > 0
    weights = np.where(occurs, np.where(occurs, frequencies, 1) ** -exponent, 0)
    return torch.from_numpy(weights / (frequencies * weights).sum()).float()


def class_frequencies(samples: Samples, classes: int, most: int = MOST_IMAGES) -> np.ndarray:
    """Fraction of each class among the labelled pixels of `most` labelled images, evenly spaced: K."""
    pixels = survey(samples, most).pixels[:classes]
    return pixels / max(1, pixels.sum())
