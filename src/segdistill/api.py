"""The verbs as functions: settings in, files out. The only place where settings become objects."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config import StudentConfig, TeacherConfig, TrainConfig, load
from segdistill.config_evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.data.datasets import (
    SegmentationDataset,
    labelled_count,
    open_dataset,
    open_labels,
    open_training,
)
from segdistill.data.frequencies import class_weights
from segdistill.data.labels import VOC, LabelSet, label_set, read_yaml
from segdistill.data.loaders import plain_failures
from segdistill.data.transforms import resize_long_side
from segdistill.deploy.benchmark import cost
from segdistill.distillation.objective import check_losses
from segdistill.engine.cache import open_cache
from segdistill.engine.decoded import prepare
from segdistill.engine.evaluate import evaluate as evaluate_network
from segdistill.engine.evaluate import segment
from segdistill.engine.history import progress, say
from segdistill.engine.metrics import mean
from segdistill.engine.replay import replay as replay_batch
from segdistill.engine.run import CONFIG, check_run, make_run
from segdistill.engine.runtime import make_accelerator, seed_everything, stop_signal
from segdistill.engine.train import Experiment
from segdistill.engine.train import train as train_student
from segdistill.files import read_json, write_atomic
from segdistill.models.card import WEIGHTS, ModelCard, is_run, read_card
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork, load_network, load_state
from segdistill.models.zoo import build_model, output_classes, require_trust
from segdistill.reporting.report import Example, pick_examples, run_names, write_report
from segdistill.version import __version__


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a student, with a teacher or without, and leave a run folder with its report.

    Args:
        config: the whole experiment.
        resume: continue the run in `config.out` from its newest checkpoint.
        overwrite: delete the run in `config.out` first.

    Returns:
        The run folder.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: settings do not fit each other, the data or the run folder, or a loss was not finite.
        segdistill.engine.train.Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    with stop_signal(obey=True), plain_failures(), ExitStack() as stack:
        return _train(config, stack, resume=resume, overwrite=overwrite)


def _train(config: TrainConfig, stack: ExitStack, *, resume: bool, overwrite: bool) -> Path:
    """`train`; what must be let go of at its end goes onto the stack."""
    check_losses(config.objective, distils=config.teacher.spec is not None)
    run = Path(config.out)
    check_run(run, config, resume=resume, overwrite=overwrite)
    accelerator = make_accelerator(config.device, config.runtime.precision, trackers=config.trackers, out=run)
    labels = open_labels(config.data.root, config.data.layout)
    teacher = open_teacher(config.teacher, labels)
    samples = open_training(config.data, taught=config.teacher.spec is not None)
    val = open_dataset(config.data.root, config.data.val_split, layout=config.data.layout)
    seed_everything(config.seed)
    student = make_student(config.student, labels)
    if config.runtime.channels_last:
        student = student.to(memory_format=torch.channels_last)
    if config.runtime.compile:
        student.compile()
    card = ModelCard(
        spec=config.student.spec,
        width=config.student.width,
        labels=labels,
        size=config.size,
        evaluate_size=config.evaluate_size,
        teacher=None if teacher is None else teacher.identity(),
        version=__version__,
    )
    stack.enter_context(make_run(run, config, accelerator, resume=resume, overwrite=overwrite))
    accelerator.init_trackers("segdistill")
    parameters = sum(p.numel() for p in student.parameters())
    taught = f", taught by {config.teacher.spec}" if teacher else ", without a teacher"
    masked = labelled_count(samples)
    images = f"{masked:,} images with masks and {len(samples) - masked:,} without"  # type: ignore[arg-type]
    say(f"{config.student.spec} ({parameters:,} parameters) learns {len(labels)} classes from {images}"
        f"{taught}; the run folder is {run}", accelerator)  # fmt: skip
    cache = None
    if teacher is not None and config.teacher.cache:
        cache = open_cache(config, teacher.to(accelerator.device), samples, accelerator)
    seen = prepare(config.data, samples, accelerator)
    experiment = Experiment(
        config=config, student=student, teacher=teacher, train=seen, val=val, card=card, cache=cache
    )
    train_student(experiment, accelerator, run, resume=resume)
    if accelerator.is_main_process:
        networks = {"student": load_network(str(run))} | ({"teacher": teacher} if teacher else {})
        measured = cost(networks, size=config.size)
        write_atomic(run / "cost.json", json.dumps(measured, indent=2) + "\n")
        say(f"The report is {report([run])}")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # ends the group of processes too
    return run


def replay(file: str | Path) -> dict[str, Any]:
    """Compute the batch once more on which a run stopped because a loss was not finite.

    Args:
        file: the nonfinite.json in its run folder.

    Returns:
        `step`, `terms`, `images` (terms by id), `nonfinite` (names of tensors, in the order of computation)
        and `bad` (ids of the images to blame).

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the files are not those of such a run.
    """
    run = Path(file).parent
    config = load(TrainConfig, run / CONFIG)
    for spec in (config.student.spec, config.teacher.spec or ""):
        require_trust(spec, run / CONFIG)
    labels = open_labels(config.data.root, config.data.layout)
    samples = open_training(config.data, taught=config.teacher.spec is not None)
    steps = config.steps or math.ceil(config.epochs * len(samples) / config.batch)  # type: ignore[arg-type]
    weights = class_weights(samples, len(labels), config.objective.class_weights)
    student = build_model(config.student.spec, len(labels), width=config.student.width)
    return replay_batch(Path(file), config, student, open_teacher(config.teacher, labels), weights, steps)


def cache(config: TrainConfig) -> dict[str, Any]:
    """Fill the teacher's cache ahead of training; what is there already is kept.

    Args:
        config: the training that it is for; `teacher.cache` names the folder.

    Returns:
        The folders (of logits, and of features where losses compare them), `images`, `bytes`, the `stride` of
        the logits, and the `seconds` that this call took.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: there is no teacher or no folder, or the settings do not fit each other.
    """
    if config.teacher.spec is None or config.teacher.cache is None:
        raise ValueError("name the teacher with --teacher and the folder with --teacher.cache")
    accelerator = make_accelerator(config.device, config.runtime.precision)
    labels = open_labels(config.data.root, config.data.layout)
    teacher = open_teacher(config.teacher, labels)
    assert teacher is not None
    samples = open_training(config.data, taught=config.teacher.spec is not None)
    started = time.perf_counter()
    with stop_signal(obey=True), plain_failures():
        filled = open_cache(config, teacher.to(accelerator.device), samples, accelerator)
    return {
        "cache": [str(cache.folder) for cache in filled.all],
        "images": len(filled.logits),
        "bytes": sum(part.stat().st_size for cache in filled.all for part in cache.parts),
        "stride": filled.logits.form.stride,
        "seconds": round(time.perf_counter() - started, 1),
    }


def evaluate(target: str | Path, config: EvaluateConfig | None = None) -> dict[str, Any]:
    """Score a network on a data set with masks, at the masks' own size.

    Args:
        target: a run folder, or any network spec.
        config: data set, input size, test-time augmentation, ...

    Returns:
        What `config.out` gets: `miou`, `pixel_accuracy`, `mean_accuracy`, `frequency_weighted_iou`,
        `boundary_iou`, `calibration_error`, `teacher_agreement`, `iou` by class name, `confusion`, ...
        A score that cannot be computed is None.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: target, data and settings do not fit each other.
    """
    config = config or EvaluateConfig()
    spec = str(target)
    samples = open_evaluation(spec, config.data)
    wanted = [name.strip() for name in config.classes.split(",") if name.strip()]
    samples.labels.index(wanted)
    accelerator = make_accelerator(config.device, config.precision)
    network = load_network(
        spec, weights=config.weights, labels=samples.labels,
        precision="fp32" if config.precision == "auto" else config.precision,
    )  # fmt: skip
    scored = Teacher(network, samples.labels, rename=config.map).to(accelerator.device)
    teacher = open_teacher(config.teacher, samples.labels)
    started = time.perf_counter()
    with progress(accelerator.is_main_process) as bar:
        task = bar.add_task("evaluate", total=-(-len(samples) // accelerator.num_processes), numbers="")
        metrics = evaluate_network(
            scored.to(memory_format=torch.channels_last),
            samples,
            samples.labels,
            accelerator=accelerator,
            size=config.size or network.size,
            workers=config.data.workers,
            teacher=teacher and teacher.to(accelerator.device),
            flip=config.flip,
            scales=tuple(config.scales),
            advance=lambda: bar.advance(task),
        )
    seconds = time.perf_counter() - started
    summary = {
        "target": spec,
        "data": config.data.root,
        "split": config.data.split,
        "size": config.size or network.size,
        "image_count": len(samples),
        "images_per_second": len(samples) / seconds,
        **metrics.summary(),
    }
    if wanted:
        summary["classes"] = wanted
        summary["miou_of_classes"] = mean([summary["iou"][name] for name in wanted])
    if accelerator.is_main_process:
        write_atomic(Path(config.out), json.dumps(summary, indent=2) + "\n")
    return summary


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about one run, or about several side by side.

    Args:
        runs: run folders.
        out: the file; report.html in the first run folder where absent.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder is no run folder.
        ValueError: a record in it is not what segdistill writes.
    """
    folders = [Path(run) for run in runs]
    try:
        examples: list[Example] | str = gather_examples(folders)
    except (FileNotFoundError, ValueError) as error:
        examples = f"The images of the validation set could not be shown: {error}"
    return write_report(folders, Path(out) if out else folders[0] / "report.html", examples)


