"""Fills the cache of a teacher's logits: every image once, whole, enlarged, and mirrored."""

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as T

from segdistill.config import TeacherConfig
from segdistill.data.datasets import Sample, image_file
from segdistill.data.loaders import plainly
from segdistill.data.logits import LogitsCache, LogitsFormat, image_key, to_grid
from segdistill.data.transforms import normalise, scaled_size
from segdistill.engine.history import progress, say
from segdistill.models.teacher import Teacher

STRIDES = (32, 16, 8, 4, 2)
LOSSLESS = 0.01
"""Largest mean difference, in standard deviations of the logits, of a grid that counts as the network's."""


def open_cache(
    config: TeacherConfig, teacher: Teacher, samples: Dataset[Sample], accelerator: Accelerator
) -> LogitsCache:
    """The cache of `config` with the logits of all `samples`; what is missing is computed, by all processes.

    Args:
        config: where the cache is, and how logits are kept.
        teacher: on the accelerator's device.
        samples: the training images; their masks are not looked at.
        accelerator: device, precision and processes.
    """
    assert config.cache is not None
    form = logits_format(config, teacher, samples, accelerator)
    cache = LogitsCache(Path(config.cache), form)
    missing = find_missing(cache, samples, accelerator)
    if missing:
        fill(cache, teacher, samples, missing, accelerator)
    accelerator.wait_for_everyone()
    cache.reload()
    return cache


def logits_format(
    config: TeacherConfig, teacher: Teacher, samples: Dataset[Sample], accelerator: Accelerator
) -> LogitsFormat:
    """The format of a teacher's logits, on the coarsest grid that loses nothing where none is asked for.

    Raises:
        ValueError: `cache_topk` leaves no class to the others.
    """
    if config.cache_topk >= teacher.classes:
        raise ValueError(
            f"teacher.cache_topk is {config.cache_topk}, but must be below the {teacher.classes} classes"
        )
    stride, corners = config.cache_stride, False
    if stride is None:
        stride, corners = find_grid(teacher, samples[0].image, config.scale, accelerator)
    return LogitsFormat(
        classes=teacher.classes,
        scale=config.scale,
        stride=stride,
        align_corners=corners,
        topk=config.cache_topk,
        teacher=teacher.fingerprint(),
    )


def find_grid(teacher: Teacher, image: Tensor, scale: float, accelerator: Accelerator) -> tuple[int, bool]:
    """Stride and `align_corners` of the coarsest grid whose bilinear enlargement is what the teacher answers.

    Most networks enlarge a coarse map themselves; kept on that grid, nothing is lost. One that answers in
    full detail gets a stride of 1.
    """
    seen = scaled_size(image.shape[1:], scale)
    full = look(teacher, image, seen, accelerator)[:1]
    for stride in STRIDES:
        grid = (-(-seen[0] // stride), -(-seen[1] // stride))
        for corners in (True, False):
            coarse = to_grid(full, grid, corners)
            again = F.interpolate(coarse, size=seen, mode="bilinear", align_corners=corners)
            if (again - full).abs().mean() <= LOSSLESS * full.std():
                return stride, corners
    return 1, False


def find_missing(cache: LogitsCache, samples: Dataset[Sample], accelerator: Accelerator) -> list[int]:
    """This process's share of the samples whose logits are not there, or are damaged."""
    share = range(accelerator.process_index, len(samples), accelerator.num_processes)  # type: ignore[arg-type]
    missing = []
    for index in share:
        image_id, path = image_file(samples, index)
        if not cache.holds(image_key(image_id, path)):
            missing.append(index)
    return missing


class _Images(Dataset[tuple[int, Tensor]]):
    """Index and image of some samples."""

    def __init__(self, samples: Dataset[Sample], indices: list[int]) -> None:
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        index = self.indices[position]
        return index, self.samples[index].image


def fill(
    cache: LogitsCache,
    teacher: Teacher,
    samples: Dataset[Sample],
    missing: list[int],
    accelerator: Accelerator,
) -> None:
    """Append the logits of the samples `missing` to this process's part."""
    form = cache.form
    say(f"The teacher looks at {len(missing)} images once; its logits go into {cache.folder}", accelerator)
    loader = DataLoader(_Images(samples, missing), batch_size=None, num_workers=2)
    with cache.writer(accelerator.process_index) as writer, progress(accelerator.is_main_process) as bar:
        task = bar.add_task("cache", total=len(missing), numbers="")
        for index, image in plainly(loader):
            size = (image.shape[1], image.shape[2])
            logits = look(teacher, image, scaled_size(size, form.scale), accelerator)
            image_id, path = image_file(samples, index)
            writer.write(
                image_key(image_id, path), size, to_grid(logits, form.grid(size), form.align_corners)
            )
            bar.advance(task)


@torch.inference_mode()
def look(teacher: Teacher, image: Tensor, seen: tuple[int, int], accelerator: Accelerator) -> Tensor:
    """What the teacher answers to a 3 x H x W uint8 image and its mirror image, enlarged to `seen`.

    Returns:
        2 x K x h x w float32 at the size `seen`.
    """
    view = T.resize(image.to(accelerator.device), list(seen), antialias=True)
    pixels = normalise(torch.stack([view, view.flip(2)])).contiguous(memory_format=torch.channels_last)
    with accelerator.autocast():
        return teacher.answer(pixels).float()
