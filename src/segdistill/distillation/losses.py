"""The losses of logits: pure functions, in float32 whatever precision comes in.

N: images, H, W: rows and columns, K: classes, T: temperature.
All but the hard loss take `student_logits`, `teacher_logits` and `valid` in this order, then a `mask` where
they need the true classes; their options are keywords.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID

EPS = 1e-6
"""Smallest length or standard deviation that something is divided by."""

LOWEST = -1e30
"""Logit of what has no probability: not minus infinity, whose product with a probability of 0 is NaN."""


def hard_loss(
    student_logits: Tensor,
    mask: Tensor,
    *,
    target_b: Tensor | None = None,
    lam: Tensor | None = None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross entropy with the masks, averaged over the labelled pixels.

    Args:
        student_logits: N x K x H x W.
        mask: N x H x W int64, class index or 255 = void.
        target_b: N x H x W int64, the mask of the image that was blended in (Zhang et al. 2018, mixup).
        lam: N, the weight of `mask` against `target_b`, from 0 to 1.
        smoothing: fraction of the target that is spread over all classes (Szegedy et al. 2016).
        weights: K, the weight of each class; a mean of 1 over the labelled pixels keeps the loss's size.

    Returns:
        A scalar in nats; 0 where every pixel is void.
    """
    cross_entropy = partial(
        F.cross_entropy, student_logits.float(), weight=weights, ignore_index=VOID, label_smoothing=smoothing
    )
    if target_b is None or lam is None:
        return cross_entropy(mask, reduction="sum") / (mask != VOID).sum().clamp(min=1)
    weight_a = lam.float()[:, None, None]
    weight_b = 1 - weight_a
    count = (weight_a * (mask != VOID) + weight_b * (target_b != VOID)).sum()
    loss_a, loss_b = cross_entropy(mask, reduction="none"), cross_entropy(target_b, reduction="none")
    return (weight_a * loss_a + weight_b * loss_b).sum() / count.clamp(min=EPS)


def soft_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """KL(teacher || student) of the softened distributions (Hinton et al. 2015), per pixel.

    Summed over the classes and averaged over the pixels, so that neither the number of classes nor the
    size of the image changes its weight; times T squared, so that the temperature does not either.

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no pixel is valid.
    """
    student, teacher = softened(student_logits, temperature), softened(teacher_logits, temperature)
    return temperature**2 * masked_mean(divergence(teacher, student), valid)


def reverse_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """KL(student || teacher), times T squared: the student is punished where it is sure and the teacher not.

    It seeks one of the teacher's modes where `soft_loss` covers all of them (Gu et al. 2024, MiniLLM).

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no pixel is valid.
    """
    student, teacher = softened(student_logits, temperature), softened(teacher_logits, temperature)
    return temperature**2 * masked_mean(divergence(student, teacher), valid)


def pseudo_label_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, threshold: float = 0.0
) -> Tensor:
    """Cross entropy with the teacher's most probable class: its decisions without its doubts (Lee 2013).

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over.
        threshold: pixels at which the teacher's probability of that class is lower are left out.

    Returns:
        A scalar in nats; 0 where no pixel is left.
    """
    confidence, decision = teacher_logits.float().softmax(dim=1).max(dim=1)
    losses = F.cross_entropy(student_logits.float(), decision, reduction="none")
    return masked_mean(losses, valid & (confidence >= threshold))


def jensen_shannon_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 2.0
) -> Tensor:
    """Mean divergence of both distributions from their average (Lin 1991), times T squared.

    Bounded by T squared ln 2 per pixel, so that no pixel where the teacher errs can dominate.

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no pixel is valid.
    """
    student, teacher = softened(student_logits, temperature), softened(teacher_logits, temperature)
    average = student.logaddexp(teacher) - math.log(2)
    per_pixel = 0.5 * (divergence(student, average) + divergence(teacher, average))
    return temperature**2 * masked_mean(per_pixel, valid)


