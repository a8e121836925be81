"""Numbers of several runs side by side, as text, with their differences to the first run."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from segdistill.engine.bootstrap import Interval
from segdistill.reporting.intervals import RunIntervals
from segdistill.reporting.records import TEACHER, Records
from segdistill.reporting.tables import SCORE_TITLES

LOWER_IS_BETTER = frozenset({"calibration_error", "calibration_error_before"})
LEAST_FACTOR = 1.25
"""Latencies without a spread differ from this factor on."""
DASH, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"
Formatter = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of one run.

    Attributes:
        text: the value.
        delta: its signed difference to the first run's, empty where there is nothing to compare.
        tone: whether the difference is "better" or "worse"; "same" where it lies within the spread.
        spread: the range that the value has over other images, or over passes; empty where it is unknown.
    """

    text: str
    delta: str = ""
    tone: str = ""
    spread: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity over all runs; `note` explains how to read it."""

    title: str
    cells: list[Cell]
    note: str = ""


def cells(
    values: Sequence[float | None],
    write: Formatter,
    *,
    relative: bool = False,
    lower_is_better: bool = False,
    digits: int = 1,
    compared: bool = True,
) -> list[Cell]:
    """The values of all runs, with the differences of the later ones to the first.

    Args:
        values: fractions from 0 to 1, or any quantity where `relative`; None where a run has none.
        write: turns a value into text.
        relative: differences in percent of the first value, instead of percentage points.
        lower_is_better: which sign is good.
        digits: after the point, of the differences.
        compared: whether there are differences at all.
    """
    first = values[0] if compared else None
    row = []
    for index, value in enumerate(values):
        if value is None:
            row.append(Cell(text=DASH))
            continue
        if index == 0 or first is None or (relative and first == 0):
            row.append(Cell(text=write(value)))
            continue
        change = 100 * (value / first - 1 if relative else value - first)
        text = f"{abs(change):.{digits}f}"
        if float(text) == 0:
            row.append(Cell(text=write(value), delta=f"±{text}", tone="same"))
            continue
        tone = "better" if (change < 0) == lower_is_better else "worse"
        sign = "+" if change > 0 else MINUS
        row.append(Cell(text=write(value), delta=sign + text + ("\u00a0%" if relative else ""), tone=tone))
    return row


def within_spread(row: Sequence[Cell], certain: Sequence[bool]) -> list[Cell]:
    """The cells without the colour of those differences that are not certain."""
    return [
        cell if sure or not cell.tone else replace(cell, tone="same")
        for cell, sure in zip(row, certain, strict=True)
    ]


def percent(digits: int) -> Formatter:
    """Writes a fraction as a percentage."""
    return lambda value: f"{100 * value:.{digits}f}\u00a0%"


def amount(value: float, unit: str = "") -> str:
    """A count with three digits and a decimal prefix: 2.29 M."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}\u00a0{prefix}{unit}"
    return f"{value:.3g}\u00a0{unit}".rstrip("\u00a0")


def milliseconds(value: float) -> str:
    """A duration with three digits."""
    return f"{value:.3g}\u00a0ms" if value < 1000 else f"{value / 1000:.3g}\u00a0s"


def different_images(runs: Sequence[Records]) -> str:
    """A sentence on runs whose best evaluations scored different images; empty where they scored the same.

    Their scores are shown side by side, but without differences, which would compare the images too.
    """
    scored = {run.name: set(run.image_scores) for run in runs if run.image_scores}
    if not scored or all(images == next(iter(scored.values())) for images in scored.values()):
        return ""
    counts = ", ".join(f"{name} on {len(images):,}" for name, images in scored.items())
    common = len(set.intersection(*scored.values()))
    return (
        f"These runs were scored on different images: {counts}, of which {common:,} are the same. "
        "Their scores cannot be compared."
    )


