"""Mixing the images of a batch, with their masks and the teacher's logits: MixUp, CutMix, copy-paste.

N: images, H, W: rows and columns, K: classes. Each image is mixed with one other, its partner. What is random
is drawn on the host, what depends on pixels is computed on the device, so that nothing waits for the device.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segdistill.config import AugmentConfig
from segdistill.data.labels import VOID
from segdistill.data.loaders import Batch

Numbers = NDArray[np.float64]
MIXUP_BETA = 0.2
"""Both parameters of the Beta distribution of MixUp's share: 0.1 to 0.4 suit ImageNet (Zhang et al. 2018)."""


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
    return chosen(batch, draw_partners(len(batch.id), rng).to(batch.image.device), rng)


def draw_partners(count: int, rng: np.random.Generator) -> Tensor:
    """An index for each of N images: a random order of which none keeps its place."""
    cycle = rng.permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[cycle] = np.roll(cycle, 1)
    return torch.from_numpy(partners)


def mixup(batch: Batch, partners: Tensor, rng: np.random.Generator) -> Batch:
    """Blend each image with its partner (Zhang et al. 2018).

    The mask stays, the partner's comes beside it, with the share of the first. Cached logits become those of
    the blended probabilities, log(share * softmax(own) + (1 - share) * softmax(partner's)): blended logits
    would be the logits of neither image. Cached features are blended as they are. Only pixels that both
    images have are inside.
    """
    device = batch.image.device
    drawn = rng.beta(MIXUP_BETA, MIXUP_BETA, len(batch.id)).astype(np.float32)
    share = torch.from_numpy(drawn).to(device, non_blocking=True)
    weight = share[:, None, None, None]
    knowledge = batch.knowledge
    if knowledge is not None:
        known = F.log_softmax(knowledge.float(), dim=1)
        blended = torch.logaddexp(known + weight.log(), known[partners] + (1 - weight).log())
        knowledge = blended.to(knowledge.dtype)
    features = batch.features
    if features is not None:
        features = (weight * features + (1 - weight) * features[partners]).to(features.dtype)
    return replace(
        batch,
        image=weight * batch.image + (1 - weight) * batch.image[partners],
        features=features,
        inside=batch.inside & batch.inside[partners],
        knowledge=knowledge,
        partner=batch.mask[partners],
        share=share,
    )


def cutmix(batch: Batch, partners: Tensor, rng: np.random.Generator) -> Batch:
    """Lay a box of the partner over each image (Yun et al. 2019), its share of the image drawn uniformly.

    The box is drawn around any pixel and ends where the image does.
    """
    size = batch.mask.shape[1:]
    extent = np.sqrt(rng.random(len(batch.id)))  # share of each side
    rows, columns = (_span(rng.random(len(batch.id)) * side, extent * side, side) for side in size)
    where = rows[:, :, None] & columns[:, None]
    return paste(batch, partners, where.to(batch.image.device, non_blocking=True))


def _span(centre: Numbers, extent: Numbers, side: int) -> Tensor:
    """N x side bool: whether the middle of each pixel is within half of `extent` (N) of `centre` (N)."""
    return torch.from_numpy(abs(np.arange(side) + 0.5 - centre[:, None]) <= extent[:, None] / 2)


def copy_paste(batch: Batch, partners: Tensor, rng: np.random.Generator) -> Batch:
    """Paste half of the partner's classes over each image, pixel by pixel (ClassMix, Olsson et al. 2021).

    The classes are those of the partner's mask, of an unlabelled partner those that the cached teacher sees;
    without either the image stays as it is. Class 0, which mostly is the background, is never pasted; of the
    others half are, rounded up.
    """
    labels = _known_labels(batch)[partners]
    scores = rng.random((len(batch.id), VOID + 1), dtype=np.float32)
    order = torch.from_numpy(scores).to(batch.image.device, non_blocking=True)
    present = torch.zeros_like(order, dtype=torch.bool).scatter_(1, labels.flatten(1), True)
    present[:, 0] = present[:, VOID] = False
    place = order.masked_fill(~present, torch.inf).argsort(dim=1).argsort(dim=1)
    pasted = present & (2 * place < present.sum(dim=1, keepdim=True))
    return paste(batch, partners, pasted.gather(1, labels.flatten(1)).view_as(labels))


def _known_labels(batch: Batch) -> Tensor:
    """The masks (N x H x W), of images without one the cached teacher's classes; void where nobody knows."""
    if batch.knowledge is None:
        return batch.mask
    guessed = batch.knowledge.argmax(dim=1).where(batch.inside, VOID)
    labelled = (batch.mask != VOID).any(dim=2).any(dim=1)
    return torch.where(labelled[:, None, None], batch.mask, guessed)


def paste(batch: Batch, partners: Tensor, where: Tensor) -> Batch:
    """Replace the pixels `where` (N x H x W bool) of each image, and all that is theirs, by its partner's."""
    knowledge = batch.knowledge
    if knowledge is not None:
        knowledge = torch.where(where[:, None], knowledge[partners], knowledge)
    features = batch.features
    if features is not None:
        there = F.interpolate(where[:, None].float(), size=features.shape[2:], mode="nearest-exact") > 0
        features = torch.where(there, features[partners], features)
    return replace(
        batch,
        features=features,
        image=torch.where(where[:, None], batch.image[partners], batch.image),
        mask=torch.where(where, batch.mask[partners], batch.mask),
        inside=torch.where(where, batch.inside[partners], batch.inside),
        knowledge=knowledge,
    )
