"""The losses of intermediate feature maps: pure functions, in float32 whatever precision comes in.

N: images, C: channels, h, w: rows and columns of a feature map, H, W: of the image.
All take `student_features` N x C x h x w, `teacher_features`, which are resized bilinearly to h x w, and
`valid`, N x H x W bool, resized to h x w by nearest neighbour; then a mask or a module where they need one.
Their options are keywords.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.data.labels import VOID
from segdistill.distillation.losses import EPS, masked_mean

ZERO = 1e-30
"""A feature map without a larger value is taken for zero: its reciprocal would overflow."""


def cosine_loss(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor, *, standardised: bool = False
) -> Tensor:
    """1 - cosine similarity of the feature vectors at each position, averaged over the positions.

    Args:
        student_features: N x C x h x w, already with the teacher's channels.
        teacher_features: N x C x any size.
        valid: N x H x W bool.
        standardised: first give each of the teacher's channels mean 0 and deviation 1, see `standardise`.

    Returns:
        A scalar from 0 to 2; 0 where no position is valid.
    """
    student, teacher, valid = on_one_grid(student_features, teacher_features, valid)
    teacher = standardise(teacher, valid) if standardised else teacher
    return masked_mean(1 - F.cosine_similarity(student, teacher, dim=1), valid)


def fitnet_loss(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor, *, standardised: bool = False
) -> Tensor:
    """Mean squared difference of the features (Romero et al. 2015, FitNets), over channels and positions.

    Args:
        student_features: N x C x h x w, already with the teacher's channels.
        teacher_features: N x C x any size.
        valid: N x H x W bool.
        standardised: first give each of the teacher's channels mean 0 and deviation 1, see `standardise`.

    Returns:
        A scalar; 0 where no position is valid.
    """
    student, teacher, valid = on_one_grid(student_features, teacher_features, valid)
    teacher = standardise(teacher, valid) if standardised else teacher
    return masked_mean((student - teacher).square().mean(dim=1), valid)


def attention_loss(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor, *, power: float = 2.0
) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): where in the image the features are strong.

    The attention map of an image is the sum over the channels of |feature| to some power, scaled to length 1;
    the loss is the squared distance of the two maps, averaged over the images.

    Args:
        student_features: N x C x h x w.
        teacher_features: N x any channels x any size.
        valid: N x H x W bool.
        power: a larger one weighs the strongest features more.

    Returns:
        A scalar from 0 to 2; 0 where no position is valid.
    """
    student, teacher, valid = on_one_grid(student_features, teacher_features, valid)
    student_map, teacher_map = (attention_map(x, valid, power) for x in (student, teacher))
    return masked_mean((student_map - teacher_map).square().sum(dim=1), valid.flatten(1).any(dim=1))


def attention_map(features: Tensor, valid: Tensor, power: float) -> Tensor:
    """N x C x h x w -> N x h*w: the sum over the channels of |feature|^power, each image's of length 1.

    A map of zeros stays one.
    """
    strength = features.abs().where(valid[:, None], 0)
    # Divided by the image's largest value, a power can neither overflow nor vanish. In a map of length 1 that
    # value cancels, so it needs no gradient of its own.
    largest = strength.detach().amax(dim=(1, 2, 3), keepdim=True)
    relative = strength / largest.where(largest > ZERO, 1)
    return F.normalize((relative**power).sum(dim=1).flatten(1), eps=EPS)


def pairwise_loss(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor, *, patches: int = 8
) -> Tensor:
    """Pair-wise distillation (Liu et al. 2019, structured distillation): which patches resemble each other.

    Features are averaged over a grid of patches; the loss is the squared difference of the two networks'
    cosine similarities, averaged over all pairs of patches of one image.

    Args:
        student_features: N x C x h x w.
        teacher_features: N x any channels x any size.
        valid: N x H x W bool.
        patches: rows and columns of the grid (at most h and w).

    Returns:
        A scalar from 0 to 4; 0 where no position is valid.
    """
    student, teacher, valid = on_one_grid(student_features, teacher_features, valid)
    grid = (min(patches, student.shape[2]), min(patches, student.shape[3]))
    weights = valid[:, None].float()
    valid_patches = F.adaptive_avg_pool2d(weights, grid).flatten(1) > 0

    def similarity(features: Tensor) -> Tensor:
        nodes = F.normalize(F.adaptive_avg_pool2d(features * weights, grid).flatten(2), dim=1, eps=EPS)
        return nodes.transpose(1, 2) @ nodes

    with torch.autocast(student.device.type, enabled=False):  # which would multiply matrices in bf16
        squares = (similarity(student) - similarity(teacher)).square()
    return masked_mean(squares, valid_patches[:, :, None] & valid_patches[:, None, :])