def headline(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[Row]:
    """The six numbers that a reader wants first."""
    rows = []
    for name in ("miou", "pixel_accuracy", "boundary_iou", "calibration_error"):
        lower = name in LOWER_IS_BETTER
        rows.append(
            Row(
                title={"miou": "mean IoU", "calibration_error": "ECE"}.get(name, SCORE_TITLES[name]),
                cells=_score_cells(runs, found, name, digits=1),
                note="calibration error: lower is better" if lower else "",
            )
        )
    parameters = [run.network("student").get("parameters") for run in runs]
    row = Row(
        title="parameters",
        cells=cells(parameters, amount, relative=True, lower_is_better=True),
        note=_against_teacher(runs, "parameters", ("fewer than its teacher", "more than its teacher")),
    )
    return [*rows, row, latency(runs)]


def latency(runs: Sequence[Records]) -> Row:
    """The students' latencies; a difference is coloured where it is more than the passes' spread."""
    networks = [run.network("student") for run in runs]
    ways = {measured_on(run) for run in runs if run.cost}
    values = [network.get("latency_ms") for network in networks]
    row = cells(values, milliseconds, relative=True, lower_is_better=True, compared=len(ways) == 1)
    row = within_spread(row, [slower_or_faster(network, networks) for network in networks])
    row = [
        replace(cell, spread=_range(network, milliseconds))
        for cell, network in zip(row, networks, strict=True)
    ]
    notes = [
        f"one image: {next(iter(ways))}" if len(ways) == 1 else "measured in different ways" if ways else ""
    ]
    if len(ways) == 1 and any(
        cell.delta and same_size(networks[0], n) for cell, n in zip(row, networks, strict=True)
    ):
        notes.append("networks of the same size and operations differ by the spread of the measurement alone")
    return Row(title="latency", cells=row, note="; ".join(filter(None, notes)))


def same_size(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two networks of cost.json have as many parameters and as many operations."""
    return all(one.get(key) is not None and one.get(key) == other.get(key) for key in ("parameters", "flops"))


def pooled_latency(
    network: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]
) -> tuple[float, float, float] | None:
    """Median, lowest and highest latency of all networks that have the size of one of them.

    Networks of one size take equally long: what their measurements differ by is the measurements' spread.
    The ends are the quartiles, or the medians where only these were kept. None where nothing was measured.
    """
    peers = [each for each in networks if each is network or same_size(each, network)]
    measured = [each for each in peers if each.get("latency_ms")]
    if not network.get("latency_ms"):
        return None
    return (
        median(each["latency_ms"] for each in measured),
        min(each.get("latency_low_ms", each["latency_ms"]) for each in measured),
        max(each.get("latency_high_ms", each["latency_ms"]) for each in measured),
    )


def slower_or_faster(network: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a network's latency differs from the first one's by more than the spread of the measurements.

    Where one of the two has no spread, as of earlier versions, only from a factor of `LEAST_FACTOR` on.
    """
    first = networks[0]
    one, other = pooled_latency(first, networks), pooled_latency(network, networks)
    if one is None or other is None or same_size(first, network):
        return False
    apart = one[2] < other[1] or other[2] < one[1]
    spread_known = one[1] < one[2] and other[1] < other[2]
    factor = max(one[0], other[0]) / min(one[0], other[0])
    return apart and (spread_known or factor >= LEAST_FACTOR)


def _range(network: Mapping[str, Any], write: Formatter) -> str:
    """The middle half of the passes of a network, in words; empty where only the median was kept."""
    ends = [network.get(end) for end in ("latency_low_ms", "latency_high_ms")]
    return "" if None in ends else " to ".join(write(end) for end in ends if end is not None)


def _score_cells(
    runs: Sequence[Records], found: Sequence[RunIntervals], name: str, *, digits: int
) -> list[Cell]:
    """One score of all runs, with its intervals; a difference is coloured where its interval excludes 0."""
    values, lower = [run.scores.get(name) for run in runs], name in LOWER_IS_BETTER
    row = cells(
        values, percent(digits), lower_is_better=lower, digits=digits, compared=not different_images(runs)
    )
    row = within_spread(row, [each.resolved(name) for each in found])
    return [
        replace(cell, spread=spread_of(each.alone[name])) if name in each.alone else cell
        for cell, each in zip(row, found, strict=True)
    ]


def spread_of(interval: Interval) -> str:
    """The ends of a score's interval in percent; empty where there is none."""
    if interval.low is None or interval.high is None:
        return ""
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def scores(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[Row]:
    """Every score of the best evaluation, and the newest one's mIoU."""
    rows = []
    for name, title in SCORE_TITLES.items():
        if any(run.scores.get(name) is not None for run in runs):
            row = _score_cells(runs, found, name, digits=2)
            rows.append(
                Row(title=title, cells=row, note="lower is better" if name in LOWER_IS_BETTER else "")
            )
    last = [(run.last or {}).get("miou") for run in runs]
    if any(value is not None for value in last):
        row = cells(last, percent(2), digits=2, compared=not different_images(runs))
        row = within_spread(row, [False] * len(row))  # the counts are those of the best evaluation
        rows.append(Row(title="mean IoU after the last step", cells=row))
    return rows


def classes(runs: Sequence[Records], found: Sequence[RunIntervals]) -> list[Row]:
    """IoU of each class, and beside it, where there is one run only, its other scores."""
    iou = [(run.best or {}).get("iou", {}) for run in runs]
    compared = not different_images(runs)
    rows = []
    for name in dict.fromkeys(name for values in iou for name in values):
        row = cells([values.get(name) for values in iou], percent(1), compared=compared)
        row = within_spread(row, [each.resolved_class(name) for each in found])
        # A class without truth is absent; one that a run does not have, or has no score of yet, is a dash.
        row = [
            Cell(text="absent") if name in values and values[name] is None else cell
            for values, cell in zip(iou, row, strict=True)
        ]
        if len(runs) == 1:
            best = runs[0].best or {}
            for key in ("accuracy", "boundary_iou_by_class"):
                row += cells([best.get(key, {}).get(name)], percent(1))
            row.append(Cell(text=_fraction_of_truth(best, name)))
        rows.append(Row(title=name, cells=row))
    return rows


def costs(runs: Sequence[Records]) -> list[Row]:
    """Parameters, operations and latency of every network, and how a student compares with its teacher."""
    rows = []
    for run in runs:
        for network in (run.cost or {}).get("networks", []):
            name = str(network.get("name", "?"))
            writers = {"parameters": amount, "flops": lambda v: amount(v, "FLOP"), "latency_ms": milliseconds}
            row = [Cell(text=DASH if (v := network.get(k)) is None else w(v)) for k, w in writers.items()]
            row[-1] = replace(row[-1], spread=_range(network, milliseconds))
            gain = "" if name == TEACHER else _gains(network, run.network(TEACHER))
            rows.append(
                Row(
                    title=name if len(runs) == 1 else f"{run.name}: {name}",
                    cells=[*row, Cell(text=gain)],
                    note=measured_on(run),
                )
            )
    return rows


def measured_on(run: Records) -> str:
    """Where and on what the run's networks were measured."""
    cost = run.cost or {}
    threads = f", threads: {cost['threads']}" if cost.get("device") == "cpu" and "threads" in cost else ""
    size = f" {TIMES} ".join(map(str, cost.get("input", [])[2:]))
    return f"{cost.get('device', '?')}{threads}, {size} pixels"


def settings(runs: Sequence[Records]) -> list[Row]:
    """The settings that differ between runs; none where a run has no settings to compare."""
    if not all(run.config for run in runs):
        return []
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [Row(title=name, cells=[Cell(text=values.get(name, DASH)) for values in flat]) for name in names]
    return [row for row in rows if len({cell.text for cell in row.cells}) > 1]


def environments(runs: Sequence[Records]) -> list[Row]:
    """What the runs were made with, one row per version, device, ..."""
    flat = [flatten(run.environment or {}) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    return [
        Row(
            title=name.removeprefix("packages.").replace("_", " "),
            cells=[Cell(text=values.get(name, DASH)) for values in flat],
        )
        for name in names
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dotted names and text values; a command becomes a line of shell."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        elif name == "command" and isinstance(value, list):
            flat[prefix + name] = shlex.join(map(str, value))
        else:
            flat[f"{prefix}{name}"] = DASH if value in (None, "", [], {}) else str(value)
    return flat


def _fraction_of_truth(evaluation: Mapping[str, Any], name: str) -> str:
    """The fraction of the labelled pixels that is of a class, in percent."""
    confusion, names = evaluation.get("confusion"), list(evaluation["iou"])
    total = sum(map(sum, confusion)) if confusion else 0
    return percent(1)(sum(confusion[names.index(name)]) / total) if confusion and total else DASH


def _against_teacher(runs: Sequence[Records], key: str, words: tuple[str, str]) -> str:
    """How many times fewer or more than its teacher's, for a single run."""
    student, teacher = runs[0].network("student").get(key), runs[0].network(TEACHER).get(key)
    return _times(student, teacher, words) if len(runs) == 1 and student and teacher else ""


def _times(student: float, teacher: float, words: tuple[str, str]) -> str:
    """The factor between two costs, and the words for a gain or a loss; empty where they are nearly equal."""
    factor = f"{max(student, teacher) / min(student, teacher):.1f}"
    return "" if factor == "1.0" else f"{factor}{TIMES} {words[student > teacher]}"


def _gains(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """How many times smaller, cheaper and faster a student is than its teacher, or the contrary."""
    words = {
        "parameters": ("fewer parameters", "more parameters"),
        "flops": ("fewer operations", "more operations"),
        "latency_ms": ("faster", "slower"),
    }
    both = {key: text for key, text in words.items() if student.get(key) and teacher.get(key)}
    return ", ".join(filter(None, (_times(student[key], teacher[key], text) for key, text in both.items())))
