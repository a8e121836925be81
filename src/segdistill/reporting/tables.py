"""Results as tables and lines for the terminal."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from segdistill.config.naming import setting

SCORE_TITLES = {
    "miou": "mean IoU",
    "miou_union": "mean IoU, predicted classes without truth as 0",
    "miou_of_classes": "mean IoU of the chosen classes",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean class accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_iou": "boundary IoU",
    "calibration_error": "expected calibration error",
    "calibration_error_before": "calibration error at temperature 1",
    "teacher_agreement": "agreement with the teacher",
}


def score_table(summary: dict[str, Any]) -> Table:
    """The scores of one evaluation, and below them each class; what could not be computed is left out."""
    table = Table(
        title=f"{summary['target']} on {summary['data'] or 'its validation set'}, {summary['split']}"
    )
    table.add_column("")
    for column in ("IoU", "accuracy", "boundary IoU"):
        table.add_column(column, justify="right")
    for key, title in SCORE_TITLES.items():
        if summary.get(key) is not None:
            table.add_row(title, f"{summary[key]:.4f}", "", "")
    table.add_section()
    for name, value in summary["iou"].items():
        if value is None:
            table.add_row(name, "absent", "", "", style="dim")
            continue
        row = (value, summary["accuracy"][name], summary["boundary_iou_by_class"][name])
        table.add_row(name, *(f"{score:.4f}" for score in row))
    return table


def comparison_table(record: Mapping[str, Any]) -> Table:
    """What `segdistill compare` found: the scores of networks A, B, ... and the differences to A."""
    names = [name for name in SCORE_TITLES if name in record["networks"][0]]
    where = f"{record['data'] or 'the validation set'}, {record['split']}"
    table = Table(
        title=f"{record['image_count']} images of {where}; in brackets {record['level']:.0%} intervals"
    )
    table.add_column("")
    for name in names:
        table.add_column(SCORE_TITLES[name], justify="right")
    for index, network in enumerate(record["networks"]):
        table.add_row(_letter(index), *(_interval(network[name], "") for name in names))
    table.add_section()
    for index, difference in enumerate(record["differences"], start=1):
        table.add_row(f"{_letter(index)} - A", *(_interval(difference[name], "+") for name in names))
    return table


def comparison_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What A, B, ... are, and each difference in words."""
    for index, network in enumerate(record["networks"]):
        size = f"at long side {network['size']}" if network["size"] else "at their own size"
        yield f"{_letter(index)}: {network['target']}, images {size}"
    sizes = {network["size"] for network in record["networks"]}
    if len(sizes) > 1:
        yield f"The networks get images at different sizes, each at its own; {setting('size')} is one for all"
    for difference in record["differences"]:
        for name, title in SCORE_TITLES.items():
            if name in difference:
                yield _verdict(difference, name, title, record["level"])


def verdict_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What A and B of a certificate are, how far they agree, the verdict, and where its page is."""
    for index, network in enumerate(record["networks"]):
        size = f"at long side {network['size']}" if network["size"] else "at their own size"
        speed = f", {network['latency']['median_ms']:.1f} ms per image" if network["latency"] else ""
        yield f"{_letter(index)}: {network['target']}, images {size}{speed}"
    deviation = record["largest_deviation"]
    probability = "" if deviation is None else f"; no probability differs by more than {deviation:.2g}"
    yield f"{floored_percent(record['equal_pixels'])} of the pixels are equal{probability}"
    yield f"Verdict: {record['verdict']['text']}"
    yield f"The page is {Path(record['out']).with_suffix('.html')}"


def floored_percent(share: float) -> str:
    """A fraction in percent, rounded down: what is less than all does not look like all."""
    return f"{math.floor(share * 1e5) / 1e3:.3f}%"


def recheck_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What running a certificate again found."""
    for network in found["networks"]:
        yield f"mean IoU of {network['target']}: {network['then']} then, {network['now']} now"
    yield from found["mismatches"]
    yield "Not reproduced" if found["mismatches"] else "Reproduced: same data, same files, same scores"
    yield f"Verdict: {found['verdict']['text']}"


def _verdict(difference: Mapping[str, Any], name: str, title: str, level: float) -> str:
    """Whether one difference of two networks is resolved, in words."""
    found, target, baseline = difference[name], difference["target"], difference["baseline"]
    if found["value"] is None:
        return f"{title}: nothing to compare, for no pixel of these classes is labelled"
    value, low, high = (100 * found[end] for end in ("value", "low", "high"))
    interval = f"{level:.0%} interval {low:+.2f} to {high:+.2f}"
    if found["resolved"]:
        return (
            f"{title}: {target} is {'better' if value > 0 else 'worse'} than {baseline} by {abs(value):.2f} "
            f"points; resolved on these images ({interval}, without 0)"
        )
    return (
        f"{title}: {target} minus {baseline} is {value:+.2f} points; not resolved on these images "
        f"({interval}, with 0)"
    )


def _letter(index: int) -> str:
    """What a table calls its networks: A to Z, then A1, ..."""
    return f"{ascii_uppercase[index % 26]}{index // 26 or ''}"


