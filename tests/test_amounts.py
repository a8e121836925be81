"""Amounts with a unit."""

import pytest

from segdistill.config.amounts import BYTES, MILLISECONDS, read_amount

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("10ms", MILLISECONDS, 10.0), ("0.5 s", MILLISECONDS, 500.0), ("250us", MILLISECONDS, 0.25),
        ("8MB", BYTES, 8e6), ("1.5GiB", BYTES, 1.5 * 2**30), (" 200 kB ", BYTES, 2e5),
    ],
)  # fmt: skip
def test_a_number_with_its_unit(text: str, units: dict[str, float], value: float) -> None:
    assert read_amount(text, units, "x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["10", "ms", "10m", "-1ms", "0ms", "1..2ms", "1e999s", "10ms 5ms", ""])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^latency is '.*', but must be a number above 0 with a unit: 10us, 10ms, 10s$"
    ):
        read_amount(text, MILLISECONDS, "latency")
