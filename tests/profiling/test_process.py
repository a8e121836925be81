"""An object in a process of its own."""

import os
from fractions import Fraction

import pytest

from segdistill.profiling.process import WorkerProcess

pytestmark = pytest.mark.integration


def test_the_object_is_made_there_and_its_methods_are_called_there() -> None:
    with WorkerProcess(Fraction, 1, 2) as process:
        assert process.call("__add__", Fraction(1, 4)) == Fraction(3, 4)
        assert process.pool.submit(os.getpid).result() != os.getpid()


def test_an_error_in_a_process_comes_back() -> None:
    with WorkerProcess(Fraction, "nothing") as process, pytest.raises(ValueError, match="'nothing'"):
        process.call("__abs__")
