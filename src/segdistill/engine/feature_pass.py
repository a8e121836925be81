"""Passes of an encoder without a head over whole images, and the format in which their features are kept."""

import torch
from accelerate import Accelerator
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from segdistill.config.train import TrainConfig
from segdistill.data.cache.teacher import LogitsFormat, TeacherCache
from segdistill.data.transforms import normalise
from segdistill.models.backbones import FeatureTeacher


class FeaturePass:
    """Passes of a teacher that gives features alone.

    Args:
        teacher: the encoder.
        accelerator: device and precision.
    """

    def __init__(self, teacher: FeatureTeacher, accelerator: Accelerator) -> None:
        self.teacher, self.accelerator = teacher.to(accelerator.device), accelerator

    def format(self, config: TrainConfig) -> LogitsFormat:
        """The format of the features: their own grid, which covers the image exactly."""
        return LogitsFormat(
            classes=self.teacher.channels,
            square=config.size if config.augment.stretch else None,
            scale=self.teacher.scale,
            stride=self.teacher.stride,
            grid="stretched",
            topk=0,
            teacher=self.teacher.fingerprint(),
        )

    @torch.inference_mode()
    def values(self, image: Tensor, cache: TeacherCache) -> list[Tensor]:
        """What the cache keeps of a 3 x H x W uint8 image: 2 x C x h x w, of it and of its mirror image."""
        assert cache.features is not None
        form = cache.features.form
        size = self.teacher.input_size(form.unscaled_size((image.shape[1], image.shape[2])))
        resized = T.resize(image.to(self.accelerator.device), list(size), antialias=True)
        with self.accelerator.autocast():
            features = self.teacher.unresized(normalise(torch.stack([resized, resized.flip(2)])))
        return [features.float()]
