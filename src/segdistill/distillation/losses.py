"""The losses of logits: pure functions, in float32 whatever precision comes in.

N: images, H, W: rows and columns, K: classes, T: temperature.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID

EPS = 1e-6
"""Below it a length or a standard deviation counts as none."""


def hard_loss(
    logits: Tensor,
    mask: Tensor,
    *,
    target_b: Tensor | None = None,
    lam: Tensor | None = None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross entropy with the masks, averaged over the labelled pixels.

    Args:
        logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.
        target_b: N x H x W int64, the mask of the image that was mixed in (Zhang et al. 2018, mixup).
        lam: N, the weight of `mask`; the target_b has the rest.
        smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        weights: K, how much the pixels of each class count; a mean of 1 over pixels keeps the loss's size.

    Returns:
        A scalar in nats; 0 where every pixel is void.
    """
    logits = logits.float()
    if target_b is None or lam is None:
        total = F.cross_entropy(
            logits, mask, weights, ignore_index=VOID, reduction="sum", label_smoothing=smoothing
        )
        return total / (mask != VOID).sum().clamp(min=1)
    first, second = (
        F.cross_entropy(
            logits, target, weights, ignore_index=VOID, reduction="none", label_smoothing=smoothing
        )
        for target in (mask, target_b)
    )
    ours = lam.float()[:, None, None]
    count = (ours * (mask != VOID) + (1 - ours) * (target_b != VOID)).sum()
    return (ours * first + (1 - ours) * second).sum() / count.clamp(min=EPS)


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
    ours, theirs = softened(student, temperature), softened(teacher, temperature)
    return temperature**2 * masked_mean(divergence(theirs, ours), where)


def reverse_kl_loss(student: Tensor, teacher: Tensor, where: Tensor, *, temperature: float = 2.0) -> Tensor:
    """KL(student || teacher), times T squared: the student is punished where it is sure and the teacher not.

    It seeks one of the teacher's modes where `soft_loss` covers all of them (Gu et al. 2024, MiniLLM).

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        where: N x H x W bool, the pixels that take part.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no pixel takes part.
    """
    ours, theirs = softened(student, temperature), softened(teacher, temperature)
    return temperature**2 * masked_mean(divergence(ours, theirs), where)


def jensen_shannon_loss(
    student: Tensor, teacher: Tensor, where: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """Mean divergence of both distributions from their average (Lin 1991), times T squared.

    Bounded by T squared ln 2 per pixel, so that no pixel where the teacher errs can dominate.

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        where: N x H x W bool, the pixels that take part.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no pixel takes part.
    """
    ours, theirs = softened(student, temperature), softened(teacher, temperature)
    average = ours.logaddexp(theirs) - math.log(2)
    each = 0.5 * (divergence(ours, average) + divergence(theirs, average))
    return temperature**2 * masked_mean(each, where)


def channel_loss(student: Tensor, teacher: Tensor, where: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (Shu et al. 2021): where in the image each class is strongest.

    The logits of one class become a distribution over the positions of one image; KL(teacher || student)
    is summed over the positions, averaged over classes and images, and multiplied by T squared.

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        where: N x H x W bool, the positions that the distributions are over.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no position takes part.
    """
    outside = ~where.flatten(1)[:, None]
    lowest = -1e30  # not minus infinity, whose products with a probability of 0 are no numbers
    ours, theirs = (
        F.log_softmax((x.float() / temperature).flatten(2).masked_fill(outside, lowest), dim=2)
        for x in (student, teacher)
    )
    each = F.kl_div(ours, theirs, reduction="none", log_target=True).masked_fill(outside, 0).sum(dim=2)
    return temperature**2 * masked_mean(each.mean(dim=1), where.flatten(1).any(dim=1))


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    where: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """DIST (Huang et al. 2022): 1 - Pearson's correlation of the probabilities, times T squared.

    Between classes it is the correlation over the K classes of one pixel, averaged over the pixels; within a
    class it is that over all pixels of the batch, averaged over the classes. Scale and offset are free, which
    suits a student that cannot match a much larger teacher exactly.

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        where: N x H x W bool, the pixels that take part.
        temperature: T, divides both logits.
        beta: weight of the correlation between classes.
        gamma: weight of the correlation within classes.

    Returns:
        A scalar; 0 where no pixel takes part.
    """
    ours, theirs = (softened(x, temperature).exp() for x in (student, teacher))
    each = where.float().new_full((1, 1, 1, 1), 1 / ours.shape[1])
    between = masked_mean(1 - correlation(ours, theirs, each, (1,)), where)
    pixels = (where / where.sum().clamp(min=1))[:, None]
    within = (1 - correlation(ours, theirs, pixels, (0, 2, 3))).mean() * where.any()
    return temperature**2 * (beta * between + gamma * within)


def decoupled_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    where: Tensor,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
) -> Tensor:
    """Decoupled distillation (Zhao et al. 2022), per pixel: KL of the true class, and KL among the others.

    The plain KL weighs the others by the teacher's doubt, so it says nearly nothing of them where the teacher
    is sure; here they have a weight of their own.

    Args:
        student: N x K x H x W logits.
        teacher: N x K x H x W logits, without gradient.
        mask: N x H x W int64, the true class; void pixels take no part.
        where: N x H x W bool, the pixels that take part.
        temperature: T, divides both logits.
        alpha: weight of KL(teacher || student) of true class against all others.
        beta: weight of KL(teacher || student) among the others.

    Returns:
        A scalar in nats; 0 where no pixel takes part.
    """
    where = where & (mask != VOID)
    true = mask.where(where, 0)[:, None]
    lowest = -1e30  # as in channel_loss
    split, others = [], []
    for logits in (teacher, student):
        logs = softened(logits, temperature)
        rest = logs.scatter(1, true, lowest)
        split.append(torch.cat([logs.gather(1, true), rest.logsumexp(dim=1, keepdim=True)], dim=1))
        others.append(F.log_softmax(rest, dim=1))
    # The true class stays at the same low value among the others of both: exp of it is 0, and so is its KL.
    each = alpha * divergence(*split) + beta * divergence(*others)
    return temperature**2 * masked_mean(each, where)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of N x K x H x W logits at temperature T."""
    return F.log_softmax(logits.float() / temperature, dim=1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities N x K x H x W, summed over the classes: N x H x W."""
    return F.kl_div(second, first, reduction="none", log_target=True).sum(dim=1)


def correlation(first: Tensor, second: Tensor, share: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pearson's correlation over `dims`, whose places count by `share` (sum 1); 0 where one is constant."""
    first, second = (x - (share * x).sum(dims, keepdim=True) for x in (first, second))
    deviations = [(share * x * x).sum(dims).clamp(min=EPS**2).sqrt() for x in (first, second)]
    return (share * first * second).sum(dims) / (deviations[0] * deviations[1])


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the places where `where` (bool, same shape) holds; 0 where it holds nowhere."""
    return values.where(where, 0).sum() / where.sum().clamp(min=1)
