"""Settings become objects, once: the one assembly that every verb uses."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.train import StudentConfig, TeacherConfig, TrainConfig
from segdistill.config.yaml import load
from segdistill.data.datasets import open_dataset, open_training
from segdistill.data.labels import VOC, LabelSet, label_set, read_yaml
from segdistill.data.samples import FileSamples, Sample
from segdistill.engine.run_folder import CONFIG
from segdistill.models.card import WEIGHTS, is_run, read_card
from segdistill.models.teacher import Teacher
from segdistill.models.trained import load_network, load_state
from segdistill.models.zoo import build_model, output_classes, require_trust
from segdistill.reporting.records import TEACHER


def open_evaluation(target: str, data: EvaluationDataConfig) -> FileSamples:
    """The data set of an evaluation; a run folder brings its own where none is named."""
    if data.root:
        return open_dataset(data.root, data.split, layout=data.layout)
    if is_run(target):
        own = load(TrainConfig, Path(target) / CONFIG).data
        split = own.val_split if data.split == "val" else data.split
        return open_dataset(own.root, split, layout=own.layout)
    raise ValueError("name the data set with --data.root")


def open_scored(runs: Mapping[str, Path]) -> tuple[FileSamples, dict[str, nn.Module]]:
    """The validation set of the first of some runs; its teacher and the students of all runs, by name.

    Raises:
        FileNotFoundError: a file or folder is not there any more.
        ValueError: a file is damaged, or the teacher is code that is not trusted.
    """
    first = next(iter(runs.values()))
    config = load(TrainConfig, first / CONFIG)
    if config.teacher.spec is not None:
        require_trust(config.teacher.spec, first / CONFIG)
    val = open_dataset(config.data.root, config.data.val_split, layout=config.data.layout)
    teacher = open_teacher(config.teacher, val.labels)
    networks: dict[str, nn.Module] = {} if teacher is None else {TEACHER: teacher}
    return val, networks | {name: load_network(str(run)) for name, run in runs.items()}


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


def _calibration_source(spec: str, config: ExportConfig) -> Path | Dataset[Sample]:
    """The folder of images that settings name, else the training images of the run itself."""
    if config.calibration:
        return Path(config.calibration)
    if not is_run(spec):
        raise ValueError("name a folder of images to calibrate on with --calibration")
    try:
        return open_training(load(TrainConfig, Path(spec) / CONFIG).data)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{spec} brings no images to calibrate on ({error}): name a folder of images with --calibration"
        ) from None
