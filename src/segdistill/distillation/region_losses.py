"""Further supervised losses: of the hardest pixels (OHEM), and of whole regions (Dice, Lovász).

N: images, H, W: rows and columns, K: classes, P: labelled pixels of the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID
from segdistill.distillation.losses import EPS, masked_mean


def ohem_loss(student_logits: Tensor, mask: Tensor, *, threshold: float = 0.7, kept: float = 0.1) -> Tensor:
    """Cross entropy over the hard pixels alone (online hard example mining, Shrivastava et al. 2016).

    Args:
        student_logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.
        threshold: a pixel is hard where the probability of its true class is below it.
        kept: fraction of the labelled pixels that are kept at least, the hardest ones.

    Returns:
        A scalar in nats; 0 where every pixel is void.
    """
    labelled = mask != VOID
    per_pixel = F.cross_entropy(student_logits.float(), mask, ignore_index=VOID, reduction="none")
    # All on the device: the loss of the last pixel that must be kept, without waiting to learn their number.
    hardest = per_pixel.detach().masked_fill(~labelled, -1).flatten().sort(descending=True).values
    last = (kept * labelled.sum()).ceil().long().clamp(min=1) - 1
    bound = hardest.gather(0, last.view(1)).clamp(max=-math.log(max(threshold, 1e-30)))
    return masked_mean(per_pixel, labelled & (per_pixel >= bound))


def dice_loss(student_logits: Tensor, mask: Tensor) -> Tensor:
    """1 - Dice of the probabilities (Milletari et al. 2016), averaged over the classes that the masks hold.

    Dice is 2 sum(p y) / (sum(p) + sum(y)) over the labelled pixels of the batch, so a small class counts as
    much as a large one.

    Args:
        student_logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.

    Returns:
        A scalar from 0 to 1; 0 where every pixel is void.
    """
    labelled = mask != VOID
    probability = F.softmax(student_logits.float(), dim=1) * labelled[:, None]
    truth = F.one_hot(mask.where(labelled, 0), student_logits.shape[1]).movedim(-1, 1) * labelled[:, None]
    overlap, predicted, present = (x.sum(dim=(0, 2, 3)) for x in (probability * truth, probability, truth))
    return masked_mean(1 - 2 * overlap / (predicted + present).clamp(min=EPS), present > 0)


def lovasz_loss(student_logits: Tensor, mask: Tensor) -> Tensor:
    """Lovász-softmax (Berman et al. 2018): a convex stand-in for 1 - IoU, averaged over the classes present.

    It sorts all labelled pixels of the batch for each class that the masks hold; to learn which these are,
    the host waits for the device.

    Args:
        student_logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.

    Returns:
        A scalar from 0 to 1; 0 where every pixel is void.
    """
    labelled = mask != VOID
    probability = F.softmax(student_logits.float(), dim=1).movedim(1, 0)[:, labelled]  # K x P
    labels = mask[labelled]
    losses = []
    for index in torch.unique(labels).tolist():
        truth = (labels == index).float()
        errors, order = (truth - probability[index]).abs().sort(descending=True)
        losses.append((errors * jaccard_steps(truth[order])).sum())
    return torch.stack(losses).mean() if losses else probability.sum()


def jaccard_steps(truth: Tensor) -> Tensor:
    """How much the Jaccard distance grows with each further error, the worst first.

    Args:
        truth: P, 1 where the pixel belongs to the class, in the order of the errors.

    Returns:
        P numbers that add up to 1.
    """
    total = truth.sum()
    intersection = total - truth.cumsum(0)
    union = total + (1 - truth).cumsum(0)
    return torch.diff(1 - intersection / union, prepend=truth.new_zeros(1))
