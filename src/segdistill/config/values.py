"""Checks that settings share: one line that names the setting, its value and what is allowed."""

import math

Scheduled = float | tuple[float, float]
"""A number, or two: linear from the first to the last step."""


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise a `ValueError` that names the setting, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


def largest(value: Scheduled) -> float:
    """The larger end of a number that may change over the steps."""
    return max(value) if isinstance(value, tuple) else value


def is_weight(value: object, *, above: bool = False) -> bool:
    """Whether a `Scheduled` holds one or two finite numbers that are 0 or more, or above 0."""
    ends = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(
        isinstance(end, int | float) and (end > 0 if above else end >= 0) and end < math.inf for end in ends
    )
