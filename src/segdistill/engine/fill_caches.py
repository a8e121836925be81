"""Fills the caches ahead of training: decoded images, and the teacher's outputs for every image."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as T

from segdistill.config.naming import setting
from segdistill.console import log, progress
from segdistill.data.cache.teacher import (
    LARGEST,
    LogitsCache,
    LogitsFormat,
    TeacherCache,
    fit_features,
    image_key,
    to_grid,
)
from segdistill.data.samples import Sample, Samples
from segdistill.data.transforms import resize_bilinear
from segdistill.data.worker import ignore_stop_signals, loader_processes, with_plain_errors
from segdistill.distillation.table import FEATURE_LOSSES
from segdistill.engine.experiment import Experiment
from segdistill.engine.feature_pass import FeaturePass
from segdistill.engine.fill_image_cache import open_image_cache
from segdistill.inference.segment import Network, run_network
from segdistill.models.averaging import mean_probability
from segdistill.models.backbones import FeatureTeacher
from segdistill.models.hooks import FeatureHook
from segdistill.models.teacher import Teacher

STRIDES = (32, 16, 8, 4, 2)
LOSSLESS = 0.01
"""Largest mean difference, in standard deviations of the logits, of a grid that counts as the network's."""
FEATURE_PROBE_SIDE = 448
"""Pixels of the square that the stride of features is found on: every usual stride divides it, 14 too, so
that there is no incomplete cell."""
PROBES = 4
"""Images of the data set, beside one of noise, that a grid must be lossless for."""


def fill_caches(experiment: Experiment, accelerator: Accelerator) -> Experiment:
    """The experiment with its caches filled; all processes compute what is missing."""
    config = experiment.config
    cache = None
    if experiment.teacher is not None and config.teacher.cache:
        cache = open_teacher_cache(experiment, accelerator)
    train = experiment.train
    if config.data.cache is not None:
        train = open_image_cache(config.data, experiment.files, accelerator)
    return replace(experiment, train=train, cache=cache)


class TeacherOutputs(NamedTuple):
    """The teacher's outputs for an image and its mirror image."""

    logits: Tensor
    """2 x K x h x w float32, at the size of the teacher's input."""
    features: Tensor | None
    """2 x C x h' x w', where they are hooked."""


