"""The page of a certificate: what `segdistill verify` found, with the images on which two networks differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segdistill.data.labels import LabelSet
from segdistill.engine.agreement import DifferingImage
from segdistill.engine.bootstrap import Interval
from segdistill.page.templates import open_template
from segdistill.reporting.comparison import DASH, TIMES, Cell, Row, flatten, milliseconds, percent
from segdistill.reporting.evidence import interval_cell
from segdistill.reporting.examples import (
    CORRECT,
    WRONG,
    Example,
    colour_legend,
    difference_tiles,
    picture_url,
)
from segdistill.reporting.style import SERIES
from segdistill.reporting.tables import SCORE_TITLES, floored_percent
from segdistill.version import __version__

Record = Mapping[str, Any]


def certificate_page(record: Record, worst: Sequence[DifferingImage], labels: LabelSet) -> str:
    """One self-contained HTML page.

    Args:
        record: the certificate, see `segdistill.verification.certify`.
        worst: the images in its `worst`.
        labels: the classes.
    """
    names = _names([network["target"] for network in record["networks"]])
    examples = [
        _example(image, dict(zip(names, found["miou"], strict=True)))
        for image, found in zip(worst, record["worst"], strict=True)
    ]
    return open_template("segdistill.reporting", "certificate.html.j2").render(
        version=__version__,
        series=SERIES,
        many=False,
        record=record,
        names=names,
        scores=[
            _score_row(
                SCORE_TITLES[score], [n[score] for n in record["networks"]], record["differences"][0][score]
            )
            for score in ("miou", "pixel_accuracy")
        ],
        classes=[_score_row(name, f["networks"], f["difference"]) for name, f in record["iou"].items()],
        agreement=_agreement(record),
        latencies=_latency_rows(record),
        facts=_facts(record),
        environment=[
            Row(title=name.removeprefix("packages.").replace("_", " "), cells=[Cell(text=value)])
            for name, value in flatten(record["environment"]).items()
        ],
        examples=[
            (example, _differing(image), difference_tiles(example, labels))
            for example, image in zip(examples, worst, strict=True)
        ],
        class_colours=colour_legend(examples, labels),
        difference_colours=[("same class", CORRECT), ("different", WRONG)],
        picture_url=picture_url,
    )


def _names(specs: Sequence[str]) -> list[str]:
    """Short names of the baseline and of what is certified, different ones."""
    short = [Path(spec).name for spec in specs]
    names = short if short[0] != short[1] else list(specs)
    return names if names[0] != names[1] else [f"{names[0]} (baseline)", names[1]]


def _example(image: DifferingImage, scores: dict[str, float | None]) -> Example:
    """An image with the masks of both networks."""
    return Example(
        id=image.id,
        role="",
        scores=scores,
        image=image.image,
        truth=image.truth,
        predictions=dict(zip(scores, image.masks, strict=True)),
    )


def _differing(image: DifferingImage) -> str:
    """How many pixels differ, in words."""
    first, second = image.masks
    return f"{int((first != second).sum()):,} of {first.size:,} pixels differ ({1 - image.equal:.2%})"


def _score_row(title: str, networks: Sequence[Record], difference: Record) -> Row:
    """A score of both networks, and the difference in points with its interval."""
    write = percent(2)
    scores = [Cell(text=DASH if found["value"] is None else write(found["value"])) for found in networks]
    interval = Interval(**{end: difference[end] for end in ("value", "low", "high")})
    return Row(title=title, cells=[*scores, interval_cell(interval)])


def _agreement(record: Record) -> list[Row]:
    """The headline: images, equal pixels, largest deviation."""
    equal, deviation = record["equal_pixels"], record["largest_deviation"]
    return [
        Row(title="images", cells=[Cell(text=f"{record['image_count']:,}")]),
        Row(
            title="equal pixels",
            cells=[Cell(text=DASH if equal is None else floored_percent(equal))],
            note="void ones too",
        ),
        Row(
            title="largest deviation",
            cells=[Cell(text=DASH if deviation is None else f"{deviation:.2g}")],
            note="of a probability" if deviation is not None else "one of them outputs masks",
        ),
    ]


def _latency_rows(record: Record) -> list[Row]:
    """Input size and latency of each network; none where it was not measured."""
    found = [network["latency"] for network in record["networks"]]
    if None in found:
        return []
    texts = {
        "median": [milliseconds(latency["median_ms"]) for latency in found],
        "95th percentile": [milliseconds(latency["p95_ms"]) for latency in found],
        "input, pixels": [f" {TIMES} ".join(map(str, latency["input"])) for latency in found],
    }
    return [Row(title=title, cells=[Cell(text=text) for text in row]) for title, row in texts.items()]


def _facts(record: Record) -> list[Row]:
    """What was compared on what, with hashes."""
    rows = []
    for role, network in zip(("baseline", "certified"), record["networks"], strict=True):
        text = f"{network['target']}, in {network['runtime']}"
        rows.append(Row(title=role, cells=[Cell(text=text)]))
        rows += [
            Row(title=f"SHA-256 of {file}", cells=[Cell(text=digest)])
            for file, digest in network["sha256"].items()
        ]
    data = f"{record['data'] or 'validation set of the run'}, split {record['split']}"
    return [
        *rows,
        Row(title="data", cells=[Cell(text=data)]),
        Row(title="SHA-256 of images and masks", cells=[Cell(text=record["data_sha256"])]),
    ]
