"""Fills the cache of what a teacher says: every image once, whole, enlarged, and mirrored."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as T

from segdistill.config import FEATURE_LOSSES, TrainConfig
from segdistill.data.datasets import Sample, image_file
from segdistill.data.loaders import ignore_stop_signals, plainly
from segdistill.data.logits import LogitsCache, LogitsFormat, TeacherCache, image_key, to_grid
from segdistill.data.transforms import normalise
from segdistill.distillation.features import FeatureTap
from segdistill.engine.history import progress, say
from segdistill.models.teacher import Teacher

STRIDES = (32, 16, 8, 4, 2)
LOSSLESS = 0.01
"""Largest mean difference, in standard deviations of the logits, of a grid that counts as the network's."""


def open_cache(
    config: TrainConfig, teacher: Teacher, samples: Dataset[Sample], accelerator: Accelerator
) -> TeacherCache:
    """The cache with what the teacher says of all `samples`; all processes compute what is missing.

    Args:
        config: where the cache is, how logits are kept, how training sees the images, and whether its losses
            compare features.
        teacher: on the accelerator's device.
        samples: the training images; their masks are not looked at.
        accelerator: device, precision and processes.
    """
    assert config.teacher.cache is not None
    root = Path(config.teacher.cache)
    form = logits_format(config, teacher, samples, accelerator)
    tap, features = None, None
    if FEATURE_LOSSES.intersection(config.objective.weighted):
        layer = config.objective.teacher_layer
        tap = FeatureTap(teacher.network.module, layer, "objective.teacher_layer")
        features = LogitsCache(root, features_format(form, layer, teacher, samples, tap, accelerator))
    cache = TeacherCache(LogitsCache(root, form), features)
    missing = find_missing(cache, samples, accelerator)
    if missing:
        fill(cache, teacher, samples, missing, accelerator, tap)
    if tap is not None:
        tap.remove()
    accelerator.wait_for_everyone()
    cache.reload()
    return cache


def logits_format(
    config: TrainConfig, teacher: Teacher, samples: Dataset[Sample], accelerator: Accelerator
) -> LogitsFormat:
    """The format of a teacher's logits, on the coarsest grid that loses nothing where none is asked for.

    Raises:
        ValueError: `cache_topk` leaves no class to the others.
    """
    topk, stride = config.teacher.cache_topk, config.teacher.cache_stride
    if topk >= teacher.classes:
        raise ValueError(f"teacher.cache_topk is {topk}, but must be below the {teacher.classes} classes")
    form = LogitsFormat(
        classes=teacher.classes,
        square=config.size if config.augment.stretch else None,
        scale=config.teacher.scale,
        stride=stride or 1,
        align_corners=False,
        topk=topk,
        teacher=teacher.fingerprint(),
    )
    if stride is None:
        image = samples[0].image
        stride, corners = find_grid(teacher, image, form.seen((image.shape[1], image.shape[2])), accelerator)
        form = replace(form, stride=stride, align_corners=corners)
    return form


def features_format(
    form: LogitsFormat,
    layer: str | None,
    teacher: Teacher,
    samples: Dataset[Sample],
    tap: FeatureTap,
    accelerator: Accelerator,
) -> LogitsFormat:
    """The format of the teacher's features, kept on their own grid; `form` is that of its logits."""
    image = samples[0].image
    seen = form.seen((image.shape[1], image.shape[2]))
    look(teacher, image, seen, accelerator)
    channels, height = tap.take().shape[1:3]
    stride = round(seen[0] / height)
    return replace(
        form,
        classes=channels,
        stride=stride,
        align_corners=form.align_corners and stride == form.stride,
        topk=0,
        teacher=f"{form.teacher}: {layer or 'deepest'}",
    )


def find_grid(
    teacher: Teacher, image: Tensor, seen: tuple[int, int], accelerator: Accelerator
) -> tuple[int, bool]:
    """Stride and `align_corners` of the coarsest grid whose bilinear enlargement is what the teacher answers.

    Most networks enlarge a coarse map themselves; kept on that grid, nothing is lost. One that answers in
    full detail gets a stride of 1.
    """
    full = look(teacher, image, seen, accelerator)[:1]
    for stride in STRIDES:
        grid = (-(-seen[0] // stride), -(-seen[1] // stride))
        for corners in (True, False):
            coarse = to_grid(full, grid, corners)
            again = F.interpolate(coarse, size=seen, mode="bilinear", align_corners=corners)
            if (again - full).abs().mean() <= LOSSLESS * full.std():
                return stride, corners
    return 1, False


def find_missing(cache: TeacherCache, samples: Dataset[Sample], accelerator: Accelerator) -> list[int]:
    """This process's share of the samples of which something is not there, or is damaged."""
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
    cache: TeacherCache,
    teacher: Teacher,
    samples: Dataset[Sample],
    missing: list[int],
    accelerator: Accelerator,
    tap: FeatureTap | None = None,
) -> None:
    """Append what the teacher says of the samples `missing` to this process's part; features from `tap`."""
    form, rank = cache.logits.form, accelerator.process_index
    folders = " and ".join(str(part.folder) for part in cache.all)
    say(f"The teacher looks at {len(missing)} images once; what it says goes into {folders}", accelerator)
    loader = DataLoader(
        _Images(samples, missing), batch_size=None, num_workers=2, worker_init_fn=ignore_stop_signals
    )
    with ExitStack() as stack:
        writers = [stack.enter_context(part.writer(rank)) for part in cache.all]
        bar = stack.enter_context(progress(accelerator.is_main_process))
        task = bar.add_task("cache", total=len(missing), numbers="")
        for index, image in plainly(loader):
            size = (image.shape[1], image.shape[2])
            logits = look(teacher, image, form.seen(size), accelerator)
            said = [to_grid(logits, form.grid(size), form.align_corners)]
            if tap is not None and cache.features is not None:
                grid = cache.features.form.grid(size)
                said.append(F.interpolate(tap.take().float(), grid, mode="bilinear", align_corners=False))
            key = image_key(*image_file(samples, index))
            for writer, values in zip(writers, said, strict=True):
                writer.write(key, size, values)
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
