"""Amounts that people write with a unit: `10ms`, `8MB`."""

import math
import re
from collections.abc import Mapping

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
"""Units of a latency, in milliseconds."""

TIMES = {"x": 1.0}
"""The unit of a multiple of something."""

BYTES = {"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
"""Units of memory and files, in bytes."""


def read_amount(text: str, units: Mapping[str, float], name: str) -> float:
    """A number with a unit, in the unit whose factor is 1.

    Args:
        text: such as `10ms`; a space before the unit is allowed.
        units: factors by unit.
        name: of the setting, for errors.

    Raises:
        ValueError: it is no number above 0 with one of these units.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]+)\s*", text)
    allowed = f"a number above 0 with a unit: {', '.join(f'10{unit}' for unit in units)}"
    try:
        value = float(found[1]) * units[found[2]] if found else math.nan
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {text!r}, but must be {allowed}")
    return value
