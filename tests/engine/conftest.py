"""What the tests of the engine share: an accelerator on the CPU."""

import pytest
from accelerate import Accelerator

from segdistill.engine.runtime import make_accelerator


@pytest.fixture
def accelerator() -> Accelerator:
    """The CPU in float32; made anew for each test, for a later one may have taken its state away."""
    return make_accelerator("cpu", "fp32")
