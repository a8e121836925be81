"""Fills the caches ahead of training: decoded images, and the teacher's outputs."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms.v2 import functional as T

from segdistill.config.train import FEATURE_LOSSES, DataConfig, TrainConfig
from segdistill.console import log, progress
from segdistill.data.cache.images import DecodedSamples
from segdistill.data.cache.teacher import LogitsCache, LogitsFormat, TeacherCache, image_key, to_grid
from segdistill.data.samples import DownscaledSamples, Sample, image_file
from segdistill.data.transforms import normalise
from segdistill.data.worker import ignore_stop_signals, with_plain_errors
from segdistill.models.hooks import FeatureHook
from segdistill.models.teacher import Teacher

STRIDES = (32, 16, 8, 4, 2)

LOSSLESS = 0.01
"""Largest mean difference, in standard deviations of the logits, of a grid that counts as the network's."""


def open_teacher_cache(
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
    hook, features = None, None
    if FEATURE_LOSSES.intersection(config.objective.weighted):
        layer = config.objective.teacher_layer
        hook = FeatureHook(teacher.network.module, layer, "objective.teacher_layer")
        features = LogitsCache(root, features_format(form, layer, teacher, samples, hook, accelerator))
    cache = TeacherCache(LogitsCache(root, form), features)
    missing = find_missing(cache, samples, accelerator)
    if missing:
        fill_teacher_cache(cache, teacher, samples, missing, accelerator, hook)
    if hook is not None:
        hook.remove()
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
    hook: FeatureHook,
    accelerator: Accelerator,
) -> LogitsFormat:
    """The format of the teacher's features, kept on their own grid; `form` is that of its logits."""
    image = samples[0].image
    seen = form.seen((image.shape[1], image.shape[2]))
    look(teacher, image, seen, accelerator)
    channels, height = hook.pop().shape[1:3]
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


def fill_teacher_cache(
    cache: TeacherCache,
    teacher: Teacher,
    samples: Dataset[Sample],
    missing: list[int],
    accelerator: Accelerator,
    hook: FeatureHook | None = None,
) -> None:
    """Append what the teacher says of the samples `missing` to this process's part; features from `hook`."""
    form, rank = cache.logits.form, accelerator.process_index
    folders = " and ".join(str(part.folder) for part in cache.all)
    log(f"The teacher looks at {len(missing)} images once; what it says goes into {folders}", accelerator)
    loader = DataLoader(
        _Images(samples, missing), batch_size=None, num_workers=2, worker_init_fn=ignore_stop_signals
    )
    with ExitStack() as stack:
        writers = [stack.enter_context(part.writer(rank)) for part in cache.all]
        bar = stack.enter_context(progress(accelerator.is_main_process))
        task = bar.add_task("cache", total=len(missing), numbers="")
        for index, image in with_plain_errors(loader):
            size = (image.shape[1], image.shape[2])
            logits = look(teacher, image, form.seen(size), accelerator)
            said = [to_grid(logits, form.grid(size), form.align_corners)]
            if hook is not None and cache.features is not None:
                grid = cache.features.form.grid(size)
                said.append(F.interpolate(hook.pop().float(), grid, mode="bilinear", align_corners=False))
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
        return teacher.unscaled(pixels).float()


def open_image_cache(
    config: DataConfig, samples: Dataset[Sample], accelerator: Accelerator
) -> Dataset[Sample]:
    """The training samples as training reads them: reduced, and from a cache, where `config` says so.

    Args:
        config: the long side, where the cache is, and how large it may become.
        samples: what `open_training` returned.
        accelerator: each of its processes decodes a share of what is missing.
    """
    if config.cache is None:
        return samples if config.long_side is None else DownscaledSamples(samples, config.long_side)
    decoded = DecodedSamples(samples, config.long_side, Path(config.cache))
    share = range(accelerator.process_index, len(decoded), accelerator.num_processes)
    missing = decoded.missing(share)
    accelerator.wait_for_everyone()  # nobody writes while another still looks at what there is
    if missing:
        fill_image_cache(decoded, missing, config, accelerator)
    accelerator.wait_for_everyone()
    decoded.cache.reload()
    kept = decoded.kept()
    if kept < len(decoded):
        log(f"{kept} of {len(decoded)} decoded images fit into data.cache_gb {config.cache_gb:g} of "
            f"{decoded.cache.folder}; the others are decoded each time", accelerator)  # fmt: skip
    return decoded


def fill_image_cache(
    decoded: DecodedSamples, missing: list[int], config: DataConfig, accelerator: Accelerator
) -> None:
    """Append the samples `missing` to this process's part, as far as there is room for them."""
    cache, rank, world = decoded.cache, accelerator.process_index, accelerator.num_processes
    with cache.writer(rank) as writer, progress(accelerator.is_main_process) as bar:
        cache.reload()  # another run may have filled the part while this one waited for it
        missing = decoded.missing(missing)
        used = sum(part.stat().st_size for part in cache.parts)
        room = (1e9 * config.cache_gb - used) / world
        if not missing or room <= 0:
            return
        log(
            f"Decoding {len(missing) * world} images once, into {cache.folder}, as far as they fit",
            accelerator,
        )
        loader = DataLoader(
            Subset(decoded, missing),
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=ignore_stop_signals,
            # The loader draws a seed for its workers: from a generator of its own, not from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        task = bar.add_task("decode", total=len(missing), numbers="")
        for index, sample in zip(missing, with_plain_errors(loader), strict=True):
            taken = decoded.write(writer, index, sample, room)
            if not taken:
                break
            room -= taken
            bar.advance(task)
