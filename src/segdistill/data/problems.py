"""What is wrong with a data set, by cause, and what its masks may have been meant to be."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from segdistill.data.images import read_mask
from segdistill.data.labels import LabelSet
from segdistill.data.masks import MOST_ID, IndexMasks, Problem, text_of_numbers
from segdistill.data.samples import FileSamples, Samples

EXAMPLES = 3
"""Problems of one cause that are named, and ids of a mapping; of the others there is a count."""

MASKS_READ = 40
"""Masks whose values are looked at for a mapping of ids: bad ones first, the others evenly spaced."""

MOST_LISTED = 40
"""Most ids for which a mapping is suggested."""


def by_cause(problems: Iterable[Problem]) -> list[list[Problem]]:
    """Problems that differ in files and numbers alone, together; the first one found first."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(_without_details(problem.reason), []).append(problem)
    return [*found.values()]


def _without_details(reason: str) -> str:
    """What a reason says first, without the names of files and the numbers in it."""
    first = reason.partition(";")[0]  # what follows depends on the numbers
    plain = re.sub(r"\S*[/\\]\S*|\S+\.\w{2,4}\b|\d[\d,.x]*", "#", first)
    return re.sub(r"#(?:\W*#)*", "#", plain)


def suggest_ids(samples: Samples, bad: Sequence[str]) -> str | None:
    """How to describe masks whose ids are no class indices; None where they are, or cannot be looked at.

    Args:
        samples: of a split.
        bad: ids of those with problems, whose masks are looked at first.
    """
    if not isinstance(samples, FileSamples) or not isinstance(samples.reader, IndexMasks):
        return None
    labels, first = samples.labels, set(bad[: MASKS_READ // 2])
    chosen = [index for index, name in enumerate(samples.ids) if name in first and index < samples.labelled]
    rest = min(MASKS_READ - len(chosen), samples.labelled)
    chosen += np.linspace(0, samples.labelled - 1, rest).round().astype(int).tolist()
    looked_at = sorted(set(chosen))
    held = sorted(set(_values(samples, looked_at)) - {labels.void})
    outside = [value for value in held if value >= len(labels)]
    if len(outside) < 2 or len(held) > MOST_LISTED:  # what a single one may be, its error says
        return None
    seen = f"{len(looked_at)} of {samples.labelled:,} masks hold"
    if len(held) == len(labels):
        mapping = ", ".join(f"{value}: {name}" for value, name in zip(held, labels.names, strict=True))
        return (
            f"{seen} as many values as there are names; if they are meant in this order, say "
            f"`mask_format: ids` and `ids: {{{mapping}}}` in dataset.yaml"
        )
    return (
        f"{seen} {text_of_numbers(held)}; give the class of each with `mask_format: ids` and "
        f"`ids: {{{_sketch(held, labels)}}}` in dataset.yaml"
    )


def _sketch(held: list[int], labels: LabelSet) -> str:
    """The first ids of a mapping, by the names of their indices where there are such."""
    known = [f"{value}: {labels.names[value]}" if value < len(labels) else f"{value}: NAME" for value in held]
    return ", ".join(known[:EXAMPLES] + (["..."] if len(known) > EXAMPLES else []))


def _values(samples: FileSamples, indices: Sequence[int]) -> Iterator[int]:
    """The values that some masks hold; files that cannot be read are left out."""
    for index in indices:
        mask = samples.files(index).mask
        try:
            yield from np.unique(read_mask(mask, MOST_ID)).tolist() if mask is not None else ()
        except (ValueError, OSError):
            continue
