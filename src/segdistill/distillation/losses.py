"""The losses: pure functions of logits and features, in float32 whatever precision comes in.

N: images, C: channels, H, W: rows and columns, K: classes.
"""

import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID


def hard_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy with the masks, averaged over the labelled pixels.

    Args:
        logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.

    Returns:
        A scalar in nats; 0 where every pixel is void.
    """
    total = F.cross_entropy(logits.float(), mask, ignore_index=VOID, reduction="sum")
    return total / (mask != VOID).sum().clamp(min=1)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, where: Tensor) -> Tensor:
    """KL(teacher || student) of the softened distributions (Hinton et al. 2015), per pixel.

    Summed over the classes and averaged over the pixels, so that neither the number of classes nor the
    size of the image changes its weight; times T squared, so that the temperature does not either.

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        temperature: T, divides both logits.
        where: N x H x W bool, the pixels that take part.

    Returns:
        A scalar in nats; 0 where no pixel takes part.
    """
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=1),
        F.log_softmax(teacher.float() / temperature, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    return temperature**2 * masked_mean(divergence, where)


def cosine_loss(student: Tensor, teacher: Tensor, where: Tensor) -> Tensor:
    """1 - cosine similarity of the feature vectors at each position, averaged over the positions.

    Args:
        student: N x C x H x W features, already with the teacher's channels.
        teacher: N x C x h x w features; resized bilinearly to the student's H x W.
        where: N x H' x W' bool, the pixels that take part; nearest neighbour brings it to H x W.

    Returns:
        A scalar from 0 to 2; 0 where no position takes part.
    """
    size = student.shape[2:]
    teacher = F.interpolate(teacher.float(), size=size, mode="bilinear", align_corners=False)
    where = F.interpolate(where[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0
    return masked_mean(1 - F.cosine_similarity(student.float(), teacher, dim=1), where)


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the places where `where` (bool, same shape) holds; 0 where it holds nowhere."""
    return values.where(where, 0).sum() / where.sum().clamp(min=1)