class TeacherPass:
    """Passes of a teacher over whole images; a context manager, which removes the hook at its end.

    Args:
        experiment: its teacher, and whether its losses compare features.
        accelerator: device and precision.
    """

    def __init__(self, experiment: Experiment, accelerator: Accelerator) -> None:
        assert isinstance(experiment.teacher, Teacher)
        objective = experiment.config.objective
        self.teacher = experiment.teacher.to(accelerator.device)
        self.accelerator = accelerator
        self.hook: FeatureHook | None = None
        if FEATURE_LOSSES.intersection(objective.weighted):
            module = self.teacher.network.module
            self.hook = FeatureHook(module, objective.teacher_layer, "objective.teacher_layer")

    def __call__(self, image: Tensor, size: tuple[int, int]) -> TeacherOutputs:
        """The outputs for a 3 x H x W uint8 image, taken as one of `size`, which the teacher scales."""
        image, largest = image.to(self.accelerator.device), self.teacher.input_size(size)
        with self.accelerator.autocast():
            logits = mean_probability(
                (view.weight, resize_bilinear(self._both(view.network, image, view.size), largest))
                for view in self.teacher.views(size)
            )
        if self.teacher.flip:  # both have been seen: the average of the one is the mirror of the other's
            plain, mirrored = logits[:1], logits[1:]
            averaged = mean_probability([(1.0, plain), (1.0, mirrored.flip(3))])
            logits = torch.cat([averaged, averaged.flip(3)])
        return TeacherOutputs(logits, None if self.hook is None else self.hook.pop())

    def values(self, image: Tensor, cache: TeacherCache) -> list[Tensor]:
        """What each part of the cache keeps of a 3 x H x W uint8 image."""
        assert cache.logits is not None
        form, size = cache.logits.form, _size(image)
        outputs = self(image, form.unscaled_size(size))
        logits = self.teacher.of_shared(outputs.logits)
        values = [to_grid(logits, form.grid_size(size), form.grid == "corners")]
        if outputs.features is not None and cache.features is not None:
            values.append(fit_features(outputs.features.float(), cache.features.form, size))
        return values

    def plain_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of the first network alone for the image in `size`, at the first scale.

        Returns:
            1 x K x h x w, of the classes that the teacher has.
        """
        view = self.teacher.views(size)[-1]
        with self.accelerator.autocast():
            logits = self._both(view.network, image.to(self.accelerator.device), view.size)[:1]
        return self.teacher.of_shared(logits)

    def features(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """2 x C x h' x w' features of the first network for the image, resized to `size` as its input."""
        assert self.hook is not None
        with self.accelerator.autocast():
            self._both(self.teacher.network, image.to(self.accelerator.device), size)
        return self.hook.pop()

    def _both(self, network: Network, image: Tensor, size: tuple[int, int]) -> Tensor:
        """2 x K x h x w float32 logits of an image, resized to `size`, and of its mirror image."""
        resized = T.resize(image, list(size), antialias=True)
        return run_network(network, torch.stack([resized, resized.flip(2)]))

    def __enter__(self) -> "TeacherPass":
        return self

    def __exit__(self, *_: object) -> None:
        if self.hook is not None:
            self.hook.remove()


def open_teacher_cache(experiment: Experiment, accelerator: Accelerator) -> TeacherCache:
    """The cache with the teacher's outputs for all training images, filled.

    Args:
        experiment: teacher, images (their masks are not read), where the cache is and what it holds.
        accelerator: device, precision and processes.

    Raises:
        ValueError: `cache_topk` leaves no class to the others.
    """
    config = experiment.config
    assert config.teacher.cache is not None
    root = Path(config.teacher.cache)
    if isinstance(experiment.teacher, FeatureTeacher):
        feature_pass = FeaturePass(experiment.teacher, accelerator)
        cache = TeacherCache(None, LogitsCache(root, feature_pass.format(config)))
        fill_teacher_cache(cache, experiment.files, feature_pass)
        return cache
    with TeacherPass(experiment, accelerator) as teacher_pass:
        form = logits_format(experiment, teacher_pass)
        features = None
        if teacher_pass.hook is not None:
            layer = config.objective.teacher_layer
            features = LogitsCache(root, features_format(form, layer, experiment.files[0], teacher_pass))
        teacher = teacher_pass.teacher
        logits = LogitsCache(root, form, teacher.shared, teacher.classes)
        cache = TeacherCache(logits, features)
        fill_teacher_cache(cache, experiment.files, teacher_pass)
    return cache


def logits_format(experiment: Experiment, teacher_pass: TeacherPass) -> LogitsFormat:
    """The format of the teacher's logits, on the coarsest grid that loses nothing where none is asked for.

    Raises:
        ValueError: `cache_topk` leaves no class to the others.
    """
    config, teacher = experiment.config, teacher_pass.teacher
    topk, stride = config.teacher.cache_topk, config.teacher.cache_stride
    classes = teacher.classes if teacher.shared is None else len(teacher.shared)
    if topk >= classes:
        whose = "" if teacher.shared is None else " that the teacher has"
        raise ValueError(f"teacher.cache_topk is {topk}, but must be below the {classes} classes{whose}")
    form = LogitsFormat(
        classes=classes,
        square=config.size if config.augment.stretch else None,
        scale=max(teacher.scales),
        stride=stride or 1,
        grid="stretched" if teacher.output_stride is None else "corners",
        topk=topk,
        teacher=teacher.fingerprint(),
        output_stride=teacher.output_stride,
    )
    if stride is None:
        images = [(image, form.unscaled_size(_size(image))) for image in _probes(experiment.files)]
        probes = [teacher.of_shared(teacher_pass(image, size).logits[:1]) for image, size in images]
        stride, corners = find_grid(probes)
        form = replace(form, stride=stride, grid="corners" if corners else "stretched")
        if teacher.network.output_stride is None:
            if teacher.averages:  # whose grid is finer than the network's own
                probes = [teacher_pass.plain_logits(image, size) for image, size in images]
                stride, corners = find_grid(probes)
            if corners:
                advise_output_stride(stride, probes, teacher_pass.accelerator)
    return form


def advise_output_stride(stride: int, probes: list[Tensor], accelerator: Accelerator) -> None:
    """Name the setting for a network whose grid is exact only at other sizes than those that it gets.

    Args:
        stride: of the corner-aligned grid that its logits lie on.
        probes: its logits, 1 x K x h x w, of several images.
        accelerator: whose main process logs it.
    """
    if any((side - 1) % stride for probe in probes for side in probe.shape[2:]):
        log(
            f"The teacher's logits lie on a grid of stride {stride} with aligned corners: "
            f"{setting('teacher.output_stride')} {stride} makes both sides of its input a multiple of "
            f"{stride}, plus 1, where that grid is exact",
            accelerator,
        )


def _probes(samples: Samples) -> list[Tensor]:
    """Images that a grid is tried on: some of the data set, evenly spaced, and one of noise.

    A smooth or black photograph looks the same on every grid; noise shows each pixel of a teacher that works
    pixel by pixel.
    """
    count = len(samples)
    chosen = sorted({i * count // PROBES for i in range(PROBES)})
    images = [samples[index].image for index in chosen]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, images[0].shape, dtype=torch.uint8, generator=generator)
    return [noise, *images]


def features_format(
    form: LogitsFormat, layer: str | None, sample: Sample, teacher_pass: TeacherPass
) -> LogitsFormat:
    """The format of the features of the teacher's first network, kept on their own grid.

    They are those of its plain view at the first scale. `form` is the format of the teacher's logits.
    """
    teacher = teacher_pass.teacher
    aligned = teacher.network.output_stride is not None
    channels, rows = teacher_pass.features(sample.image, (FEATURE_PROBE_SIDE, FEATURE_PROBE_SIDE)).shape[1:3]
    # With aligned corners the outermost of n positions lie n - 1 strides apart.
    cells = max(1, rows - 1) if aligned else rows
    return replace(
        form,
        classes=channels,
        scale=teacher.scales[0],
        output_stride=teacher.network.output_stride,
        stride=max(1, round(FEATURE_PROBE_SIDE / cells)),
        grid="corners" if aligned else "strided",
        topk=0,
        teacher=f"{form.teacher}: {layer or 'deepest'}",
    )


def find_grid(probes: list[Tensor]) -> tuple[int, bool]:
    """Stride and `align_corners` of the coarsest grid whose bilinear upsampling gives the logits back.

    Most networks upsample a coarse map themselves; kept on that grid, nothing is lost. One whose logits have
    full detail gets a stride of 1.

    Args:
        probes: 1 x K x H x W logits of several images.
    """
    for stride in STRIDES:
        for corners in (True, False):
            if all(_is_lossless(logits, stride, corners) for logits in probes):
                return stride, corners
    return 1, False


def _is_lossless(logits: Tensor, stride: int, align_corners: bool) -> bool:
    """Whether 1 x K x H x W logits come back from the grid of this stride."""
    size = logits.shape[2:]
    coarse = to_grid(logits, (-(-size[0] // stride), -(-size[1] // stride)), align_corners)
    again = F.interpolate(coarse, size=size, mode="bilinear", align_corners=align_corners)
    return bool((again - logits).abs().mean() <= LOSSLESS * logits.std())


def find_missing(cache: TeacherCache, samples: Samples, accelerator: Accelerator) -> list[int]:
    """Of this process's slice of the samples, those that the cache does not hold whole."""
    own = range(accelerator.process_index, len(samples), accelerator.num_processes)
    return [index for index in own if not cache.holds(_key(samples, index))]


