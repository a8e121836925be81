"""Graphs that are written: one writer per format, and a form of the student that runtimes are fast at."""

import copy
from typing import get_args

import pytest
import torch

from segdistill.config.deploy import Format
from segdistill.data.labels import LabelSet
from segdistill.exporting.quantize import QUANTIZERS
from segdistill.exporting.writers import WRITERS, trace
from segdistill.models.export_card import ExportCard
from segdistill.models.file_formats import FORMATS
from segdistill.models.fused import fuse_for_runtimes
from segdistill.models.student import DSUNet
from segdistill.models.trained import TrainedNetwork

pytestmark = pytest.mark.integration


def test_every_format_has_a_writer() -> None:
    assert set(WRITERS) == set(FORMATS) == set(get_args(Format))
    assert set(QUANTIZERS) == {name for name, form in FORMATS.items() if "int8" in form.quantize}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (33, 65), (64, 48)])
def test_the_form_for_runtimes_is_the_same_function(student: DSUNet, size: tuple[int, int]) -> None:
    double = copy.deepcopy(student).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for concatenate in (True, False):
            fused = fuse_for_runtimes(double, concatenate=concatenate)
            torch.testing.assert_close(fused(image), double(image))


@pytest.mark.parametrize(
    ("form", "int8", "count"),
    [("openvino", False, 0), ("openvino", True, 3), ("executorch", False, 3)],
)
def test_the_decoder_concatenates_only_where_that_is_faster(
    student: DSUNet, form: str, int8: bool, count: int
) -> None:
    network = TrainedNetwork(student, LabelSet(names=tuple("abcde")), "student")
    program = trace(network, ExportCard(labels=network.labels), form, int8=int8)
    assert sum(node.target is torch.ops.aten.cat.default for node in program.graph.nodes) == count
