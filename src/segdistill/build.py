"""Opens the data sets and networks that settings name, for training, replay, evaluation and export."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from segdistill.config.architecture import Architecture
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.naming import setting
from segdistill.config.train import RuntimeConfig, StudentConfig, TeacherConfig, TrainConfig
from segdistill.console import log
from segdistill.data.datasets import open_dataset, open_training, open_validation
from segdistill.data.labels import VOC, LabelSet, label_set, read_yaml
from segdistill.data.samples import DownscaledSamples, FileSamples, Samples
from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from segdistill.distillation.table import check_losses
from segdistill.engine.experiment import Experiment
from segdistill.engine.run_folder import RunFolder
from segdistill.exporting.export import file_format
from segdistill.exporting.quantize import calibration_images
from segdistill.models.backbones import FeatureTeacher, load_feature_teacher
from segdistill.models.card import ModelCard, is_run, read_card, read_model
from segdistill.models.depthwise import speed_up_depthwise
from segdistill.models.export_card import ExportCard
from segdistill.models.hub_runs import run_folder
from segdistill.models.huggingface import HuggingFaceNetwork
from segdistill.models.pretrained import load_pretrained
from segdistill.models.spec import require_trust
from segdistill.models.state_files import load_state, read_statistics
from segdistill.models.teacher import Teacher
from segdistill.models.trained import LoadOptions, load_network, require_prompted
from segdistill.models.zoo import build_model, input_statistics, output_classes
from segdistill.reporting.records import TEACHER
from segdistill.version import __version__


def build_experiment(config: TrainConfig, *, load_init: bool = True) -> Experiment:
    """Everything that a training is made of, before its first step; caches are not filled yet.

    Args:
        config: the settings.
        load_init: start from `student.init` or `student.weights`, where the settings name one.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: settings do not fit each other or the data.
    """
    distils, features_only = bool(config.teacher.specs), config.teacher.features_only
    check_losses(config.objective, distils=distils, features_only=features_only)
    files = open_training(config.data, distils=distils)
    labels = files.labels
    teacher: Teacher | FeatureTeacher | None
    if features_only:
        teacher = open_feature_teacher(config.teacher, config.objective.teacher_layer)
    else:
        teacher = open_teacher(config.teacher, labels)
    long_side = config.data.long_side
    val = open_validation(config.data)
    set_seed(config.seed % 2**32)
    fresh = replace(config.student, init=None, weights=None)
    student = make_student(config.student if load_init else fresh, labels)
    mean, std = student_statistics(config.student, student)
    student = prepare_training(student, config.runtime)
    card = ModelCard(
        spec=config.student.spec,
        width=config.student.width,
        stride=config.student.stride,
        decoder=config.student.decoder,
        channels=config.student.channels,
        labels=labels,
        size=config.size,
        evaluate_size=config.evaluate_size,
        mean=mean,
        std=std,
        teacher=None if teacher is None else teacher.identity(),
        version=__version__,
        huggingface=student.recorded() if isinstance(student, HuggingFaceNetwork) else None,
        bits=files.files(0).bits,
    )
    return Experiment(
        config=config,
        student=student,
        teacher=teacher,
        files=files,
        train=files if long_side is None else DownscaledSamples(files, long_side),
        val=val,
        card=card,
    )


def prepare_training(student: nn.Module, runtime: RuntimeConfig) -> nn.Module:
    """The student as training computes it: its layout in memory, compiled or with fast gradients."""
    if runtime.channels_last:
        student = student.to(memory_format=torch.channels_last)
    if runtime.compile:
        student.compile()
    else:
        speed_up_depthwise(student)
    return student


def build_recorded(folder: RunFolder) -> Experiment:
    """The experiment of a run folder, as its own settings describe it; caches are not used.

    Its student has fresh weights: those it started from may be gone, and others are loaded into it.

    Raises:
        FileNotFoundError: a file or folder that its settings name does not exist.
        ValueError: its settings are damaged, or name code that nobody has said to trust.
    """
    config = folder.config
    for spec in (config.student.spec, *config.teacher.specs):
        require_trust(spec, folder.config_file)
    return build_experiment(config, load_init=False)


def open_evaluation(target: str, data: EvaluationDataConfig) -> FileSamples:
    """The images with masks that a network is scored on; a run folder has its own where none are named.

    Raises:
        FileNotFoundError: a file or folder does not exist, or the run has no trained student yet.
        ValueError: neither the settings nor the target name a data set.
    """
    if data.root:
        return open_dataset(data.root, data.split, layout=data.layout)
    folder = RunFolder(run_folder(target))
    if folder.config_file.is_file():
        folder.require_student()
        own = folder.config.data
        if data.split == "val":  # what the run was validated on, under whatever name
            return open_validation(own)
        return open_dataset(own.root, data.split, layout=own.layout)
    raise ValueError(f"name the data set with {setting('data.root')}")


def open_scored(runs: Mapping[str, RunFolder]) -> tuple[FileSamples, dict[str, nn.Module]]:
    """The validation set of the first of some runs; its teacher and the students of all runs, by name.

    Raises:
        FileNotFoundError: a file or folder is not there any more.
        ValueError: a file is damaged, or the teacher is code that is not trusted.
    """
    first = next(iter(runs.values()))
    config = first.config
    for spec in config.teacher.specs:
        require_trust(spec, first.config_file)
    val = open_validation(config.data)
    teacher = None if config.teacher.features_only else open_teacher(config.teacher, val.labels)
    networks: dict[str, nn.Module] = {} if teacher is None else {TEACHER: teacher}
    return val, networks | {name: run.student() for name, run in runs.items()}


def open_teacher(config: TeacherConfig, labels: LabelSet) -> Teacher | None:
    """The teacher, its classes mapped onto `labels`, or None where the settings name none.

    Raises:
        ValueError: a network of it has no logits, or its classes cannot be mapped.
    """
    if not config.specs:
        return None
    own = None
    if config.labels == "data":
        own = labels
    elif config.labels == "voc":
        own = VOC
    elif config.labels is not None:
        own = label_set(read_yaml(Path(config.labels)), config.labels)
    networks = [
        load_network(
            spec,
            LoadOptions(
                weights=Path(config.weights) if config.weights else None,
                labels=own,
                output_stride=config.output_stride,
                prompts=config,
            ),
        )
        for spec in config.specs
    ]
    require_prompted(networks, config)
    for network in networks:
        if network.outputs_masks:
            raise ValueError(
                f"teacher {network.spec} gives masks, but logits are needed: export it with "
                f"{setting('output')} logits"
            )
    teacher = Teacher(
        networks, labels, rename=config.map, scales=config.input_scales, flip=config.flip, mix=config.mix,
        shared_only=config.shared_only,
    )  # fmt: skip
    if teacher.shared is not None:
        lacking = [name for index, name in enumerate(labels.names) if index not in teacher.shared]
        log(f"The teacher has no class {', '.join(lacking)}: the masks alone teach what is of it")
    return teacher


def open_feature_teacher(config: TeacherConfig, layer: str | None) -> FeatureTeacher:
    """The encoder without a head that the settings name.

    Raises:
        FileNotFoundError, ValueError: see `load_feature_teacher`.
    """
    [spec] = config.specs
    return load_feature_teacher(spec, weights=config.weights, layer=layer, scale=config.scale)


def make_student(config: StudentConfig, labels: LabelSet) -> nn.Module:
    """The student with the weights it starts from.

    Raises:
        ValueError: the network does not give one logit per class, or the weights of `init` do not fit.
    """
    student = build_model(config, len(labels))
    outputs = output_classes(student, config.spec)
    if outputs != len(labels):
        raise ValueError(f"student {config.spec!r} gives {outputs} logits for {len(labels)} classes")
    if config.weights is not None:
        log(load_pretrained(student, config, config.weights))
    if config.init is not None:
        card, state = read_model(run_folder(config.init))
        if card.labels.names != labels.names:
            raise ValueError(f"student.init {config.init} has other classes: {', '.join(card.labels.names)}")
        try:
            load_state(student, Path(config.init), state)
        except ValueError:
            settings = [
                f"{setting(f'student.{item.name}')} {getattr(card, item.name)}"
                for item in fields(Architecture)
                if getattr(card, item.name) != getattr(config, item.name)
            ]
            if not settings:
                raise
            raise ValueError(
                f"student.init {config.init} is another network: start from it with {' '.join(settings)}"
            ) from None
    return student


def student_statistics(
    config: StudentConfig, student: nn.Module
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the student's input: of the weights it starts from, else what it declares."""
    if config.init is not None and is_run(config.init):
        card = read_card(run_folder(config.init))
        return card.mean, card.std
    mean, std = input_statistics(student)
    if config.weights is not None:
        own_mean, own_std = read_statistics(Path(config.weights))
        mean, std = own_mean or mean, own_std or std
    return mean or IMAGENET_MEAN, std or IMAGENET_STD


