"""The budget of latency: a time, or a multiple of a baseline that is measured with the candidates."""

from collections.abc import Mapping
from dataclasses import dataclass

from segdistill.config.naming import setting
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.models.spec import display_name
from segdistill.profiling.device import Latency
from segdistill.searching.candidates import BASELINE, Candidate, as_student


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The longest median latency that a candidate may have.

    Attributes:
        milliseconds: of one image.
        text: what people read.
    """

    milliseconds: float
    text: str


def baseline_spec(config: SearchConfig, recipe: TrainConfig) -> str | None:
    """What the budget is a multiple of; None where it is a time.

    Raises:
        ValueError: there is no teacher, or it is not one network, and no other baseline is named.
    """
    if config.most_times is None or config.baseline is not None:
        return config.baseline
    specs = recipe.teacher.specs
    if len(specs) != 1:
        there = "are several teachers" if specs else "is no teacher"
        raise ValueError(
            f"latency is {config.latency}, but there {there}: name a network with {setting('baseline')}"
        )
    return specs[0]


def baseline_candidate(config: SearchConfig, recipe: TrainConfig) -> dict[str, Candidate]:
    """The baseline, if there is one: measured before the candidates, and so the reference of all.

    Raises:
        ValueError: it names nothing, or is an exported file.
    """
    spec = baseline_spec(config, recipe)
    if spec is None:
        return {}
    try:
        student = as_student(spec)
    except ValueError as error:
        raise ValueError(f"{setting('baseline')} {spec}: {error}") from None
    candidate = Candidate(network=BASELINE, family=BASELINE, student=student, size=config.size, lr=None)
    return {candidate.key: candidate}


def resolve_budget(config: SearchConfig, recipe: TrainConfig, measured: Mapping[str, Latency]) -> Budget:
    """The budget as a time.

    Args:
        config: of the search.
        recipe: names the teacher.
        measured: with the baseline, where the budget is a multiple.

    Raises:
        ValueError: the baseline could not be measured.
    """
    if config.most_milliseconds is not None:
        return Budget(milliseconds=config.most_milliseconds, text=config.latency)
    assert config.most_times is not None
    name = display_name(baseline_spec(config, recipe) or "")
    (key,) = baseline_candidate(config, recipe)
    latency = measured[key]
    if latency.median_ms is None:
        raise ValueError(f"the baseline {name} could not be measured: {latency.error}")
    milliseconds = config.most_times * latency.median_ms
    return Budget(
        milliseconds=milliseconds,
        text=f"{milliseconds:.2f} ms ({config.latency} {name} at {config.size} pixels)",
    )
