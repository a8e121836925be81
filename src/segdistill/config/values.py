"""Checks that settings share: one line that names the setting, its value and what is allowed."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value")
Scheduled = float | tuple[float, float]
"""A number, or two: linear from the first to the last step."""


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise a `ValueError` that names the setting, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


def did_you_mean(value: object, choices: Iterable[object], *, cutoff: float = 0.6, prefix: str = "") -> str:
    """`; did you mean NAME?` for the choice that a mistyped value is nearest to; empty where none is near.

    Args:
        value: what was typed.
        choices: what there is.
        cutoff: how near a choice must be, from 0 to 1.
        prefix: is put before the choice.
    """
    near = get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=cutoff)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def largest(value: Scheduled) -> float:
    """The larger end of a number that may change over the steps."""
    return max(value) if isinstance(value, tuple) else value


def is_weight(value: object, *, above: bool = False) -> bool:
    """Whether a `Scheduled` holds one or two finite numbers that are 0 or more, or above 0."""
    ends = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(
        isinstance(end, int | float) and (end > 0 if above else end >= 0) and end < math.inf for end in ends
    )


def one_each(value: Value | list[Value], count: int, name: str) -> list[Value]:
    """A setting for each of `count` networks: a list has one for each, any other value is for all."""
    if not isinstance(value, list):
        return [value] * count
    require(len(value) == count, name, value, f"one value, or one for each of the {count} networks")
    return value