def _interval(found: Mapping[str, float | None], sign: str) -> str:
    """A score or, with `sign` "+", a difference, with the ends of its interval."""
    if found["value"] is None:
        return "-"
    value, low, high = (f"{found[end]:{sign}.4f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def benchmark_table(record: Mapping[str, Any]) -> Table:
    """What `segdistill benchmark` measured, one line per target and form: A, B, ... of `benchmark_lines`."""
    batch, _, height, width = record["input"]
    title = f"{record['device']}, {batch} x {height} x {width}, {record['repeats']} passes each"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("")
    for column in (
        "million weights", "GFLOPs", "file MB", "threads", "median ms", "p95 ms", "images/s", "added MB",
        "times as fast",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for index, entry in enumerate(record["entries"]):
        table.add_row(
            _letter(index),
            _or_dash(entry["parameters"], "{:.2f}", 1e6),
            _or_dash(entry["flops"], "{:.2f}", 1e9),
            _or_dash(entry["file_bytes"], "{:.2f}", 1e6),
            _or_dash(entry["threads"], "{}"),
            f"{entry['median_ms']:.1f}",
            f"{entry['p95_ms']:.1f}",
            f"{entry['images_per_second']:.1f}",
            _or_dash(entry["added_bytes"], "{:.0f}", 1e6),
            f"{entry['ratio']:.2f}",
        )
    return table


def benchmark_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What A, B, ... are."""
    for index, entry in enumerate(record["entries"]):
        yield f"{_letter(index)}: {entry['target']}, {entry['form']}, {entry['precision']}"


def replay_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of a batch that is computed again: its terms, those of each image, and which tensors are not finite."""
    yield f"step {found['step']}: {_terms(found['terms'])}"
    for name, terms in found["images"].items():
        mark = "  <- not finite" if name in found["bad"] and found["nonfinite"] else ""
        yield f"  {name}: {_terms(terms)}{mark}"
    yield f"not finite, in this order: {', '.join(found['nonfinite'][:12]) or 'nothing'}"


def _terms(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in terms.items())


def _or_dash(value: float | None, form: str, unit: float | None = None) -> str:
    return "-" if value is None else form.format(value if unit is None else value / unit)


def label_table(record: Mapping[str, Any]) -> Table:
    """What the masks of `segdistill label` hold."""
    return class_table(f"{record['images']:,} masks in {record['out']}", record)


def label_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """How many masks this call computed, which files it could not read, and where to look."""
    problems = record["problems"]
    unread = f"; {problems:,} {'file' if problems == 1 else 'files'} could not be read" if problems else ""
    yield f"{record['computed']:,} of them computed by this call{unread}"
    yield f"Some of them with their images: {record['sheet']}"


def cache_line(record: Mapping[str, Any]) -> str:
    """What `segdistill cache` has filled."""
    folders = " and ".join(record["cache"])
    return (
        f"{record['images']:,} images in {folders}: {record['bytes'] / 1e6:.1f} MB at stride "
        f"{record['stride']}, in {record['seconds']:.1f} s"
    )


def calibration_table(record: Mapping[str, Any]) -> Table:
    """What `segdistill calibrate` fitted, and the calibration errors at temperature 1 and at that one."""
    fitted = f"fitted on {record['images']:,} images ({record['pixels']:,} pixels)"
    table = Table(title=Text(f"{record['run']}: temperature {record['temperature']:.3f}, {fitted}"))
    table.add_column(SCORE_TITLES["calibration_error"])
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    titles = {"error": "on these images", "held_out": "on half of them, fitted on the others"}
    for name, title in titles.items():
        table.add_row(title, *(_or_dash(record[f"{name}_{when}"], "{:.4f}") for when in ("before", "after")))
    return table


def search_table(record: Mapping[str, Any]) -> Table:
    """The student that `segdistill search` found."""
    table = Table(title=Text(f"{record['candidate']} at {record['size']} pixels"), show_header=False)
    table.add_row("student", Text(record["student"]))
    table.add_row("mean IoU on the validation split", _or_dash(record["miou"], "{:.4f}"))
    table.add_row("latency", f"{record['latency_ms']:.1f} ms")
    for name in ("file", "certificate", "report"):
        table.add_row(name, Text(record[name]))
    return table


def push_line(record: Mapping[str, Any]) -> str:
    """What `segdistill push` sent, and where it is."""
    size = f"{len(record['files'])} files, {record['bytes'] / 1e6:.1f} MB"
    if "folder" in record:
        return f"Nothing was sent; {record['folder']} holds what {record['repository']} would get: {size}"
    return f"{record['url']}: {size}, commit {record['commit']}"


def class_table(title: str, record: Mapping[str, Any]) -> Table:
    """The share of all pixels of each class and of void, the images with it, and its smallest object.

    Args:
        title: of the table.
        record: `Survey.record`.
    """
    smallest = record.get("smallest_objects")
    table = Table(title=title)
    table.add_column("class")
    for column in ("pixels", "images", *(["smallest object"] if smallest else [])):
        table.add_column(column, justify="right")
    if smallest:
        table.add_column("in image", overflow="fold")
    for name, count in record["image_counts"].items():
        cells = [_percent(record["pixel_shares"][name]) if count else "absent", f"{count:,}"]
        if smallest and name in smallest:
            cells += [f"{smallest[name]['pixels']:,} px", smallest[name]["id"]]
        table.add_row(Text(name), *map(Text, cells), style=None if count else "dim")
    table.add_section()
    table.add_row("void", _percent(record["void_share"]), "")
    return table


def _percent(share: float) -> str:
    """A fraction in percent; a small one does not look like none."""
    return "<0.01%" if 0 < share < 1e-4 else f"{share:.2%}"