def load_student(run: str | Path) -> TrainedNetwork:
    """The student of a run folder, in eval mode, with `labels`, `mean`, `std` and `size`.

    It maps N x 3 x H x W ImageNet-normalised images to N x K x H x W logits; see
    `segdistill.data.transforms.normalise` for the images.

    Raises:
        FileNotFoundError: the folder is no run folder.
        ValueError: its files are damaged.
    """
    read_card(Path(run))
    return load_network(str(run))


def read_scores(run: Path) -> dict[str, float | None]:
    """Mean IoU of each validation image, by id, from the best evaluation of a run."""
    path = run / "metrics.json"
    try:
        return read_json(path)["best"]["images"]
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{path} holds no scores of single images") from None


def gather_examples(runs: Sequence[Path]) -> list[Example]:
    """Best, median and worst validation images of the first run, and what each run's network sees there."""
    config = load(TrainConfig, runs[0] / CONFIG)
    if config.teacher.spec is not None:
        require_trust(config.teacher.spec, runs[0] / CONFIG)
    names = dict(zip(runs, run_names(runs), strict=True))
    scores = {names[run]: read_scores(run) for run in runs}
    val = open_dataset(config.data.root, config.data.val_split, layout=config.data.layout)
    teacher = open_teacher(config.teacher, val.labels)
    networks = {names[run]: load_network(str(run)) for run in runs}
    position = {str(name): index for index, name in enumerate(val.ids)}
    examples = []
    for role, name in pick_examples(scores[names[runs[0]]]):
        if name not in position:
            raise ValueError(f"{name} is no longer in {config.data.root}")
        sample = val[position[name]]
        # Each network looks as it did when it was scored; the teacher at the whole image, enlarged for it.
        views: list[tuple[str, nn.Module, Tensor]] = (
            [] if teacher is None else [("teacher", teacher, sample.image)]
        )
        views += [(run, net, resize_long_side(sample.image, net.size)) for run, net in networks.items()]
        examples.append(
            Example(
                id=name,
                role=role,
                scores={run: images.get(name) for run, images in scores.items()},
                image=sample.image.permute(1, 2, 0).numpy(),
                truth=sample.mask.numpy(),
                predictions={
                    label: segment(network, seen, sample.mask.shape).argmax(dim=0).to(torch.uint8).numpy()
                    for label, network, seen in views
                },
            )
        )
    return examples


