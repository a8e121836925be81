"""The settings of a training: `segdistill train`."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from jsonargparse import set_parsing_settings

from segdistill.config.architecture import Architecture
from segdistill.config.naming import setting
from segdistill.config.objective import ObjectiveConfig as ObjectiveConfig
from segdistill.config.prompts import PromptConfig
from segdistill.config.values import largest, require
from segdistill.config.yaml import read_groups

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Precision = Literal["auto", "fp32", "bf16", "fp16"]

Optimizer = Literal["adamw", "adam", "sgd"]

Schedule = Literal["cosine", "poly", "constant"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images and masks are."""

    root: str = ""
    """Folder of the labelled data set: a VOC devkit, CVAT's or YOLO's, or what a dataset.yaml describes."""
    layout: str | None = None
    """A dataset.yaml kept elsewhere (names, palette, void, folders), for data that has none of its own."""
    split: str = "train"
    """Split to train on: a list file of a VOC devkit, or a value for {split} in a folder layout."""
    val_split: str = "val"
    """Split that training evaluates on; unused with val_share."""
    val_share: float = 0.0
    """Fraction of the images of `split` that is held out for validation, where the data set has no split for
    it; chosen by a hash of each image's name, so that it stays the same when files are added. 0 holds out
    none."""
    extra: list[str] = field(default_factory=list)
    """More labelled data sets with the same label set, each ROOT or ROOT@SPLIT."""
    unlabelled: list[str] = field(default_factory=list)
    """Images without masks, which have soft loss only: folders (searched recursively), tar files, folders of
    tar files, or patterns such as shards/train-{000..099}.tar."""
    unlabelled_share: float | None = None
    """Fraction of each batch that is drawn from the unlabelled images; null draws all images alike."""
    labelled_share: float = 1.0
    """Fraction of the labelled images whose masks are used, evenly spaced: to measure what masks are worth.
    The others have soft loss only; without a teacher they are left out."""
    max_images: int | None = None
    """Most images of each split and folder, evenly spaced, for a quick trial; null takes all."""
    long_side: int | None = None
    """Training images, and their masks, are downscaled to this long side when read; null keeps their size."""
    cache: str | None = None
    """Folder for the decoded (and downscaled) training images, so that no file is decoded twice."""
    cache_gb: float = 8.0
    """Largest size of that cache in gigabytes; images that do not fit are decoded each time."""
    workers: int = 2
    """Loader processes per training process, one per core at most; 0 loads in the training process itself."""

    @property
    def scored_split(self) -> str:
        """What training evaluates on, in words: `val`, or `20% of train`."""
        return f"{self.val_share:.0%} of {self.split}" if self.val_share else self.val_split

    def __post_init__(self) -> None:
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(0 <= self.val_share < 1, "data.val_share", self.val_share, "from 0 to below 1")
        require(not self.val_share or self.val_split == "val", "data.val_split", self.val_split,
                "left as it is where data.val_share holds images of data.split out instead")  # fmt: skip
        share, side = self.unlabelled_share, self.long_side
        require(
            0 < self.labelled_share <= 1, "data.labelled_share", self.labelled_share, "above 0, 1 at most"
        )
        require(share is None or 0 < share < 1, "data.unlabelled_share", share, "between 0 and 1")
        require(
            share is None or bool(self.unlabelled) or self.labelled_share < 1,
            "data.unlabelled_share",
            share,
            "null where data.unlabelled names nothing and data.labelled_share is 1",
        )
        require(side is None or side > 0, "data.long_side", side, "above 0")
        most = self.max_images
        require(most is None or most > 0, "data.max_images", most, "above 0, or null")
        require(0 < self.cache_gb < math.inf, "data.cache_gb", self.cache_gb, "above 0, and finite")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The random crop that training draws of a sample, and its colours; evaluation uses none of it."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale of an image before the crop, drawn log-uniformly; (1, 1) keeps the size."""
    stretch: bool = False
    """Resize the whole image to the crop's square instead of cropping (as in the reference recipe)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.3
    """Strength s of the brightness, contrast and saturation jitter: each factor is from 1 - s to 1 + s."""
    blur: float = 0.0
    """Probability of a Gaussian blur of sigma 0.1 to 2 pixels."""
    hue: float = 0.0
    """Strength of the hue jitter: the largest rotation either way, as a fraction of the colour circle."""
    grey: float = 0.0
    """Probability of a crop without colour."""
    mixup: float = 0.0
    """Probability that the images of a batch are blended in pairs (MixUp); one kind of mixing per batch."""
    cutmix: float = 0.0
    """Probability that each image of a batch gets a box of another one (CutMix)."""
    copy_paste: float = 0.0
    """Probability that each image of a batch gets classes of another one pasted over it (ClassMix)."""

    def __post_init__(self) -> None:
        low, high = self.scale
        require(0 < low <= high, "augment.scale", self.scale, "two numbers with 0 < low <= high")
        require(0 <= self.flip <= 1, "augment.flip", self.flip, "a probability from 0 to 1")
        require(0 <= self.blur <= 1, "augment.blur", self.blur, "a probability from 0 to 1")
        require(0 <= self.jitter <= 1, "augment.jitter", self.jitter, "from 0 to 1")
        require(0 <= self.hue <= 0.5, "augment.hue", self.hue, "from 0 to 0.5")
        for name in ("grey", "mixup", "cutmix", "copy_paste"):
            chance = getattr(self, name)
            require(0 <= chance <= 1, f"augment.{name}", chance, "a probability from 0 to 1")
        total = self.mixup + self.cutmix + self.copy_paste
        names = "the sum of augment.mixup, augment.cutmix and augment.copy_paste"
        require(total <= 1 + 1e-9, names, total, "1 at most")


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Architecture):
    """The network that is trained."""

    weights: str | None = None
    """What a fresh student starts from: `imagenet` downloads the weights of its encoder, `published` those of
    an hf: network. FILE is a .safetensors or .pth state dict of the encoder, or of the whole network. null
    starts from scratch."""
    init: str | None = None
    """A run folder whose weights the student starts from, instead of `weights`."""
    freeze: list[str] = field(default_factory=list)
    """Modules (by the beginning of their names, `encoder` say) that keep their weights and statistics."""
    norm_eval: bool = False
    """Batch norms keep their running statistics and normalise with them, as is usual for fine-tuning with
    small batches; their weights still train."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.init is None or self.weights is None, "student.weights", self.weights,
                "null where student.init names a run to start from")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(PromptConfig):
    """The frozen network that is distilled, or several; without a spec, training is supervised."""

    spec: str | list[str] | None = None
    """Any network of the zoo, a .onnx file or a run folder. A file.py:function runs that file's code. A list
    of them, '[A, B]', averages their probabilities; losses of features take those of the first."""
    mix: list[float] = field(default_factory=list)
    """Relative weight of each network of `spec` in that average; empty weighs them alike."""
    weights: str | None = None
    """A .safetensors or .pth state dict, instead of the weights that torchvision publishes; with one spec."""
    scale: float = 1.0
    """Factor by which the student's crops are upsampled for the teacher, which was trained on larger ones."""
    scales: list[float] = field(default_factory=list)
    """Several such factors, over which its probabilities are averaged; empty takes `scale` alone. Losses of
    features take those of the first."""
    flip: bool = False
    """Average its probabilities with those of the mirrored image; losses of features take the plain one's."""
    output_stride: int | None = None
    """Output stride of a network that upsamples its logits with align_corners=True, as DeepLab does: both
    sides of its input become a multiple of it, plus 1, which is where its grid is exact. null takes what the
    network declares, else resizes to any size."""
    labels: str | None = None
    """Its label set where the network does not carry one: `voc`, `data` (the data set's) or a YAML file."""
    cache: str | None = None
    """Folder for the teacher's outputs: computed once for each whole image, not for every crop of it."""
    cache_stride: int | None = None
    """Pixels of the teacher's input per cached grid point; null finds the coarsest grid without a loss."""
    cache_topk: int = 0
    """Classes kept per grid point, the rest of the probability spread over the others; 0 keeps all."""
    map: dict[str, str] = field(default_factory=dict)
    """Teacher class -> student class, for names that differ; several onto one class are added up. "*"
    stands for all that are not named and that the student lacks; `ignore` leaves a class out."""
    shared_only: bool = False
    """Compare the classes that both have, where the teacher lacks some; the masks alone teach the others."""
    features_only: bool = False
    """The spec is an encoder without a head, timm:ENCODER or hf:NAME, and gives losses of features alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale > 0, "teacher.scale", self.scale, "above 0")
        self._check_averages()
        stride = self.output_stride
        require(stride is None or stride > 0, "teacher.output_stride", stride, "above 0, or null")
        require(self.cache_topk >= 0, "teacher.cache_topk", self.cache_topk, "0 or more")
        stride = self.cache_stride
        require(stride is None or stride > 0, "teacher.cache_stride", stride, "above 0")
        if self.features_only:
            self._check_features_only()

    def _check_features_only(self) -> None:
        """One encoder, and nothing that is done with logits."""
        require(
            len(self.specs) == 1, "teacher.spec", self.spec, "one encoder where teacher.features_only is true"
        )
        logits = "scales flip mix output_stride labels cache_stride cache_topk map shared_only prompts"
        for name in logits.split():
            value = getattr(self, name)
            require(not value, f"teacher.{name}", value,
                    "left out where teacher.features_only is true: there are no logits")  # fmt: skip

    def _check_averages(self) -> None:
        """What is averaged goes together: networks with their weights, scales with the single one."""
        count, weights = len(self.specs), self.weights
        require(self.spec not in ("", []), "teacher.spec", self.spec, "one or more networks, or null")
        require(all(scale > 0 for scale in self.scales), "teacher.scales", self.scales, "numbers above 0")
        require(not self.scales or self.scale in (1.0, *self.scales), "teacher.scale", self.scale,
                f"left out beside teacher.scales {self.scales}, or one of them")  # fmt: skip
        positive = all(0 < weight < math.inf for weight in self.mix)
        require(positive, "teacher.mix", self.mix, "weights above 0, and finite")
        require(not self.mix or count in (0, len(self.mix)), "teacher.mix", self.mix,
                f"empty, or one weight for each of the {count} networks of teacher.spec")  # fmt: skip
        require(weights is None or count < 2, "teacher.weights", weights,
                "null beside several networks: those of teacher.spec must bring their own")  # fmt: skip

    @property
    def specs(self) -> tuple[str, ...]:
        """The networks: none, one or several."""
        return (self.spec,) if isinstance(self.spec, str) else tuple(self.spec or ())

    @property
    def input_scales(self) -> tuple[float, ...]:
        """The factors of its input: `scales`, or `scale` alone."""
        return tuple(self.scales) or (self.scale,)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    name: Optimizer = "adamw"
    """adamw, adam or sgd (with Nesterov momentum)."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """Decoupled for adamw, L2 otherwise; biases and norms have none."""
    momentum: float = 0.9
    """Momentum of sgd, first beta of Adam."""
    schedule: Schedule = "cosine"
    """cosine to 0, poly (1 - t)^0.9 to 0, or constant; all after the warm-up."""
    warmup: int = 0
    """Steps of linear warm-up from 0 to lr."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    accumulate: int = 1
    """Gradient accumulation steps: micro-batches that the batch of an optimiser step is split into."""
    groups: dict[str, float] = field(default_factory=dict)
    """Factors of the learning rate of modules, by the beginning of their names: `{encoder: 0.1}`; the longest
    one that fits counts, 1 where none does."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights (0.999, say); 0 keeps none."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "from 0 to below 1")
        require(self.warmup >= 0, "optim.warmup", self.warmup, "0 or more")
        require(self.clip >= 0, "optim.clip", self.clip, "0 or more")
        require(self.accumulate >= 1, "optim.accumulate", self.accumulate, "1 or more")
        require(all(factor > 0 for factor in self.groups.values()), "optim.groups", self.groups,
                "factors above 0 (student.freeze keeps modules as they are)")  # fmt: skip
        require(0 <= self.ema < 1, "optim.ema", self.ema, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the machine is used; none of it changes results beyond rounding."""

    precision: Precision = "auto"
    """auto takes bf16 where the device computes in it natively, else fp32."""
    channels_last: bool = True
    """Memory format NHWC, which is the faster one for convolutions on most devices."""
    compile: bool = False
    """Compile the student with torch.compile: slow first step, faster ones after it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One experiment, whole: `segdistill train --config FILE` reads it, a run folder keeps it."""

    data: DataConfig = field(default_factory=DataConfig)
    """Data sets."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training crops."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Student network."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Teacher network."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Machine."""
    size: int = 256
    """Side of the square training crop, in pixels."""
    progressive: list[tuple[float, int]] = field(default_factory=list)
    """(fraction, crop size) pairs: until this fraction of the steps crops have this size, `size` after the
    last. The random scale shrinks along, so that a crop shows as much of the image; torch.compile compiles
    anew where the size changes."""
    batch: int = 8
    """Images per optimiser step, over all processes and micro-batches."""
    steps: int = 0
    """Optimiser steps; 0 takes `epochs` instead."""
    epochs: float = 50.0
    """Passes over the training images, where steps is 0."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates ten times in all. The last step is always evaluated."""
    evaluate_size: int | None = None
    """Long side, in pixels, of the images that evaluation feeds the student; null keeps their own size."""
    checkpoint_every: int = 500
    """Steps between saved states to resume from; one is saved with each evaluation too."""
    log_every: int | None = None
    """Steps between lines of history.jsonl; null takes 10. A number also logs a line at each of these steps
    where there is no terminal, instead of one every 30 s alone."""
    seed: int = 0
    """Seeds weights, data order, crops and dropout."""
    quantize: Literal["int8"] | None = None
    """int8 goes on with the weights of student.init as if in 8 bits: `export --quantize int8` loses less."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trackers: list[str] = field(default_factory=list)
    """Trackers of accelerate that get the numbers too, by name: tensorboard, wandb, mlflow, ..."""
    out: str = "runs/latest"
    """The run folder."""

    def __post_init__(self) -> None:
        read_groups(self)
        require(self.size > 0, "size", self.size, "above 0")
        bounds = [fraction for fraction, _ in self.progressive]
        rising = all(0 < a < b for a, b in pairwise([*bounds, 1.0]))
        allowed = "(fraction, size) pairs with fractions that rise between 0 and 1, and sizes above 0"
        possible = rising and all(size > 0 for _, size in self.progressive)
        require(possible, "progressive", self.progressive, allowed)
        require(self.batch > 0, "batch", self.batch, "above 0")
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.steps > 0 or self.epochs > 0, "epochs", self.epochs, "above 0 where steps is 0")
        for name in ("evaluate_every", "checkpoint_every"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.log_every is None or self.log_every >= 1, "log_every", self.log_every, "1 or more")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        possible = self.student.init is not None and not self.runtime.compile
        require(self.quantize is None or possible, "quantize", self.quantize,
                "null without student.init, a run to start from, or with runtime.compile")  # fmt: skip
        size = self.evaluate_size
        require(size is None or size > 0, "evaluate_size", size, "above 0")
        self._check_batch()
        if not self.teacher.specs:
            self._check_supervised()
        beta = self.objective.beta
        require(not (self.teacher.features_only and largest(beta)), "objective.beta", beta,
                "0 where teacher.features_only is true: there are no logits for the soft loss")  # fmt: skip

    @property
    def open_ended(self) -> bool:
        """Whether no step depends on how many follow, so that a run may be resumed with more `steps`.

        Such a run has the weights of one that had as many from the beginning.
        """
        objective = self.objective
        options = [v for loss in objective.losses.values() if isinstance(loss, dict) for v in loss.values()]
        values = (
            objective.alpha,
            objective.beta,
            objective.temperature,
            *objective.losses.values(),
            *options,
        )
        return (
            self.optim.schedule == "constant"
            and not self.progressive
            and self.quantize is None
            and not any(isinstance(value, tuple | list) for value in values)
            and bool(self.steps and self.evaluate_every)
            and self.steps % self.evaluate_every == 0
        )

    def _check_batch(self) -> None:
        """Every micro-batch has images, and where both kinds of images are mixed, some of both."""
        share, steps = self.data.unlabelled_share, self.optim.accumulate
        require(self.batch % steps == 0, "batch", self.batch, "a multiple of optim.accumulate")
        require(
            share is None or steps <= round(share * self.batch) <= self.batch - steps,
            "data.unlabelled_share",
            share,
            f"one that leaves {steps} or more of both kinds of images in a batch of {self.batch}",
        )

    def _check_supervised(self) -> None:
        """Without a teacher, a loss is left, and there is no image without a mask."""
        enough = self.objective.weighted and not self.objective.auxiliary
        require(bool(largest(self.objective.alpha) or enough), "objective.alpha", 0,
                "above 0 where there is no teacher")  # fmt: skip
        allowed = f"where there is no teacher (set {setting('teacher')})"
        require(not self.data.unlabelled, "data.unlabelled", self.data.unlabelled, f"empty {allowed}")
        share = self.data.unlabelled_share
        require(share is None, "data.unlabelled_share", share, f"null {allowed}")