def calibration_source(spec: str, config: ExportConfig) -> Path | Samples:
    """The images that the settings name, else those that the run trained on, or that came with it.

    Raises:
        ValueError: there are none.
    """
    if config.calibration:
        return Path(config.calibration)
    if not is_run(spec):
        raise ValueError(f"name a folder of images to calibrate on with {setting('calibration')}")
    folder = RunFolder(run_folder(spec))
    if folder.calibration.is_dir():
        return folder.calibration
    try:
        return open_training(folder.config.data)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{spec} has no images to calibrate on ({error}): name a folder of images with "
            f"{setting('calibration')}"
        ) from None


def open_calibration(spec: str, config: ExportConfig, card: ExportCard) -> list[Tensor]:
    """The calibration images, 3 x H x W uint8; none for a format that needs none, where there are none.

    Args:
        spec: the network.
        config: of the export.
        card: what the file will say of itself.

    Raises:
        ValueError: the format needs images, and there are none.
    """
    try:
        source = calibration_source(spec, config)
    except ValueError:
        if file_format(config.format).calibrated:
            raise
        return []
    return calibration_images(source, config.calibration_images, card.input_size, card.bits)


def open_parity_images(spec: str, config: ExportConfig) -> FileSamples | None:
    """The images with masks on which an export is scored; None where there are none."""
    try:
        return open_evaluation(spec, config.data)
    except (FileNotFoundError, ValueError) as error:
        if config.data.root:
            raise
        log(f"Mean IoU is not compared ({error}): {setting('data.root')} names images with masks")
        return None
