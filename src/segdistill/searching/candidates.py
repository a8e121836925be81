"""The students that a search tries: dsunet, pretrained encoders, the teacher's network, what a file names.

This room stands above `api`, whose `train`, `cache` and `export` it calls as a user would: a candidate's
training is an ordinary one, and leaves an ordinary run folder.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from segdistill.config.architecture import Architecture, DecoderName
from segdistill.config.naming import setting
from segdistill.config.search import LearningRates, SearchConfig
from segdistill.config.train import StudentConfig, TrainConfig
from segdistill.config.yaml import from_plain
from segdistill.files import read_plain_yaml
from segdistill.models.card import read_card
from segdistill.models.hub_runs import run_folder
from segdistill.models.pretrained import IMAGENET, PUBLISHED, download
from segdistill.models.spec import parse_architecture, parse_spec

GRID = 16
"""Input sizes are multiples of it, in pixels."""

WIDTHS, STRIDES = (0.125, 0.25, 0.5, 1.0), (1, 2, 4)
"""Of the dsunet candidates."""

ENCODERS = ("mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv2_100", "tf_efficientnet_lite0")
"""timm's encoders that are tried where no settings name others: small ones that int8 runs well."""

BASELINE = "baseline"
"""Network and family of what is measured for the budget alone, see `segdistill.searching.budget`."""

CHANNELS = (None, 48)
"""Of the light decoders: their own number, and a narrow one."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point that a search may choose.

    Attributes:
        network: name of the network, the same for all its input sizes.
        family: dsunet, timm, teacher, recipe, file, or baseline.
        student: the network and the weights it starts from.
        size: long side of its input in pixels.
        lr: its learning rate; None takes the recipe's.
    """

    network: str
    family: str
    student: StudentConfig
    size: int
    lr: float | None

    @property
    def key(self) -> str:
        """Its name in tables and files."""
        return f"{self.network}-{self.size}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Candidate":
        """What `to_dict` gave."""
        return cls(**values | {"student": from_plain(StudentConfig, values["student"])})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network that is tried in several input sizes.

    Attributes:
        student: the network and the weights it starts from.
        sizes: long sides of its input in pixels; empty for those of all.
        lr: its learning rate; None for that of networks that start alike.
    """

    student: StudentConfig
    sizes: list[int] = field(default_factory=list)
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What is not tried, and why."""

    name: str
    reason: str


def list_candidates(config: SearchConfig, recipe: TrainConfig) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates, each network in all its sizes, and what cannot be one.

    Args:
        config: families, encoders with their weights, sizes, a file with more.
        recipe: names the teacher, and a student of its own.

    Raises:
        FileNotFoundError: a file that the settings name does not exist.
        ValueError: a file of candidates is wrong, or there is no candidate.
    """
    left_out: list[LeftOut] = []
    students: dict[str, tuple[str, Entry]] = {}
    found: list[tuple[str, StudentConfig]] = []
    if "recipe" in config.families and config.recipe is not None:
        found.append(("recipe", recipe.student))
    if "teacher" in config.families:
        found += [("teacher", student) for student in _teacher_students(recipe, left_out)]
    if "dsunet" in config.families:
        found += [("dsunet", student) for student in dsunet_students()]
    if "timm" in config.families:
        found += [("timm", student) for student in _timm_students(config, left_out)]
    entries = [(family, Entry(student=student)) for family, student in found]
    if config.candidates is not None:
        entries += [("file", entry) for entry in read_candidates(Path(config.candidates))]
    for family, entry in entries:
        if any(entry.student == known.student for _, known in students.values()):
            continue
        name = plain = network_name(entry.student)
        number = 1
        while name in students:  # files of one name in different folders, say
            number += 1
            name = f"{plain}-{number}"
        students[name] = (family, entry)
    common = input_sizes(config.size, config.sizes)
    candidates = [
        Candidate(
            network=name, family=family, student=entry.student, size=size,
            lr=entry.lr or learning_rate(family, entry.student, config.lr),
        )
        for name, (family, entry) in students.items()
        for size in entry.sizes or common
    ]  # fmt: skip
    if not candidates:
        raise ValueError(
            f"there is no candidate: name families, encoders or a file with {setting('candidates')}"
        )
    return candidates, left_out


def input_sizes(size: int, factors: list[float]) -> list[int]:
    """The sizes that are tried around `size`: multiples of 16 pixels, from small to large."""
    return sorted({max(GRID, round(size * factor / GRID) * GRID) for factor in factors})


def learning_rate(family: str, student: StudentConfig, rates: LearningRates) -> float | None:
    """The learning rate for the weights that a student starts from; None for the recipe's own student."""
    if family == "recipe":
        return None
    whole = student.init is not None or student.weights == PUBLISHED
    if whole or (family == "teacher" and student.weights != IMAGENET):
        return rates.network
    return rates.encoder if student.weights is not None else rates.scratch