def open_evaluation(target: str, data: EvaluationDataConfig) -> SegmentationDataset:
    """The data set of an evaluation; a run folder brings its own where none is named."""
    if data.root:
        return open_dataset(data.root, data.split, layout=data.layout)
    if is_run(target):
        own = load(TrainConfig, Path(target) / CONFIG).data
        split = own.val_split if data.split == "val" else data.split
        return open_dataset(own.root, split, layout=own.layout)
    raise ValueError("name the data set with --data.root")


def open_teacher(config: TeacherConfig, labels: LabelSet) -> Teacher | None:
    """The teacher that answers in the classes `labels`, or None where the settings name none."""
    if config.spec is None:
        return None
    own = None
    if config.labels == "data":
        own = labels
    elif config.labels == "voc":
        own = VOC
    elif config.labels is not None:
        own = label_set(read_yaml(Path(config.labels)), config.labels)
    network = load_network(config.spec, weights=config.weights, labels=own)
    if network.answers_masks:
        raise ValueError(
            f"teacher {config.spec} answers with masks, but logits are needed: export it with them"
        )
    return Teacher(network, labels, rename=config.map, scale=config.scale)


def make_student(config: StudentConfig, labels: LabelSet) -> nn.Module:
    """The student with the weights it starts from.

    Raises:
        ValueError: the network does not give one logit per class, or the weights of `init` do not fit.
    """
    student = build_model(config.spec, len(labels), width=config.width)
    outputs = output_classes(student, config.spec)
    if outputs != len(labels):
        raise ValueError(f"student {config.spec!r} gives {outputs} logits for {len(labels)} classes")
    if config.init is not None:
        card = read_card(Path(config.init))
        if card.labels.names != labels.names:
            raise ValueError(
                f"student.init {config.init} knows other classes: {', '.join(card.labels.names)}"
            )
        try:
            load_state(student, Path(config.init) / WEIGHTS)
        except ValueError:
            if (card.spec, card.width) == (config.spec, config.width):
                raise
            raise ValueError(
                f"student.init {config.init} is another network: start from it with --student {card.spec} "
                f"--student.width {card.width:g}"
            ) from None
    return student