def channel_loss(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 4.0
) -> Tensor:
    """Channel-wise distillation (Shu et al. 2021): where in the image each class is strongest.

    The logits of one class become a distribution over the positions of one image; KL(teacher || student)
    is summed over the positions, averaged over classes and images, and multiplied by T squared.

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the positions that the distributions are over.
        temperature: T, divides both logits.

    Returns:
        A scalar in nats; 0 where no position is valid.
    """
    invalid = ~valid.flatten(1)[:, None]
    student, teacher = (
        F.log_softmax((logits.float() / temperature).flatten(2).masked_fill(invalid, LOWEST), dim=2)
        for logits in (student_logits, teacher_logits)
    )
    per_position = F.kl_div(student, teacher, reduction="none", log_target=True).masked_fill(invalid, 0)
    per_image = per_position.sum(dim=2).mean(dim=1)
    return temperature**2 * masked_mean(per_image, valid.flatten(1).any(dim=1))


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    valid: Tensor,
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
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over.
        temperature: T, divides both logits.
        beta: weight of the correlation between classes.
        gamma: weight of the correlation within classes.

    Returns:
        A scalar; 0 where no pixel is valid.
    """
    student, teacher = (softened(x, temperature).exp() for x in (student_logits, teacher_logits))
    class_weights = student.new_full((1, 1, 1, 1), 1 / student.shape[1])
    between = masked_mean(1 - correlation(student, teacher, class_weights, (1,)), valid)
    pixel_weights = (valid / valid.sum().clamp(min=1))[:, None]
    within = (1 - correlation(student, teacher, pixel_weights, (0, 2, 3))).mean() * valid.any()
    return temperature**2 * (beta * between + gamma * within)


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    valid: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
) -> Tensor:
    """Decoupled distillation (Zhao et al. 2022), per pixel: KL of the true class, and KL among the others.

    The plain KL weighs the others by the probability that the teacher gives them together, which is nearly 0
    where the teacher is sure; here they have a weight of their own.

    Args:
        student_logits: N x K x H x W.
        teacher_logits: N x K x H x W, without gradient.
        valid: N x H x W bool, the pixels that are averaged over, as far as they are labelled.
        mask: N x H x W int64, class index or 255 = void.
        temperature: T, divides both logits.
        alpha: weight of KL(teacher || student) of true class against all others.
        beta: weight of KL(teacher || student) among the others.

    Returns:
        A scalar in nats; 0 where no pixel is valid.
    """
    labelled = valid & (mask != VOID)
    true_class = mask.where(labelled, 0)[:, None]
    binary, others = [], []
    for logits in (teacher_logits, student_logits):
        logs = softened(logits, temperature)
        rest = logs.scatter(1, true_class, LOWEST)
        binary.append(torch.cat([logs.gather(1, true_class), rest.logsumexp(dim=1, keepdim=True)], dim=1))
        others.append(F.log_softmax(rest, dim=1))
    # The true class stays at the same low value among the others of both: exp of it is 0, and so is its KL.
    per_pixel = alpha * divergence(*binary) + beta * divergence(*others)
    return temperature**2 * masked_mean(per_pixel, labelled)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of N x K x H x W logits at temperature T."""
    return F.log_softmax(logits.float() / temperature, dim=1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities N x K x H x W, summed over the classes: N x H x W."""
    return F.kl_div(second, first, reduction="none", log_target=True).sum(dim=1)


def correlation(first: Tensor, second: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pearson's correlation over `dims`, whose entries have `weights` (sum 1); 0 where one is constant."""
    first, second = (x - (weights * x).sum(dims, keepdim=True) for x in (first, second))
    deviations = [(weights * x * x).sum(dims).clamp(min=EPS**2).sqrt() for x in (first, second)]
    return (weights * first * second).sum(dims) / (deviations[0] * deviations[1])


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` where `valid` (bool, same shape) holds; 0 where it holds nowhere."""
    return values.where(valid, 0).sum() / valid.sum().clamp(min=1)
