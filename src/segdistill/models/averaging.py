"""The mean of several probabilities, as logits: of views of an image, and of networks."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def mean_probability(views: Iterable[tuple[float, Tensor]]) -> Tensor:
    """The logits of the weighted mean of some probabilities.

    Args:
        views: one or more, each a weight above 0 and N x K x H x W float32 logits. They are added up as they
            come, so that two of them are in memory at a time.

    Returns:
        N x K x H x W: the logits themselves where there is one view, otherwise the logarithm of the mean
        probability, in which the weights count relative to their sum.
    """
    remaining = iter(views)
    weight, logits = next(remaining)
    total: Tensor | None = None
    weights = weight
    for further, others in remaining:
        if total is None:
            total = logits.log_softmax(dim=1) + math.log(weight)
        total = torch.logaddexp(total, others.log_softmax(dim=1) + math.log(further))
        weights += further
    return logits if total is None else total - math.log(weights)
