"""The losses of intermediate feature maps: pure functions, in float32 whatever precision comes in.

N: images, C: channels, h, w: rows and columns of a feature map, H, W: of the image.
Each takes the student's features N x C x h x w; the teacher's, which are resized bilinearly to h x w; and
`where`, N x H x W bool, the pixels that take part, brought to h x w by nearest neighbour.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID
from segdistill.distillation.losses import EPS, masked_mean


def cosine_loss(student: Tensor, teacher: Tensor, where: Tensor, *, standardised: bool = False) -> Tensor:
    """1 - cosine similarity of the feature vectors at each position, averaged over the positions.

    Args:
        student: N x C x h x w features, already with the teacher's channels.
        teacher: N x C x any size.
        where: N x H x W bool.
        standardised: first give each of the teacher's channels mean 0 and deviation 1, see `standardise`.

    Returns:
        A scalar from 0 to 2; 0 where no position takes part.
    """
    ours, theirs, where = on_one_grid(student, teacher, where)
    theirs = standardise(theirs, where) if standardised else theirs
    return masked_mean(1 - F.cosine_similarity(ours, theirs, dim=1), where)


def fitnet_loss(student: Tensor, teacher: Tensor, where: Tensor, *, standardised: bool = False) -> Tensor:
    """Mean squared difference of the features (Romero et al. 2015, FitNets), over channels and positions.

    Args:
        student: N x C x h x w features, already with the teacher's channels.
        teacher: N x C x any size.
        where: N x H x W bool.
        standardised: first give each of the teacher's channels mean 0 and deviation 1, see `standardise`.

    Returns:
        A scalar; 0 where no position takes part.
    """
    ours, theirs, where = on_one_grid(student, teacher, where)
    theirs = standardise(theirs, where) if standardised else theirs
    return masked_mean((ours - theirs).square().mean(dim=1), where)


def attention_loss(student: Tensor, teacher: Tensor, where: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): where in the image the features are strong.

    The attention map of an image is the sum over the channels of |feature| to some power, scaled to length 1;
    the loss is the squared distance of the two maps, averaged over the images.

    Args:
        student: N x C x h x w features.
        teacher: N x any channels x any size.
        where: N x H x W bool.
        power: the power; a larger one looks at the strongest features only.

    Returns:
        A scalar from 0 to 2; 0 where no position takes part.
    """
    ours, theirs, where = on_one_grid(student, teacher, where)
    # The mean over channels: scaled to length 1 it is the same map as the sum, and cannot overflow.
    ours, theirs = (
        F.normalize((x.abs() ** power).mean(dim=1).where(where, 0).flatten(1), eps=EPS)
        for x in (ours, theirs)
    )
    return masked_mean((ours - theirs).square().sum(dim=1), where.flatten(1).any(dim=1))


def pairwise_loss(student: Tensor, teacher: Tensor, where: Tensor, *, patches: int = 8) -> Tensor:
    """Pair-wise distillation (Liu et al. 2019, structured distillation): which patches resemble each other.

    Features are averaged over a grid of patches; the loss is the squared difference of the two networks'
    cosine similarities, averaged over all pairs of patches of one image.

    Args:
        student: N x C x h x w features.
        teacher: N x any channels x any size.
        where: N x H x W bool.
        patches: rows and columns of the grid (at most h and w).

    Returns:
        A scalar from 0 to 4; 0 where no position takes part.
    """
    ours, theirs, where = on_one_grid(student, teacher, where)
    grid = (min(patches, ours.shape[2]), min(patches, ours.shape[3]))
    valid = where[:, None].float()
    there = F.adaptive_avg_pool2d(valid, grid).flatten(1) > 0

    def similarity(features: Tensor) -> Tensor:
        nodes = F.normalize(F.adaptive_avg_pool2d(features * valid, grid).flatten(2), dim=1, eps=EPS)
        return nodes.transpose(1, 2) @ nodes

    with torch.autocast(ours.device.type, enabled=False):  # which would multiply matrices in bf16
        squares = (similarity(ours) - similarity(theirs)).square()
    return masked_mean(squares, there[:, :, None] & there[:, None, :])


def ifvd_loss(student: Tensor, teacher: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """Intra-class feature variation (Wang et al. 2020): how alike each pixel is to the others of its class.

    A class's prototype is the mean feature of its pixels in one image. Each network's map holds the cosine
    similarity of every labelled position to its prototype; the loss is the maps' mean squared difference.

    Args:
        student: N x C x h x w features.
        teacher: N x any channels x any size.
        mask: N x H x W int64, class index or 255 = void; brought to h x w by nearest neighbour.
        where: N x H x W bool.

    Returns:
        A scalar from 0 to 4; 0 where no labelled position takes part.
    """
    ours, theirs, where = on_one_grid(student, teacher, where)
    labels = nearest(mask, ours.shape[2:]).where(where, VOID)
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    owner = (images * (VOID + 1) + labels).flatten()  # one number per image and class

    def variation(features: Tensor) -> Tensor:
        vectors = features.movedim(1, -1).flatten(0, 2)
        # Sums instead of means: a cosine does not see the difference.
        sums = vectors.new_zeros(len(labels) * (VOID + 1), vectors.shape[1]).index_add(0, owner, vectors)
        return F.cosine_similarity(vectors, sums[owner], dim=1).view_as(labels)

    return masked_mean((variation(ours) - variation(theirs)).square(), labels != VOID)


def mgd_loss(
    student: Tensor,
    teacher: Tensor,
    where: Tensor,
    generate: Callable[[Tensor], Tensor],
    *,
    masked: float = 0.75,
) -> Tensor:
    """Masked generative distillation (Yang et al. 2022): rebuild the teacher's features from part of the own.

    Args:
        student: N x C x h x w features.
        teacher: N x C' x any size.
        where: N x H x W bool.
        generate: N x C x h x w -> N x C' x h x w, trains along.
        masked: probability that a position of the student's is hidden, from torch's global generator.

    Returns:
        A scalar, the mean squared difference; 0 where no position takes part.
    """
    seen = torch.rand(len(student), 1, *student.shape[2:], device=student.device) >= masked
    return fitnet_loss(generate(student * seen), teacher, where)


def on_one_grid(student: Tensor, teacher: Tensor, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both features in float32 and `where`, at the student's size."""
    size = student.shape[2:]
    resized = F.interpolate(teacher.float(), size=size, mode="bilinear", align_corners=False)
    return student.float(), resized, nearest(where, size)


def standardise(features: Tensor, where: Tensor) -> Tensor:
    """Give each channel mean 0 and deviation 1 over the positions of the batch (Cao et al. 2022, PKD).

    Features after a ReLU all point the same way, so that much of their direction says nothing of the image.

    Args:
        features: N x C x h x w float32.
        where: N x h x w bool, the positions that are counted.
    """
    share = (where / where.sum().clamp(min=1))[:, None]
    centred = features - (share * features).sum(dim=(0, 2, 3), keepdim=True)
    variance = (share * centred.square()).sum(dim=(0, 2, 3), keepdim=True)
    return centred / (variance + EPS).sqrt()


def nearest(values: Tensor, size: torch.Size) -> Tensor:
    """N x H x W labels or bools -> N x h x w, of the same kind, by nearest neighbour."""
    return F.interpolate(values[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(values.dtype)
