"""Class logits of networks that predict masks: MaskFormer, Mask2Former, OneFormer, EoMT and DETR.

N: images, Q: queries, K: classes, h, w: rows and columns of the masks.
"""

import torch
from torch import Tensor

FLOOR = 1e-6
"""Added to scores before their logarithm: what no query claims is as unlikely as this, and not impossible."""


def class_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """The sum over queries of class times mask probability, at each pixel and for each class.

    This is the semantic inference of MaskFormer (Cheng et al. 2021, "Per-Pixel Classification is Not All You
    Need for Semantic Segmentation", section 3.4), which its successors have kept.

    Args:
        class_logits: N x Q x (K + 1), the last class being "no object".
        mask_logits: N x Q x h x w.

    Returns:
        N x K x h x w float32, 0 to Q. They do not add up to 1 over the classes.
    """
    classes = class_logits.float().softmax(dim=-1)[..., :-1]
    return torch.einsum("nqk,nqhw->nkhw", classes, mask_logits.float().sigmoid())


def score_logits(scores: Tensor) -> Tensor:
    """Logits whose softmax is the share of each class in the scores; their order is that of the scores."""
    return (scores + FLOOR).log()