def ifvd_loss(student_features: Tensor, teacher_features: Tensor, valid: Tensor, mask: Tensor) -> Tensor:
    """Intra-class feature variation (Wang et al. 2020): how alike each pixel is to the others of its class.

    A class's prototype is the mean feature of its pixels in one image. Each network's map holds the cosine
    similarity of every labelled position to its prototype; the loss is the maps' mean squared difference.

    Args:
        student_features: N x C x h x w.
        teacher_features: N x any channels x any size.
        valid: N x H x W bool.
        mask: N x H x W int64, class index or 255 = void; resized to h x w by nearest neighbour.

    Returns:
        A scalar from 0 to 4; 0 where no labelled position is valid.
    """
    student, teacher, valid = on_one_grid(student_features, teacher_features, valid)
    labels = nearest(mask, student.shape[2:]).where(valid, VOID)
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    prototype = (images * (VOID + 1) + labels).flatten()  # one number per image and class

    def variation(features: Tensor) -> Tensor:
        vectors = features.movedim(1, -1).flatten(0, 2)
        # Sums instead of means: the cosine is the same.
        sums = vectors.new_zeros(len(labels) * (VOID + 1), vectors.shape[1]).index_add(0, prototype, vectors)
        return F.cosine_similarity(vectors, sums[prototype], dim=1).view_as(labels)

    return masked_mean((variation(student) - variation(teacher)).square(), labels != VOID)


def mgd_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    valid: Tensor,
    generator: Callable[[Tensor], Tensor],
    *,
    masked: float = 0.75,
) -> Tensor:
    """Masked generative distillation (Yang et al. 2022): the teacher's features from a part of the student's.

    Args:
        student_features: N x C x h x w.
        teacher_features: N x C' x any size.
        valid: N x H x W bool.
        generator: N x C x h x w -> N x C' x h x w, trains along.
        masked: probability that a position of the student's is hidden, from torch's global generator.

    Returns:
        A scalar, the mean squared difference; 0 where no position is valid.
    """
    size = (len(student_features), 1, *student_features.shape[2:])
    shown = torch.rand(size, device=student_features.device) >= masked
    return fitnet_loss(generator(student_features * shown), teacher_features, valid)


def on_one_grid(
    student_features: Tensor, teacher_features: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both features in float32 and `valid`, at the size of the student's features."""
    size = student_features.shape[2:]
    resized = F.interpolate(teacher_features.float(), size=size, mode="bilinear", align_corners=False)
    return student_features.float(), resized, nearest(valid, size)


def standardise(features: Tensor, valid: Tensor) -> Tensor:
    """Give each channel mean 0 and deviation 1 over the positions of the batch (Cao et al. 2022, PKD).

    Features after a ReLU all point much the same way; what distinguishes images is the rest.

    Args:
        features: N x C x h x w float32.
        valid: N x h x w bool, the positions that are counted.

    Returns:
        N x C x h x w; a channel that is constant up to rounding becomes 0.
    """
    dims = (0, 2, 3)
    weights = (valid / valid.sum().clamp(min=1))[:, None]
    largest = features.abs().where(valid[:, None], 0).amax(dims, keepdim=True)
    relative = features / largest.where(largest > ZERO, 1)
    centred = relative - (weights * relative).sum(dims, keepdim=True)
    deviation = (weights * centred.square()).sum(dims, keepdim=True).sqrt()
    constant = deviation <= EPS
    return (centred / deviation.where(~constant, 1)).where(~constant, 0)


def nearest(values: Tensor, size: torch.Size) -> Tensor:
    """N x H x W labels or bools -> N x h x w, of the same kind, by nearest neighbour."""
    return F.interpolate(values[:, None].float(), size=size, mode="nearest-exact")[:, 0].to(values.dtype)
