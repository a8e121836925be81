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
from segdistill.data.cache.teacher import (
    LARGEST,
    LogitsCache,
    LogitsFormat,
    TeacherCache,
    fit_features,
    image_key,
    to_grid,
)
from segdistill.data.samples import DownscaledSamples, Samples
from segdistill.data.transforms import normalise
from segdistill.data.worker import ignore_stop_signals, with_plain_errors
from segdistill.models.hooks import FeatureHook
from segdistill.models.teacher import Teacher

STRIDES = (32, 16, 8, 4, 2)

PROBE = 448
"""Side, in pixels, of the image that the stride of the teacher's features is found on."""

LOSSLESS = 0.01
"""Largest mean difference, in standard deviations of the logits, of a grid that counts as the network's."""


def open_teacher_cache(
    config: TrainConfig, teacher: Teacher, samples: Samples, accelerator: Accelerator
) -> TeacherCache:
    """The cache with the teacher's outputs for all `samples`; all processes compute what is missing.

    Args:
        config: where the cache is, how logits are kept, whether images are stretched, and whether losses
            compare features.
        teacher: on the accelerator's device.
        samples: the training images; their masks are not used.
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
    config: TrainConfig, teacher: Teacher, samples: Samples, accelerator: Accelerator
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
        grid="stretched",
        topk=topk,
        teacher=teacher.fingerprint(),
    )
    if stride is None:
        image = samples[0].image
        size = form.input_size((image.shape[1], image.shape[2]))
        stride, corners = find_grid(teacher, image, size, accelerator)
        form = replace(form, stride=stride, grid="corners" if corners else "stretched")
    return form


def features_format(
    form: LogitsFormat,
    layer: str | None,
    teacher: Teacher,
    samples: Samples,
    hook: FeatureHook,
    accelerator: Accelerator,
) -> LogitsFormat:
    """The format of the teacher's features, kept on their own grid; `form` is that of its logits."""
    # Every usual stride, and a patch of 14 pixels too, divides this size: the last cell is whole.
    look(teacher, samples[0].image, (PROBE, PROBE), accelerator)
    channels, rows = hook.take().shape[1:3]
    return replace(
        form,
        classes=channels,
        stride=max(1, round(PROBE / rows)),
        grid="strided",
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


def find_missing(cache: TeacherCache, samples: Samples, accelerator: Accelerator) -> list[int]:
    """This process's slice of the samples of which something is not there, or is damaged."""
    indices = range(accelerator.process_index, len(samples), accelerator.num_processes)
    return [index for index in indices if not cache.holds(key_of(samples, index))]


def key_of(samples: Samples, index: int) -> int:
    """What the image of a sample is looked up by."""
    files = samples.files(index)
    return image_key(files.id, files.image)


class _Images(Dataset[tuple[int, Tensor]]):
    """Index and image of some samples."""

    def __init__(self, samples: Samples, indices: list[int]) -> None:
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        index = self.indices[position]
        return index, self.samples[index].image


def fill_teacher_cache(
    cache: TeacherCache,
    teacher: Teacher,
    samples: Samples,
    missing: list[int],
    accelerator: Accelerator,
    hook: FeatureHook | None = None,
) -> None:
    """Append the teacher's outputs for `missing` samples to this process's shard; features from `hook`."""
    form, rank = cache.logits.form, accelerator.process_index
    folders = " and ".join(str(store.folder) for store in cache.all)
    log(f"The teacher's outputs for {len(missing)} images are computed once, into {folders}", accelerator)
    loader = DataLoader(
        _Images(samples, missing), batch_size=None, num_workers=2, worker_init_fn=ignore_stop_signals
    )
    with ExitStack() as stack:
        writers = [stack.enter_context(store.writer(rank)) for store in cache.all]
        bar = stack.enter_context(progress(accelerator.is_main_process))
        task = bar.add_task("cache", total=len(missing), numbers="")
        for index, image in with_plain_errors(loader):
            size = (image.shape[1], image.shape[2])
            logits = look(teacher, image, form.input_size(size), accelerator)
            outputs = [to_grid(logits, form.grid_size(size), form.grid == "corners")]
            if hook is not None and cache.features is not None:
                outputs.append(fit_features(hook.take().float(), cache.features.form, size))
            key = key_of(samples, index)
            for writer, values in zip(writers, outputs, strict=True):
                writer.write(key, size, values)
            bar.advance(task)
    for name, writer in zip(("logits", "features"), writers, strict=False):
        if writer.clamped:
            log(f"The teacher's {name} of {writer.clamped} images go beyond {LARGEST:,.0f}, the largest "
                "number that the cache keeps: they are clamped to it", accelerator)  # fmt: skip


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


def open_image_cache(config: DataConfig, samples: Samples, accelerator: Accelerator) -> Samples:
    """The training samples as training reads them: downscaled, and from a cache, where `config` says so.

    Args:
        config: the long side, where the cache is, and how large it may become.
        samples: what `open_training` returned.
        accelerator: each of its processes decodes a slice of what is missing.
    """
    if config.cache is None:
        return samples if config.long_side is None else DownscaledSamples(samples, config.long_side)
    decoded = DecodedSamples(samples, config.long_side, Path(config.cache))
    missing = decoded.missing(range(accelerator.process_index, len(decoded), accelerator.num_processes))
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
    """Append the samples `missing` to this process's shard, as far as there is room for them."""
    cache, rank, world = decoded.cache, accelerator.process_index, accelerator.num_processes
    with cache.writer(rank) as writer, progress(accelerator.is_main_process) as bar:
        cache.reload()  # another run may have filled the shard while this one waited for it
        missing = decoded.missing(missing)
        room = (1e9 * config.cache_gb - cache.bytes) / world
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