def _key(samples: Samples, index: int) -> int:
    """What the image of a sample is looked up by."""
    files = samples.files(index)
    return image_key(files.id, files.image, files.bits)


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
    cache: TeacherCache, samples: Samples, teacher_pass: TeacherPass | FeaturePass
) -> None:
    """Compute the teacher's outputs for all samples that the cache lacks, each in one of the processes."""
    missing = find_missing(cache, samples, teacher_pass.accelerator)
    if missing:
        append_outputs(cache, samples, missing, teacher_pass)
    teacher_pass.accelerator.wait_for_everyone()
    cache.reload()


def append_outputs(
    cache: TeacherCache, samples: Samples, missing: list[int], teacher_pass: TeacherPass | FeaturePass
) -> None:
    """Append the teacher's outputs for the samples `missing` to this process's shard."""
    accelerator = teacher_pass.accelerator
    rank = accelerator.process_index
    folders = " and ".join(str(one.folder) for one in cache.all)
    log(f"Computing the teacher's outputs for {len(missing)} images once, into {folders}", accelerator)
    loader = DataLoader(
        _Images(samples, missing),
        batch_size=None,
        num_workers=loader_processes(2),
        worker_init_fn=ignore_stop_signals,
        # A loader draws a seed for its workers: from the global generator it would change the training.
        generator=torch.Generator().manual_seed(0),
    )
    with ExitStack() as stack:
        writers = [stack.enter_context(one.writer(rank)) for one in cache.all]
        bar = stack.enter_context(progress(accelerator.is_main_process))
        task = bar.add_task("cache", total=len(missing), unit="image")
        for index, image in with_plain_errors(loader):
            for writer, value in zip(writers, teacher_pass.values(image, cache), strict=True):
                writer.write(_key(samples, index), _size(image), value)
            bar.advance(task)
    for one, writer in zip(cache.all, writers, strict=True):
        if writer.clamped:
            kind = "logits" if one is cache.logits else "features"
            log(
                f"The teacher's {kind} of {writer.clamped} images go beyond {LARGEST:,.0f}, the largest "
                "number that the cache keeps: they are clamped to it",
                accelerator,
            )


def _size(image: Tensor) -> tuple[int, int]:
    """H, W of a 3 x H x W image."""
    return image.shape[1], image.shape[2]
