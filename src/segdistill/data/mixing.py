"""Mixing the images of a batch, with their masks and the teacher's logits: MixUp, CutMix, copy-paste.

N: images, H, W: rows and columns, K: classes. Each image is mixed with one other, `index_b`. What is
random is drawn on the host, what depends on pixels on the device, so that nothing waits for the device.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segdistill.config.train import AugmentConfig
from segdistill.data.batch import Batch
from segdistill.data.labels import VOID

Numbers = NDArray[np.float64]
MIXUP_BETA = 0.2
"""Both parameters of the Beta distribution of MixUp's lam: 0.1 to 0.4 suit ImageNet (Zhang et al. 2018)."""


def mix(batch: Batch, augment: AugmentConfig, rng: np.random.Generator) -> Batch:
    """Mix the images of a batch in one of the ways of `augment`, or in none; one image alone stays as it is.

    Args:
        batch: on the device, normalised.
        augment: the probability of each way.
        rng: decides everything.
    """
    chances = (augment.mixup, augment.cutmix, augment.copy_paste)
    drawn = rng.random()
    ways = (mixup, cutmix, copy_paste)
    chosen = next((way for way, end in zip(ways, np.cumsum(chances), strict=True) if drawn < end), None)
    if chosen is None or len(batch.id) < 2:
        return batch
    return chosen(batch, draw_derangement(len(batch.id), rng).to(batch.image.device), rng)


def draw_derangement(count: int, rng: np.random.Generator) -> Tensor:
    """An index for each of N images: a random order of which none keeps its place."""
    cycle = rng.permutation(count)
    index_b = np.empty(count, dtype=np.int64)
    index_b[cycle] = np.roll(cycle, 1)
    return torch.from_numpy(index_b)


def mixup(batch: Batch, index_b: Tensor, rng: np.random.Generator) -> Batch:
    """Blend each image with another one (Zhang et al. 2018).

    `mask` stays, the other image's mask becomes `target_b`, and `lam` weighs them. Cached logits become those
    of the blended probabilities, log(lam * softmax(a) + (1 - lam) * softmax(b)): blended logits would be the
    logits of neither image. Cached features are blended as they are. Only pixels of both images are valid.
    """
    device = batch.image.device
    drawn = rng.beta(MIXUP_BETA, MIXUP_BETA, len(batch.id)).astype(np.float32)
    lam = torch.from_numpy(drawn).to(device, non_blocking=True)
    weight = lam[:, None, None, None]
    teacher_logits = batch.teacher_logits
    if teacher_logits is not None:
        log_p = F.log_softmax(teacher_logits.float(), dim=1)
        blended = torch.logaddexp(log_p + weight.log(), log_p[index_b] + (1 - weight).log())
        teacher_logits = blended.to(teacher_logits.dtype)
    teacher_features = batch.teacher_features
    if teacher_features is not None:
        teacher_features = (weight * teacher_features + (1 - weight) * teacher_features[index_b]).to(
            teacher_features.dtype
        )
    return replace(
        batch,
        image=weight * batch.image + (1 - weight) * batch.image[index_b],
        teacher_features=teacher_features,
        valid=batch.valid & batch.valid[index_b],
        teacher_logits=teacher_logits,
        target_b=batch.mask[index_b],
        lam=lam,
    )


def cutmix(batch: Batch, index_b: Tensor, rng: np.random.Generator) -> Batch:
    """Lay a box of the other image over each image (Yun et al. 2019), its lam of the image drawn uniformly.

    The box is drawn around any pixel and ends where the image does.
    """
    size = batch.mask.shape[1:]
    extent = np.sqrt(rng.random(len(batch.id)))  # of each axis, as a fraction: the area is uniform
    rows, columns = (_span(rng.random(len(batch.id)) * length, extent * length, length) for length in size)
    box = rows[:, :, None] & columns[:, None]
    return paste(batch, index_b, box.to(batch.image.device, non_blocking=True))


def _span(centre: Numbers, extent: Numbers, length: int) -> Tensor:
    """N x length bool: whether the middle of each pixel is within half of `extent` (N) of `centre` (N)."""
    return torch.from_numpy(abs(np.arange(length) + 0.5 - centre[:, None]) <= extent[:, None] / 2)


def copy_paste(batch: Batch, index_b: Tensor, rng: np.random.Generator) -> Batch:
    """Paste half of the other image's classes over each image, pixel by pixel (ClassMix, Olsson et al. 2021).

    The classes are those of the other image's mask, or of the cached teacher where that image is unlabelled;
    without either the image stays as it is. Class 0, which mostly is the background, is never pasted; of the
    others half are, rounded up.
    """
    labels = _labels(batch)[index_b]
    scores = rng.random((len(batch.id), VOID + 1), dtype=np.float32)
    order = torch.from_numpy(scores).to(batch.image.device, non_blocking=True)
    present = torch.zeros_like(order, dtype=torch.bool).scatter_(1, labels.flatten(1), True)
    present[:, 0] = present[:, VOID] = False
    position = order.masked_fill(~present, torch.inf).argsort(dim=1).argsort(dim=1)
    pasted = present & (2 * position < present.sum(dim=1, keepdim=True))
    return paste(batch, index_b, pasted.gather(1, labels.flatten(1)).view_as(labels))


def _labels(batch: Batch) -> Tensor:
    """The masks (N x H x W); of images without one the cached teacher's classes, or void."""
    if batch.teacher_logits is None:
        return batch.mask
    predicted = batch.teacher_logits.argmax(dim=1).where(batch.valid, VOID)
    labelled = (batch.mask != VOID).any(dim=2).any(dim=1)
    return torch.where(labelled[:, None, None], batch.mask, predicted)


def paste(batch: Batch, index_b: Tensor, pasted: Tensor) -> Batch:
    """Replace the pixels `pasted` (N x H x W bool) of each image, with their outputs, by `index_b`'s."""
    teacher_logits = batch.teacher_logits
    if teacher_logits is not None:
        teacher_logits = torch.where(pasted[:, None], teacher_logits[index_b], teacher_logits)
    teacher_features = batch.teacher_features
    if teacher_features is not None:
        cells = F.interpolate(pasted[:, None].float(), size=teacher_features.shape[2:], mode="nearest-exact")
        teacher_features = torch.where(cells > 0, teacher_features[index_b], teacher_features)
    return replace(
        batch,
        teacher_features=teacher_features,
        image=torch.where(pasted[:, None], batch.image[index_b], batch.image),
        mask=torch.where(pasted, batch.mask[index_b], batch.mask),
        valid=torch.where(pasted, batch.valid[index_b], batch.valid),
        teacher_logits=teacher_logits,
    )