def network_name(student: StudentConfig) -> str:
    """A short name that tells networks apart, fit for a file."""
    source = Path(student.init).name if student.init else student.spec
    if ".py:" in source:
        source = Path(source).name
    parts = [re.sub(r"[^A-Za-z0-9_.]+", "-", source.removeprefix("timm:")).strip("-.")]
    default = Architecture()
    if student.spec == "dsunet":
        parts += [f"w{student.width:g}", f"s{student.stride}"]
    elif student.spec.startswith("timm:"):
        parts.append(student.decoder)
    if student.channels != default.channels:
        parts.append(f"c{student.channels}")
    return "-".join(parts)


def dsunet_students() -> Iterator[StudentConfig]:
    """The reference student in several widths and strides, from scratch."""
    for stride in STRIDES:
        for width in WIDTHS:
            yield StudentConfig(width=width, stride=stride)  # type: ignore[arg-type]


def _timm_students(config: SearchConfig, left_out: list[LeftOut]) -> Iterator[StudentConfig]:
    """Encoders whose weights are there, with each light decoder."""
    unreachable = ""
    for encoder, weights in (config.encoders or dict.fromkeys(ENCODERS, IMAGENET)).items():
        spec = f"timm:{encoder.removeprefix('timm:')}"
        if weights != IMAGENET:
            if not Path(weights).is_file():
                raise FileNotFoundError(f"{weights} does not exist (encoders: the weights of {encoder})")
        elif unreachable:
            left_out.append(LeftOut(name=spec, reason=unreachable))
            continue
        else:
            try:
                download(parse_architecture(spec), "encoders")
            except ValueError as error:
                left_out.append(LeftOut(name=spec, reason=str(error)))
                if "could not be downloaded" in str(error):
                    unreachable = "not tried: the weights of the encoder before could not be downloaded"
                continue
        for decoder in get_args(DecoderName):
            for channels in CHANNELS:
                yield StudentConfig(spec=spec, decoder=decoder, channels=channels, weights=weights)


def _teacher_students(recipe: TrainConfig, left_out: list[LeftOut]) -> Iterator[StudentConfig]:
    """The teacher's own network, where one network gives the logits and can be trained."""
    teacher = recipe.teacher
    if not teacher.specs:
        return
    if len(teacher.specs) > 1 or teacher.features_only:
        reason = "several networks" if len(teacher.specs) > 1 else "an encoder without a head"
        left_out.append(LeftOut(name="the teacher", reason=f"the teacher is {reason}"))
        return
    try:
        yield as_student(teacher.specs[0], teacher.weights)
    except ValueError as error:
        left_out.append(LeftOut(name=teacher.specs[0], reason=str(error)))


def as_student(text: str, weights: str | None = None) -> StudentConfig:
    """Any network as a student that starts from its weights.

    Args:
        text: a network spec.
        weights: a state dict for it; None takes the published ones, where there are some.

    Raises:
        ValueError: it is an exported file, or names nothing.
    """
    spec = parse_spec(text)
    if spec.kind == "file":
        raise ValueError("an exported file cannot be trained, nor exported again")
    if spec.kind == "run":
        card = read_card(run_folder(spec.text))
        shape = {item.name: getattr(card, item.name) for item in fields(Architecture)}
        return StudentConfig(**shape, init=spec.text)
    known = {"hf": PUBLISHED, "torchvision": IMAGENET, "timm": IMAGENET, "smp": IMAGENET}
    return StudentConfig(spec=spec.text, weights=weights or known.get(spec.kind))


def read_candidates(path: Path) -> list[Entry]:
    """The students of a file, each a mapping of the settings of `student`, with `sizes` and `lr` if any.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is no such list.
    """
    content = read_plain_yaml(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError(
            f"{path} must be a list of students, each a mapping such as {{spec: dsunet, width: 0.5}}"
        )
    found = []
    for number, values in enumerate(content, start=1):
        sizes, lr = values.pop("sizes", []), values.pop("lr", None)
        whole = isinstance(sizes, list) and all(isinstance(size, int) and size > 0 for size in sizes)
        if not whole:
            raise ValueError(f"{path}: sizes of entry {number} is {sizes!r}, but must be a list of pixels")
        if lr is not None and not (isinstance(lr, int | float) and lr > 0):
            raise ValueError(f"{path}: lr of entry {number} is {lr!r}, but must be a number above 0")
        try:
            found.append(Entry(student=from_plain(StudentConfig, values), sizes=sizes, lr=lr))
        except ValueError as error:
            raise ValueError(f"{path}: entry {number}: {error}") from None
    return found


def without_weights(student: StudentConfig) -> StudentConfig:
    """The same network with random weights."""
    return replace(student, weights=None, init=None)
